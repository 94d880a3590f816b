//! Proxies, an agent and a control plane as the processes that they are, on two machines.
//!
//! A machine is a network namespace, so that one can be cut off. Needs root. Read next: `node/place.rs` (a machine),
//! `node/world.rs` (what runs on it), `node/people.rs` (who asks).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test; the lint's own exception knows `#[test]` only"
)]

#[path = "node/changes.rs"]
mod changes;
#[path = "node/outside.rs"]
mod outside;
#[path = "node/partition.rs"]
mod partition;
#[path = "node/people.rs"]
mod people;
#[path = "node/place.rs"]
mod place;
#[path = "node/replicas.rs"]
mod replicas;
#[path = "node/world.rs"]
mod world;
