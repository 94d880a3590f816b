//! Which events are believed: those that the producer signed.
//!
//! Owns: the checks from bytes to a typed event. Keys come only from the producer's own address
//! over mTLS, so a good signature proves who made the event; `source` must then name the same
//! workload. It must not store anything. Read next: `consumer.rs`.

use ringwall_identity::SpiffeId;
use ringwall_proto::events::{CloudEvent, JWS_TYPE, OrderPlaced, TYPE_ORDER_PLACED};
use ringwall_token::{JwksCache, TokenError, peek_kid, verify_bytes};

/// Largest event that is looked at, in bytes.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Verifies events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Verifier {
    keys: JwksCache,
    producer: SpiffeId,
}

/// Why an event was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unverified {
    /// The event will never be acceptable: it is put aside.
    #[error("{0}")]
    Poison(String),
    /// The keys cannot be had now: the event is tried again.
    #[error("the producer's keys are not available")]
    Later(#[source] TokenError),
}

impl Verifier {
    /// `producer` is the only workload whose events are believed; `keys` are fetched from it.
    pub(crate) fn new(keys: JwksCache, producer: SpiffeId) -> Self {
        Self { keys, producer }
    }

    /// The event in `jws` (RFC 7515 §7.1), if it holds in every respect.
    pub(crate) async fn verify(&self, jws: &str) -> Result<CloudEvent<OrderPlaced>, Unverified> {
        let poison = |error: TokenError| Unverified::Poison(error.to_string());
        let kid = peek_kid(jws).map_err(poison)?;
        let keys = match self.keys.keys_for(&kid).await {
            Ok(keys) => keys,
            Err(error @ TokenError::KeySetUnavailable(_)) => return Err(Unverified::Later(error)),
            Err(error) => return Err(poison(error)),
        };
        let verified = verify_bytes(jws, &keys, JWS_TYPE, MAX_EVENT_BYTES).map_err(poison)?;
        let event: CloudEvent<OrderPlaced> = serde_json::from_slice(&verified.payload)
            .map_err(|error| Unverified::Poison(format!("not an order.placed event: {error}")))?;
        event
            .validate(TYPE_ORDER_PLACED)
            .map_err(|error| Unverified::Poison(error.to_string()))?;
        if event.source != self.producer {
            return Err(Unverified::Poison(
                "the source is not the owner of the key".to_owned(),
            ));
        }
        if event.subject != event.data.order_id.to_string() {
            return Err(Unverified::Poison(
                "the subject is not the order".to_owned(),
            ));
        }
        Ok(event)
    }
}
