//! Contract of orders (microservice A): placing orders, their history, and the topics of the event log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    ids::{Currency, MinorUnits, Name, OrderId},
    lines::{Lines, PricedLine},
};

/// Topic of [`crate::events::OrderPlaced`].
pub const TOPIC_ORDER_PLACED: &str = "order.placed";
/// Longest wait of one poll for events, in seconds.
pub const MAX_WAIT_SECONDS: u64 = 25;
/// Most events of one answer.
pub const MAX_EVENTS: usize = 100;

/// Body of `POST /v1/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    pub lines: Lines,
}

/// Where an order stands. `pending` is written before anything is charged; each of the others is
/// final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    Pending,
    /// Paid; its event is on its way.
    Placed,
    /// Refused by a rule: out of stock, or the payment was declined.
    Declined,
    /// A component was away before money moved; nothing was charged.
    Failed,
}

impl OrderStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Placed => "placed",
            Self::Declined => "declined",
            Self::Failed => "failed",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Placed, Self::Declined, Self::Failed]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// An order as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Order {
    pub id: OrderId,
    pub status: OrderStatus,
    pub lines: Vec<PricedLine>,
    pub total_minor: MinorUnits,
    pub currency: Currency,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub placed_at: OffsetDateTime,
    /// W3C trace id (32 hexadecimal digits) of the request that placed it; absent without telemetry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// Query of `GET /v1/orders`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// 1 to 100, default 20.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Only orders older than this one.
    #[serde(default)]
    pub before: Option<OrderId>,
}

/// Answer of `GET /v1/orders`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    pub orders: Vec<Order>,
    /// Value of `before` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<OrderId>,
}

/// Query of `GET /v1/topics/{topic}/events`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    pub group: Name,
    /// Only events after this offset; 0 from the start. Absent: from the group's cursor.
    #[serde(default)]
    pub after: Option<u64>,
    /// Seconds to wait for the first event, at most 25.
    #[serde(default)]
    pub wait: Option<u64>,
}

/// One event: its place in the topic and its JWS (compact serialisation, RFC 7515 §7.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoggedEvent {
    pub offset: u64,
    pub jws: String,
}

/// Answer of `GET /v1/topics/{topic}/events`, in order of offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    pub events: Vec<LoggedEvent>,
}

/// Body of `POST /v1/topics/{topic}/cursor`: everything up to `offset` is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CursorCommit {
    pub group: Name,
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_round_trips() {
        let all = [
            OrderStatus::Pending,
            OrderStatus::Placed,
            OrderStatus::Declined,
            OrderStatus::Failed,
        ];
        for status in all {
            assert_eq!(OrderStatus::parse(status.as_str()), Some(status));
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(json, format!("\"{}\"", status.as_str()));
        }
        assert_eq!(OrderStatus::parse("paid"), None);
    }

    #[test]
    fn an_order_cannot_name_its_own_price_or_user() {
        let text = r#"{"lines":[{"sku":"A","quantity":1}],"user_sub":"bob"}"#;
        assert!(serde_json::from_str::<PlaceOrder>(text).is_err());
    }
}
