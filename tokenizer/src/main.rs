//! The tokenizer: single-use service source tokens.
//!
//! A source token lets one caller make one request to one audience on behalf of one user. It is
//! issued against the user's access token, lives for at most 30 s, and is spent by its audience.
//! Read next: `app.rs`, then `tokens.rs` (what happens) and `store.rs` (the one statement that
//! makes "once" true).

mod api;
mod app;
mod audit;
mod binding;
mod config;
mod error;
mod introspection;
mod store;
mod tokens;

use std::process::ExitCode;

fn main() -> ExitCode {
    ringwall_service::run::<config::Config, _, _>("tokenizer", app::start)
}
