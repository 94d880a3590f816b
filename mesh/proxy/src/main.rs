//! The service proxy: the mesh's data plane beside a workload, and the egress gateway.
//!
//! Read next: `app.rs` (how it is put together), `worker.rs` (a thread), `inbound.rs` and `outbound.rs` (the two
//! directions), `tunnel.rs` (between proxies).

mod access_log;
mod app;
mod body;
mod config;
mod control;
mod egress;
mod error;
mod inbound;
mod listen;
mod metrics;
mod names;
mod outbound;
mod pipeline;
mod plugins;
mod refusal;
mod reload;
mod resilience;
mod serve;
mod snapshot;
mod tunnel;
mod worker;

#[cfg(test)]
mod tests;

fn main() -> std::process::ExitCode {
    ringwall_service::run::<config::Config, _, _>("proxy", app::start)
}
