//! The edge API gateway and mesh ingress: the only public listener of the platform.
//!
//! Read next: `app.rs` (how it is put together), then `pipeline.rs` (the life of a request).

mod abuse;
mod access_log;
mod app;
mod config;
mod conn;
mod error;
mod limiter;
mod metrics;
mod pipeline;
mod plugins;
mod refusal;
mod reload;
mod snapshot;
mod token_cache;
mod tokens;
mod upstream;
mod user_context;
mod worker;

#[cfg(test)]
mod tests;

fn main() -> std::process::ExitCode {
    ringwall_service::run::<config::Config, _, _>("gateway", app::start)
}
