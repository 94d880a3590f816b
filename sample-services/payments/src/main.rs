//! `ringwall-payments` (Microservice C): captures money, and trusts nobody alone.
//!
//! Owns: the ledger, and the rule that a capture needs three independent credentials. It must not
//! know what was bought. Read next: `clearance.rs` (the rule), then `app.rs`, `api.rs`, `store.rs`.

mod api;
mod app;
mod clearance;
mod config;
mod error;
mod store;

use std::process::ExitCode;

fn main() -> ExitCode {
    ringwall_service::run::<config::Config, _, _>("payments", app::start)
}
