//! HTTP plumbing that every component shares: bounded bodies, the one client, problem details and
//! header hygiene.
//!
//! Owns: the limits on what is sent and read, the connection pool of each upstream, the shape of
//! error answers (RFC 9457), and the lists of header fields that no hop may pass on.
//! Must not: configure TLS (it takes a ready `ClientConfig` from `ringwall-tls`), trace, or know a
//! component. `ringwall-service` adds tracing and identity on top.
//! Read next: [`client`], then [`headers`].

pub mod body;
pub mod client;
pub mod headers;
pub mod problem;

pub use body::{BodyError, BoxBody, BoxError};
pub use client::{Address, Client, ClientError, ClientLimits, JsonResponse, Transport};
pub use problem::Problem;
