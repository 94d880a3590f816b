//! Signed tokens and API keys: the only user of `jsonwebtoken`.
//!
//! Owns: JWS signing and verification under keys that fix their own algorithm ([`SigningKey`],
//! [`VerifyingKeys`], [`verify`]), key rotation ([`KeyRing`]), the key set cache ([`JwksCache`]), the
//! platform's claims ([`claims`]) and API keys ([`api_key`]).
//! Must not: fetch anything by itself, read a clock, or take a decision from an unverified header
//! beyond choosing among keys that are trusted already.
//! Read next: `verify.rs` (one function, read top to bottom), then `signing.rs` and `jwks_cache.rs`.

pub mod api_key;
pub mod claims;
mod error;
mod jwk;
mod jwks_cache;
mod jws;
mod keyring;
mod signing;
mod verify;

#[cfg(test)]
mod corpus;

pub use error::TokenError;
pub use jwk::{Jwk, JwkSet, VerifyingKeys};
pub use jwks_cache::{BoxError, FetchFuture, JwksCache, JwksLimits};
pub use jws::{Algorithm, MAX_TOKEN_BYTES, peek_kid};
pub use keyring::KeyRing;
pub use signing::SigningKey;
pub use verify::{Expectation, VerifiedBytes, verify, verify_bytes};
