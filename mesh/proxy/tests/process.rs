//! The real binary: processes that start, are replaced and go, against a control plane over mutual TLS.
//!
//! Read next: `process/mesh.rs` (authority and control plane), `process/proxies.rs` (processes), `process/app.rs`.

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic; clippy knows test functions, and not their helpers"
)]

#[path = "process/app.rs"]
mod app;
#[path = "process/life.rs"]
mod life;
#[path = "process/mesh.rs"]
mod mesh;
#[path = "process/proxies.rs"]
mod proxies;
#[path = "process/start.rs"]
mod start;
#[path = "process/upgrade.rs"]
mod upgrade;
