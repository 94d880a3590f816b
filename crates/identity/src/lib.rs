//! Names of workloads, and the certificates that carry them.
//!
//! Owns: SPIFFE IDs and trust domains ([`SpiffeId`], [`TrustDomain`]), the reading of an X.509-SVID
//! ([`svid`]) and of any certificate ([`certificate`]), the root that issues them ([`authority`]), the
//! authority below it that does so for others' keys ([`intermediate`], [`csr`]) and the state machine
//! of their renewal ([`rotation`]).
//! Must not: verify chains or open connections (that is `ringwall-tls`), or store keys (that is the
//! caller's, through `ringwall-secret`).
//! Read next: `spiffe_id.rs`, then `svid.rs`, then `authority.rs` and `intermediate.rs`.

pub mod authority;
pub mod certificate;
pub mod csr;
mod error;
pub mod intermediate;
mod issue;
pub mod leaf;
pub mod rotation;
mod spiffe_id;
pub mod svid;

pub use certificate::Serial;
pub use error::IdentityError;
pub use intermediate::Intermediate;
pub use issue::BACKDATE;
pub use rotation::Rotation;
pub use spiffe_id::{SpiffeId, TrustDomain};
