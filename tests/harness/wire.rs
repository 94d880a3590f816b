//! A capture of everything that this machine's interfaces carry, those of containers too, and a count of what must not be there.
//!
//! Owns: the packet socket and its reader. Must not: judge the count.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

/// Between two looks at whether it is over.
const LOOK: Duration = Duration::from_millis(20);
/// Room for a burst, in bytes.
const ROOM: usize = 16 << 20;

/// A capture that runs.
pub struct Capture {
    over: Arc<AtomicBool>,
    reader: JoinHandle<Result<Seen>>,
}

/// What has come by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    pub frames: usize,
    /// Those in which the text stood.
    pub with_text: usize,
}

impl Capture {
    /// Begins to look for `text` on all interfaces.
    pub fn begin(text: &'static str) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let frames = socket(
            AddressFamily::Packet,
            SockType::Raw,
            flags,
            SockProtocol::EthAll,
        )
        .context("no packet socket: a capture needs CAP_NET_RAW, run the scenarios as root")?;
        setsockopt(&frames, sockopt::RcvBuf, &ROOM)?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let reader = std::thread::spawn(move || {
            let mut seen = Seen::default();
            let mut frame = vec![0; 1 << 16];
            loop {
                match recv(frames.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                    Ok(length) => {
                        seen.frames += 1;
                        let frame = frame.get(..length).unwrap_or_default();
                        let found = frame
                            .windows(text.len())
                            .any(|part| part == text.as_bytes());
                        seen.with_text += usize::from(found);
                    }
                    // What was sent before the end has been read.
                    Err(Errno::EAGAIN) if ended.load(Ordering::Relaxed) => return Ok(seen),
                    Err(Errno::EAGAIN) => std::thread::sleep(LOOK),
                    // An interface that went down meanwhile.
                    Err(Errno::ENETDOWN | Errno::EINTR) => {}
                    Err(error) => return Err(error).context("capturing"),
                }
            }
        });
        Ok(Self { over, reader })
    }

    pub fn end(self) -> Result<Seen> {
        self.over.store(true, Ordering::Relaxed);
        self.reader
            .join()
            .map_err(|_panic| anyhow!("the reader has panicked"))?
    }
}
