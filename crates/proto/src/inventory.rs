//! Contract of inventory (microservice B): the catalogue and reservations of stock.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Currency, Label, MinorUnits, OrderId, Sku, Text},
    lines::{Lines, PricedLine},
};

/// API key scope for `GET /v1/items`.
pub const SCOPE_ITEMS_READ: &str = "items:read";
/// API key scope for reservations.
pub const SCOPE_STOCK_RESERVE: &str = "stock:reserve";

/// One item of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    pub sku: Sku,
    pub name: Label,
    pub description: Text,
    pub price_minor: MinorUnits,
    pub currency: Currency,
    /// Pieces that can still be reserved.
    pub available: u32,
}

/// Body of `POST /v1/reservations`; idempotent by `order_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReservationRequest {
    pub order_id: OrderId,
    pub lines: Lines,
}

/// Answer `201` (and the same again for the same request): stock is held at these prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reservation {
    pub order_id: OrderId,
    pub lines: Vec<PricedLine>,
    pub total_minor: MinorUnits,
    pub currency: Currency,
}
