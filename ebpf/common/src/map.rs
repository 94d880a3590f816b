//! Keys and values of the maps. A change of a layout here changes `MAPS_VERSION`.
//!
//! Keys hold no implicit padding: the kernel compares all of their bytes.

use crate::address::{Address, Endpoint};

/// What a control group is to the mesh.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Speaks through its proxy alone.
    App = 1,
    /// Speaks for its application.
    Proxy = 2,
}

/// `WORKLOADS`: by the id of a control group.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub id: u32,
    /// A `Role`.
    pub role: u8,
    pub flags: u8,
    pub padding: u16,
    pub capture_4: Endpoint,
    pub capture_6: Endpoint,
    pub dns_4: Endpoint,
    pub dns_6: Endpoint,
}

impl Workload {
    /// A bind to an address that others reach becomes one to loopback; without the flag it is refused.
    pub const NARROW: u8 = 1;
    /// Destinations that are no service go to the proxy too, which decides.
    pub const EGRESS: u8 = 2;

    #[inline(always)]
    #[must_use]
    pub const fn is_app(&self) -> bool {
        // What is no proxy is treated as an application: less may pass.
        self.role != Role::Proxy as u8
    }

    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// `SERVICES`: where a service listens.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Folded: both loopbacks are one.
    pub address: Address,
    pub port: u32,
}

/// `EDGES`: who may call whom.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeKey {
    pub workload: u32,
    pub service: u32,
}

/// `DIRECT`: where a workload may go past the capture.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectKey {
    pub workload: u32,
    pub address: Address,
    pub port: u16,
    pub protocol: u16,
}

/// `PORTS`: where a workload may listen, and where its proxy dials it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    pub workload: u32,
    pub port: u16,
    pub protocol: u16,
}

/// A connection from its client's end, in its own network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Cookie of the network namespace.
    pub network: u64,
    pub client: Address,
    pub server: Address,
    pub client_port: u16,
    pub server_port: u16,
    /// 0, but in `SOCKETS`: there it is the end that the socket is, `CLIENT` or `SERVER`.
    pub end: u32,
}

impl FlowKey {
    pub const CLIENT: u32 = 0;
    pub const SERVER: u32 = 1;

    /// The key of the other end's socket.
    #[inline(always)]
    #[must_use]
    pub const fn other_end(self) -> Self {
        Self {
            end: 1 - self.end,
            ..self
        }
    }
}

/// `ACCELERATION`: whether bytes go from socket to socket, past the packets of loopback.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// 0: off. Another number than a connection began with: that one goes by packets from now on, which are judged.
    pub epoch: u64,
    /// Nanoseconds since the machine started, after which it is off: nobody watches it any more.
    pub until: u64,
}

impl Switch {
    /// The epoch that holds now; 0 where it is off.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self, now: u64) -> u64 {
        if now < self.until { self.epoch } else { 0 }
    }
}

/// Storage of a socket whose bytes go to the other end's queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    /// In which it began, never 0.
    pub epoch: u64,
    /// Bytes that have gone so: TCP has not counted them.
    pub sent: u64,
    pub peer: FlowKey,
    /// A byte has gone by packets: all that follow do, or they would overtake it.
    pub packets: u32,
    pub padding: u32,
}

/// `STEERED`: a port of a network namespace that belongs to its proxy; `STEERS`: the proxy's listener for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SteerKey {
    /// Which namespace, as the loader numbers them: a program there is loaded with its number.
    pub network: u32,
    pub port: u16,
    /// 4 or 6 in `STEERS`, 0 in `STEERED`.
    pub family: u16,
}

/// `FLOWS`: a captured connection between its SYN and its acceptance.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub workload: u32,
    pub service: u32,
    pub original: Endpoint,
}

/// What a socket was let through as.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The application's end of a captured connection.
    Captured = 1,
    /// The application's, to a declared address.
    Direct = 2,
    /// The application's end of what its proxy has dialled.
    Inbound = 3,
    /// The proxy's end of a captured connection.
    Accepted = 4,
    /// The proxy's end of what it has dialled at its application.
    Dialled = 5,
    /// A datagram socket whose queries go to the proxy's name server.
    Names = 6,
}

/// Storage of a socket: written when a hook lets it through, gone with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub workload: u32,
    /// 0 where the destination is no known service.
    pub service: u32,
    /// A `Kind`.
    pub kind: u8,
    /// The table has the flow: only then may a packet leave.
    pub mapped: u8,
    pub padding: u16,
    /// What the application has asked for.
    pub original: Endpoint,
}

/// `TRAFFIC`: sums of ended connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrafficKey {
    pub workload: u32,
    pub service: u32,
    /// A `Kind`: `Captured`, `Direct` or `Inbound`.
    pub kind: u32,
}

/// Sums of ended connections; of one CPU in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub connections: u64,
    /// As TCP numbers them: SYN and FIN count as one each.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Sum of the smoothed round-trip times at the end of each connection, in microseconds.
    pub rtt_sum_us: u64,
    pub rtt_max_us: u64,
}

/// `RATES`: events of a workload in the running second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// Second since the machine started.
    pub second: u64,
    pub events: u64,
}

impl Rate {
    /// Events of one workload in a second; more are counted only.
    pub const LIMIT: u64 = 200;
}

const _: () = {
    assert!(size_of::<Workload>() == 88);
    assert!(size_of::<ServiceKey>() == 20);
    assert!(size_of::<EdgeKey>() == 8);
    assert!(size_of::<DirectKey>() == 24);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<FlowKey>() == 48);
    assert!(size_of::<Flow>() == 28);
    assert!(size_of::<Connection>() == 32);
    assert!(size_of::<TrafficKey>() == 12);
    assert!(size_of::<Traffic>() == 40);
    assert!(size_of::<Rate>() == 16);
    assert!(size_of::<Switch>() == 16);
    assert!(size_of::<Splice>() == 72);
    assert!(size_of::<SteerKey>() == 8);
};
