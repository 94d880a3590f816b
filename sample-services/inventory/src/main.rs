//! `ringwall-inventory` (Microservice B): the catalogue and its stock.
//!
//! Owns: what can be bought, at what price, and how many are left. It must not know who the user
//! is or how an order is paid. Read next: `app.rs` (what is wired to what), then `api.rs`.

mod api;
mod app;
mod catalogue;
mod config;
mod error;
mod store;

use std::process::ExitCode;

fn main() -> ExitCode {
    ringwall_service::run::<config::Config, _, _>("inventory", app::start)
}
