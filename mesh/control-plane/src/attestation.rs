//! How a node becomes a node of this mesh: a single-use join token for its first SVID.
//!
//! Owns: `Attestation.Join` and the listener that serves it alone.
//! Must not: tell a stranger why a token was refused, or hold a token's text anywhere.
//! Read next: `attestation/api.rs` (the order of a join), `attestation/tokens.rs` (once means once),
//! `attestation/bootstrap.rs` (the listener), `attestation/limit.rs`.

pub(crate) mod api;
pub(crate) mod bootstrap;
pub(crate) mod limit;
pub(crate) mod tokens;
