//! The control plane of the mesh: who exists, who they are, and who may speak to whom.
//!
//! It certifies nodes and workloads, tells agents and proxies what they must know, and keeps the
//! record of it all. Proxies and agents work on from their last good state while it is away.
//! Read next: `app.rs` (what is wired to what), `authority.rs` (what is certified),
//! `attestation.rs` (how nodes join).

mod app;
mod attestation;
mod authority;
mod config;
mod discovery;
mod error;
mod leader;
mod policy;
mod random;
mod registry;
mod store;

#[cfg(test)]
mod flows;
#[cfg(test)]
mod testing;

use std::process::ExitCode;
use std::sync::Arc;

use time::OffsetDateTime;

/// The wall clock, as a parameter.
pub(crate) type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

fn main() -> ExitCode {
    ringwall_service::run_with_identity::<config::Config, _, _, _, _, _>(
        "control-plane",
        app::identify,
        app::start,
    )
}
