//! Messages between services: CloudEvents 1.0 in structured JSON, carried as the payload of a JWS.
//!
//! Owns: the envelope and the data of each event type. Must not: sign or verify; `ringwall_token`
//! does that. The consumer compares `source` with the owner of the key that signed.

use ringwall_identity::SpiffeId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    error::ProtoError,
    ids::{Currency, EventId, MinorUnits, OrderId, Subject},
    lines::PricedLine,
};

/// JOSE `typ` of a signed event.
pub const JWS_TYPE: &str = "cloudevent+jws";
/// `type` of [`OrderPlaced`].
pub const TYPE_ORDER_PLACED: &str = "local.ringwall.order.placed.v1";

const SPEC_VERSION: &str = "1.0";
const CONTENT_TYPE: &str = "application/json";

/// A CloudEvents 1.0 event with data of type `T` (specification §3; distributed tracing extension).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent<T> {
    pub specversion: String,
    pub id: EventId,
    /// Workload that produced the event; must own the signing key.
    #[schemars(with = "String")]
    pub source: SpiffeId,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub time: OffsetDateTime,
    pub datacontenttype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    pub data: T,
}

/// Data of [`TYPE_ORDER_PLACED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderPlaced {
    pub order_id: OrderId,
    pub user_sub: Subject,
    pub total_minor: MinorUnits,
    pub currency: Currency,
    pub lines: Vec<PricedLine>,
}

impl<T> CloudEvent<T> {
    /// The fixed attributes must have their fixed values and `kind` must be `expected_kind`.
    pub fn validate(&self, expected_kind: &'static str) -> Result<(), ProtoError> {
        let checks = [
            (self.specversion.as_str(), SPEC_VERSION, "specversion"),
            (
                self.datacontenttype.as_str(),
                CONTENT_TYPE,
                "datacontenttype",
            ),
            (self.kind.as_str(), expected_kind, "type"),
        ];
        for (seen, expected, attribute) in checks {
            if seen != expected {
                return Err(ProtoError::Event {
                    attribute,
                    expected,
                });
            }
        }
        Ok(())
    }
}

impl CloudEvent<OrderPlaced> {
    /// The event of a placed order; its subject is the order's id.
    pub fn order_placed(
        id: EventId,
        source: SpiffeId,
        time: OffsetDateTime,
        traceparent: Option<String>,
        data: OrderPlaced,
    ) -> Self {
        Self {
            specversion: SPEC_VERSION.into(),
            id,
            source,
            kind: TYPE_ORDER_PLACED.into(),
            subject: data.order_id.to_string(),
            time,
            datacontenttype: CONTENT_TYPE.into(),
            traceparent,
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn event() -> CloudEvent<OrderPlaced> {
        CloudEvent::order_placed(
            EventId(Uuid::now_v7()),
            SpiffeId::parse("spiffe://ringwall.local/orders").unwrap(),
            OffsetDateTime::UNIX_EPOCH,
            None,
            OrderPlaced {
                order_id: OrderId::generate(),
                user_sub: Subject::parse("alice").unwrap(),
                total_minor: MinorUnits::new(100).unwrap(),
                currency: Currency::EUR,
                lines: vec![],
            },
        )
    }

    #[test]
    fn an_event_round_trips() {
        let event = event();
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.contains(r#""type":"local.ringwall.order.placed.v1""#));
        let back: CloudEvent<OrderPlaced> = serde_json::from_str(&json).unwrap();
        assert_eq!(back, event);
        assert!(back.validate(TYPE_ORDER_PLACED).is_ok());
    }

    #[test]
    fn another_type_or_version_is_refused() {
        let mut wrong = event();
        wrong.specversion = "0.3".into();
        assert!(wrong.validate(TYPE_ORDER_PLACED).is_err());
        assert!(
            event()
                .validate("local.ringwall.order.cancelled.v1")
                .is_err()
        );
    }
}
