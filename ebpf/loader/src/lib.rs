//! Brings the kernel programs to work: loads, attaches and pins them, and keeps their maps in step with the policy.
//!
//! Owns: everything that speaks to the kernel about eBPF; it is the only user of aya. Must not: decide (that is
//! `ringwall_ebpf_common::decide`), nor know where services or edges come from.
//! What is pinned goes on without this process: the policy that was in the maps holds, and nothing more is let through.
//! Read next: `kernel.rs` (the mesh), `shield.rs` (the edge), then docs/ebpf.md.

pub mod acceleration;
mod bpffs;
mod cgroup;
mod counters;
mod enrolment;
mod error;
mod events;
mod kernel;
mod maps;
mod names;
mod policy;
mod programs;
mod shield;
mod steering;
mod sys;
mod tier;

pub use acceleration::Acceleration;
pub use counters::{Counters, Pressure, TrafficRow};
pub use enrolment::{Bind, Enrolment, Listener};
pub use error::{Error, Result};
pub use events::{Events, Refused};
pub use kernel::{Attach, Kernel, Options, Slice, Way};
pub use names::id_of;
pub use programs::{ACCELERATION, CAPTURE, ENFORCEMENT};
pub use ringwall_ebpf_common::shield::{Cause, Count};
pub use ringwall_ebpf_common::{Hook, Prefix, PrefixError, Reason, Role};
pub use shield::{
    Added, Attached, ConnectionRate, Denied, Fill, Guard, List, Mode, SHIELD, Shield,
    ShieldOptions, Swept, Talker, Want,
};
pub use steering::Steering;
pub use tier::Tier;
