//! Discovery: what each proxy must know, pushed to it (R28, R31).
//!
//! Owns: the registered endpoints, the view of each workload, the configuration streams with their ACKs and NACKs.
//! Must not: decide who may connect to whom; the active policy bundle says it, and `policy.rs` hands it over.
//! Read next: `discovery/stream.rs` (who is let in, and what a stream does), then the parts without I/O and clock:
//! `session.rs` (what is sent when), `world.rs` (views and revisions), `endpoints.rs` (health and leases).

mod direct;
mod endpoints;
mod hub;
mod metrics;
mod reach;
mod session;
mod stream;
mod world;

pub(crate) use hub::{Hub, ProxyState, UsageSink};
pub(crate) use stream::Discovery;
pub(crate) use world::RegisteredService;

#[cfg(test)]
mod tests;
