//! What the kernel tells about a refusal.

use crate::address::Endpoint;

/// Which hook refused. Bytes in events.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    Connect = 1,
    SendMsg = 2,
    Bind = 3,
    Create = 4,
    Egress = 5,
    Ingress = 6,
}

impl Hook {
    /// From a byte that the kernel wrote.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Connect,
            2 => Self::SendMsg,
            3 => Self::Bind,
            4 => Self::Create,
            5 => Self::Egress,
            6 => Self::Ingress,
            _ => return None,
        })
    }

    /// The word in events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::SendMsg => "sendmsg",
            Self::Bind => "bind",
            Self::Create => "create",
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// One refusal, as it stands in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Nanoseconds since the machine started, without the time it was suspended.
    pub time: u64,
    pub cgroup: u64,
    pub workload: u32,
    pub service: u32,
    /// 0 where a packet was refused: it has no process.
    pub pid: u32,
    pub reason: u8,
    pub hook: u8,
    pub protocol: u8,
    pub padding: u8,
    /// Of a packet that came in: its source.
    pub destination: Endpoint,
    pub command: [u8; 16],
    pub padding_2: u32,
}

impl Event {
    /// Bytes in the buffer.
    pub const SIZE: usize = 72;
}

const _: () = assert!(size_of::<Event>() == Event::SIZE);
