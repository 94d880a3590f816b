//! `ringwall-notifications`: tells a user that an order was confirmed.
//!
//! Owns: the consumption of `order.placed` events and what users see of them. It must not believe
//! an event that it cannot verify. Read next: `consumer.rs` (events in), `api.rs` and `live.rs`
//! (notifications out).

mod api;
mod app;
mod config;
mod consumer;
mod error;
mod live;
mod metrics;
mod store;
#[cfg(test)]
mod testing;
mod verifier;

use std::process::ExitCode;

fn main() -> ExitCode {
    ringwall_service::run::<config::Config, _, _>("notifications", app::start)
}
