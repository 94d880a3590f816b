//! Contract of notifications: what a signed-in user is told, as a list and as a stream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::{Currency, EventId, MinorUnits, OrderId};

/// `event:` name of the stream, and [`Notification::kind`].
pub const EVENT_ORDER_CONFIRMED: &str = "order.confirmed";

/// One notification. Its `sequence` is the stream's `id:`, so a client resumes by `Last-Event-ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notification {
    pub sequence: u64,
    pub event_id: EventId,
    pub kind: String,
    pub order_id: OrderId,
    pub total_minor: MinorUnits,
    pub currency: Currency,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub created_at: OffsetDateTime,
    /// W3C trace id of the order, when it was traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// Answer of `GET /v1/notifications`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotificationList {
    pub notifications: Vec<Notification>,
}
