//! Names of workloads, and the certificates that carry them.
//!
//! Owns: SPIFFE IDs and trust domains ([`SpiffeId`], [`TrustDomain`]), the reading of an X.509-SVID
//! ([`svid`]), the certificate authority that issues them ([`authority`]) and the state machine of
//! their renewal ([`rotation`]).
//! Must not: verify chains or open connections (that is `ringwall-tls`), or store keys (that is the
//! caller's, through `ringwall-secret`).
//! Read next: `spiffe_id.rs`, then `svid.rs`, then `authority.rs`.

pub mod authority;
mod error;
pub mod rotation;
mod spiffe_id;
pub mod svid;

pub use error::IdentityError;
pub use rotation::Rotation;
pub use spiffe_id::{SpiffeId, TrustDomain};
