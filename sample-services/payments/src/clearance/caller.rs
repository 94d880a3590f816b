//! First credential: the API key, bound to the mTLS identity of the caller.
//!
//! It must not accept a key alone: a stolen key is useless from another workload. Read next:
//! `access_token.rs`.

use http::request::Parts;
use ringwall_identity::SpiffeId;
use ringwall_service::api_keys::ApiKeys;

use crate::error::PaymentError;

/// Evidence that the caller presented its own API key.
#[must_use]
#[derive(Debug)]
pub(crate) struct KnownCaller(SpiffeId);

impl KnownCaller {
    pub(super) fn prove(keys: &ApiKeys, parts: &Parts, scope: &str) -> Result<Self, PaymentError> {
        Ok(Self(keys.check(parts, scope)?))
    }

    pub(super) fn spiffe_id(&self) -> &SpiffeId {
        &self.0
    }
}
