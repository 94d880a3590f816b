//! Refusals as they happen.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use ringwall_ebpf_common::{Endpoint, Event, Hook, Reason};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::names::Names;

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Since the machine started, without the time it was suspended (CLOCK_MONOTONIC).
    pub since_boot: Duration,
    pub reason: Reason,
    pub hook: Hook,
    /// None where the group is not enrolled, or its name was given by an earlier agent.
    pub workload: Option<String>,
    /// The service that it was about.
    pub service: Option<String>,
    /// Number of the control group below the slice.
    pub cgroup: u64,
    /// The process that asked; none for a packet.
    pub process: Option<(u32, String)>,
    /// `IPPROTO_…`.
    pub protocol: u8,
    /// Where it was to go; of a packet that came in, where it came from. None for a socket that was not made.
    pub destination: Option<SocketAddr>,
}

/// The stream of refusals. One reader at a time: two would share them out.
pub struct Events {
    buffer: AsyncFd<RingBuf<MapData>>,
    names: Names,
}

impl Events {
    /// Needs a tokio runtime with I/O.
    pub(crate) fn new(buffer: RingBuf<MapData>, names: Names) -> Result<Self> {
        // SAFETY: the buffer owns its map, whose descriptor stays the same and open for as long as the `AsyncFd` has it.
        let buffer = unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) };
        let buffer = buffer.map_err(|error| Error::Events(error.into()))?;
        Ok(Self { buffer, names })
    }

    /// The next one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Refused> {
        loop {
            let mut guard = self.buffer.readable_mut().await.map_err(Error::Events)?;
            let buffer = guard.get_inner_mut();
            while let Some(bytes) = buffer.next() {
                if let Some(event) = read(&bytes) {
                    return Ok(refused(&event, &self.names));
                }
            }
            guard.clear_ready();
        }
    }
}

/// The bytes as an event; none where they are of another length.
fn read(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != Event::SIZE {
        return None;
    }
    // SAFETY: an `Event` is made of integers, thus any bytes are one; as many are there as it has, and they need not be
    // aligned.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

fn refused(event: &Event, names: &Names) -> Refused {
    let command = event.command.split(|byte| *byte == 0).next();
    let command = String::from_utf8_lossy(command.unwrap_or_default()).into_owned();
    Refused {
        since_boot: Duration::from_nanos(event.time),
        // What an older program has written about, and this one does not know, is a refusal all the same.
        reason: Reason::from_byte(event.reason).unwrap_or(Reason::Malformed),
        hook: Hook::from_byte(event.hook).unwrap_or(Hook::Egress),
        workload: names.name(event.workload),
        service: names.name(event.service),
        cgroup: event.cgroup,
        process: (event.pid != 0).then_some((event.pid, command)),
        protocol: event.protocol,
        destination: (event.destination != Endpoint::NONE).then(|| event.destination.into()),
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
