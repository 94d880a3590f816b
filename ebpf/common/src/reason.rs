//! Why something passed or was stopped. Each reason has a counter of its own in the kernel.

/// Why. The discriminants are indices of the counters.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Allowed, nothing to say.
    Allowed = 0,
    /// The process is below the slice, but its control group is no enrolled one.
    NotEnrolled = 1,
    /// The service is known and the policy has no edge to it.
    NoEdge = 2,
    /// No service has this address, and the workload's egress is not its proxy's to decide.
    UnknownDestination = 3,
    /// The destination would be captured, and there is no listener of that family to capture it to.
    NoProxy = 4,
    /// UDP to where it was not declared.
    UdpNotDeclared = 5,
    /// Neither TCP nor UDP.
    Protocol = 6,
    /// Bind to an address that others reach.
    PublicBind = 7,
    /// Bind to a port that was not declared.
    PortNotDeclared = 8,
    /// A packet of a socket that no hook has let through: opened before enrolment, or capture is detached.
    NoConnection = 9,
    /// A packet of a captured connection that does not go to, or come from, the capture listener.
    NotThePeer = 10,
    /// The edge of an established connection was taken away.
    EdgeRemoved = 11,
    /// The table of flows was full when the connection began.
    TableFull = 12,
    /// A packet that cannot be read as TCP or UDP over IP.
    Malformed = 13,
    /// Somebody else than its own proxy dials an application.
    NotItsProxy = 14,
    /// An event was not written: the buffer was full.
    EventLost = 15,
    /// An event was not written: the workload had too many in this second.
    EventSuppressed = 16,
}

impl Reason {
    /// How many counters there are.
    pub const COUNT: u32 = 17;

    /// All of them, in the order of the counters.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Allowed,
        Self::NotEnrolled,
        Self::NoEdge,
        Self::UnknownDestination,
        Self::NoProxy,
        Self::UdpNotDeclared,
        Self::Protocol,
        Self::PublicBind,
        Self::PortNotDeclared,
        Self::NoConnection,
        Self::NotThePeer,
        Self::EdgeRemoved,
        Self::TableFull,
        Self::Malformed,
        Self::NotItsProxy,
        Self::EventLost,
        Self::EventSuppressed,
    ];

    /// From a byte that the kernel wrote.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The word in events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NotEnrolled => "not-enrolled",
            Self::NoEdge => "no-edge",
            Self::UnknownDestination => "unknown-destination",
            Self::NoProxy => "no-proxy",
            Self::UdpNotDeclared => "udp-not-declared",
            Self::Protocol => "protocol",
            Self::PublicBind => "public-bind",
            Self::PortNotDeclared => "port-not-declared",
            Self::NoConnection => "no-connection",
            Self::NotThePeer => "not-the-peer",
            Self::EdgeRemoved => "edge-removed",
            Self::TableFull => "table-full",
            Self::Malformed => "malformed",
            Self::NotItsProxy => "not-its-proxy",
            Self::EventLost => "event-lost",
            Self::EventSuppressed => "event-suppressed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::from_byte(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_byte(17), None);
    }
}
