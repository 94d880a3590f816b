//! The shell of every component: everything that is the same in all of them.
//!
//! Owns: command line, configuration, logs, traces, metrics, health, the mesh and admin listeners
//! with their limits, the traced upstreams, and the drain at the end. A component's `main.rs` is one
//! call of [`run`]; its `app.rs` turns a [`Shell`] and its own configuration into an [`App`].
//! Must not: know any one component, or configure TLS (`ringwall-tls` does).
//! Read next: `run.rs` for the life of a process, then `server.rs` for the life of a connection.

pub mod api_keys;
pub mod config;
pub mod extract;
pub mod grpc;
pub mod telemetry;
pub mod user_context;

mod admin;
mod app;
mod cli;
mod error;
#[cfg(test)]
mod fixture;
mod health;
mod listen;
mod logs;
mod loopback;
mod metrics;
mod middleware;
mod peer;
mod run;
mod serve;
mod server;
mod shell;
mod upstream;

pub use app::App;
pub use cli::Cli;
pub use config::{ComponentConfig, ConfigError, IdentityFrom, Profile, Refusal, ServiceConfig};
pub use error::{StartError, exit};
pub use health::Health;
pub use listen::bind;
pub use metrics::Metrics;
pub use peer::Peer;
pub use ringwall_http_io::{Problem, Transport};
pub use run::{Seed, run, run_with_identity};
pub use serve::serve;
pub use shell::Shell;
pub use upstream::Upstream;
pub use user_context::{User, UserContextVerifier};
