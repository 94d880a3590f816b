//! The client side of the SPIFFE Workload API: this process's identity from a unix socket.
//!
//! Owns: the connection, its repetition, and the reading of what the API delivers ([`identity`],
//! [`jwt_bundle`]). What was delivered last stays in use while the agent is away.
//! Must not: decide who is believed (`ringwall-tls` does) or write anything to disk.
//! Read next: `follow.rs` (the stream that never ends), then `source.rs`.

mod der;
mod error;
mod follow;
mod jwt;
mod source;

#[cfg(test)]
mod fixture;

pub use der::split;
pub use error::WorkloadApiError;
pub use follow::channel;
pub use jwt::jwt_bundle;
pub use source::identity;
