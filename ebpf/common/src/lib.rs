//! What the kernel programs and their loader agree on: keys and values of maps, events, and the decisions themselves.
//!
//! Owns: every layout that crosses the border between the two, and `decide`, which is compiled twice: into the
//! programs, and into whatever decides the same question in user space. Must not: allocate, do I/O, or know aya.
//! Read next: `decide.rs`.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod decide;
pub mod event;
pub mod map;
pub mod prefix;
pub mod reason;
pub mod shield;

pub use address::{Address, Endpoint};
pub use decide::{Action, Policy, Verdict};
pub use event::{Event, Hook};
pub use map::{
    Connection, DirectKey, EdgeKey, Flow, FlowKey, Kind, PortKey, Rate, Role, ServiceKey, Splice,
    SteerKey, Switch, Traffic, TrafficKey, Workload,
};
pub use prefix::{Prefix, PrefixError};
pub use reason::Reason;

/// Changes with every layout in `map.rs`: maps of another version are never taken over.
pub const MAPS_VERSION: u32 = 1;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;
/// The port of name servers.
pub const DNS_PORT: u16 = 53;
