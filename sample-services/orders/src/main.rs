//! `ringwall-orders` (Microservice A): takes an order from a signed-in user to its payment.
//!
//! Owns: orders and their history, the outbox, and the `order.placed` topic. It must not know
//! prices, stock or cards: those belong to inventory and payments. Read next: `place_order.rs`
//! (the main job, top to bottom), then `app.rs`.

mod api;
mod app;
mod config;
mod credentials;
mod draft;
mod error;
mod event_key;
mod events;
mod inventory;
mod metrics;
mod payments;
mod place_order;
mod recovery;
mod relay;
mod store;
#[cfg(test)]
mod testing;
mod topics;

use std::process::ExitCode;

fn main() -> ExitCode {
    ringwall_service::run::<config::Config, _, _>("orders", app::start)
}
