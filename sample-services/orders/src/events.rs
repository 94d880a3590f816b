//! The messages of this service: CloudEvents, signed.
//!
//! Owns: what an `order.placed` event says and the signature on it. It must not deliver anything.
//! Read next: `relay.rs`.

use std::sync::Arc;

use ringwall_identity::SpiffeId;
use ringwall_proto::events::{CloudEvent, JWS_TYPE, OrderPlaced};
use ringwall_token::{JwkSet, SigningKey};
use time::OffsetDateTime;

use crate::error::OrderError;
use crate::store::OutboxEntry;

/// Makes signed events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    key: Arc<SigningKey>,
    source: SpiffeId,
}

impl Events {
    /// `source` is our own identity: consumers accept an event only from the owner of its key.
    pub(crate) fn new(key: SigningKey, source: SpiffeId) -> Self {
        Self {
            key: Arc::new(key),
            source,
        }
    }

    /// The public half, for consumers.
    pub(crate) fn public_keys(&self) -> JwkSet {
        JwkSet {
            keys: vec![self.key.public_jwk()],
        }
    }

    /// The event of an outbox entry as a compact JWS (RFC 7515 §7.1). `traceparent` is the span
    /// that sends it, so that the consumer's work hangs below it.
    pub(crate) fn order_placed(
        &self,
        entry: &OutboxEntry,
        traceparent: Option<String>,
        now: OffsetDateTime,
    ) -> Result<String, OrderError> {
        let data = OrderPlaced {
            order_id: entry.order.id,
            user_sub: entry.user.clone(),
            total_minor: entry.order.total_minor,
            currency: entry.order.currency,
            lines: entry.order.lines.clone(),
        };
        let event =
            CloudEvent::order_placed(entry.event_id, self.source.clone(), now, traceparent, data);
        self.key.sign(JWS_TYPE, &event).map_err(OrderError::Sign)
    }
}
