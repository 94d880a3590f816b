//! The agent: one per node. It gives every workload of its node an identity, and nobody else.
//!
//! It joins the control plane by a token, keeps the node's own SVID, learns which workloads may run
//! here, and serves them the SPIFFE Workload API and Envoy's secret discovery over a unix socket.
//! Read next: `app.rs`, then `attest.rs` (who is calling), `renewal.rs` (how certificates are kept
//! fresh) and `api.rs` (what callers get).

mod api;
mod app;
mod attest;
mod clock;
mod config;
mod deliver;
mod error;
mod jwt;
mod kernel;
mod metrics;
mod own;
mod pem;
mod plane;
mod privileges;
mod renewal;
mod shield;
mod trust;
mod workloads;

#[cfg(test)]
mod fixture;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(done) = kernel::errand(&words) {
        return done;
    }
    ringwall_service::run_with_identity::<config::Config, _, _, _, _, _>(
        "agent",
        own::identify,
        app::start,
    )
}
