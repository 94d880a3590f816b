//! The gateway as a whole: real sockets, real TLS, real keys, mock upstreams.
//!
//! Read first: `tests/harness.rs` (what is started), `tests/upstreams.rs` (who answers).

mod auth;
mod edge;
mod harness;
mod lifecycle;
mod plugins;
mod smuggling;
mod streaming;
mod trust;
mod upstreams;
