//! From rows to values: every column is checked once, here.
//!
//! It must not query. Read next: `../store.rs`.

use ringwall_proto::ids::{Currency, EventId, MinorUnits, OrderId, Subject};
use ringwall_proto::lines::PricedLine;
use ringwall_proto::orders::{Order, OrderStatus};
use ringwall_store::postgres::tokio_postgres::Row;
use ringwall_store::postgres::tokio_postgres::types::Json;
use uuid::Uuid;

use super::OutboxEntry;
use crate::error::OrderError;

/// The columns that [`order_from`] reads.
pub(super) const ORDER_COLUMNS: &str = "orders.id, orders.status, orders.lines, \
     orders.total_minor, orders.currency, orders.created_at, orders.trace_id";

pub(super) fn order_from(row: &Row) -> Result<Order, OrderError> {
    let id: Uuid = row.try_get("id")?;
    let status: String = row.try_get("status")?;
    let currency: String = row.try_get("currency")?;
    let lines: Json<Vec<PricedLine>> = row.try_get("lines")?;
    let id = OrderId::from_uuid(id).map_err(|_| OrderError::BrokenRow("id"))?;
    Ok(Order {
        id,
        status: OrderStatus::parse(&status).ok_or(OrderError::BrokenOrder(id))?,
        lines: lines.0,
        total_minor: MinorUnits::new(row.try_get("total_minor")?)
            .map_err(|_| OrderError::BrokenOrder(id))?,
        currency: Currency::parse(&currency).map_err(|_| OrderError::BrokenOrder(id))?,
        placed_at: row.try_get("created_at")?,
        trace_id: row.try_get("trace_id")?,
    })
}

pub(super) fn outbox_entry_from(row: &Row) -> Result<OutboxEntry, OrderError> {
    let user: String = row.try_get("user_sub")?;
    Ok(OutboxEntry {
        event_id: EventId(row.try_get("event_id")?),
        topic: row.try_get("topic")?,
        user: Subject::parse(user).map_err(|_| OrderError::BrokenRow("user_sub"))?,
        order: order_from(row)?,
        traceparent: row.try_get("traceparent")?,
    })
}
