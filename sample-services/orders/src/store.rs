//! All SQL of orders: the orders themselves and the outbox of their events, in PostgreSQL.
//!
//! Owns: the invariants that a user's idempotency key names one order, that an order leaves
//! `pending` once, and that `placed` and its event are one commit; each step may be taken again where its
//! connection breaks (`store/again.rs`). It must not speak HTTP. Read next: `store/row.rs` (rows become
//! orders), `relay.rs` (what empties the outbox).

mod again;
mod row;

use std::time::Duration;

use ringwall_proto::ids::{EventId, OrderId, Subject};
use ringwall_proto::orders::{Order, OrderStatus};
use ringwall_store::postgres::Postgres;
use ringwall_store::postgres::tokio_postgres::types::Json;
use uuid::Uuid;

use self::again::{again, patiently};
use self::row::{ORDER_COLUMNS, order_from};
use crate::draft::{Draft, Placement};
use crate::error::OrderError;

/// Numbered by position; never edit one that was released, add the next.
pub(crate) const MIGRATIONS: &[&str] = &["
CREATE TABLE orders (
    id              uuid PRIMARY KEY,
    user_sub        text NOT NULL,
    idempotency_key text NOT NULL,
    request_digest  bytea NOT NULL,
    status          text NOT NULL CHECK (status IN ('pending', 'placed', 'declined', 'failed')),
    -- An order that will not be placed may still hold stock; recovery gives it back.
    release_due     boolean NOT NULL DEFAULT false,
    lines           jsonb NOT NULL,
    total_minor     bigint NOT NULL CHECK (total_minor >= 0),
    currency        text NOT NULL,
    trace_id        text,
    traceparent     text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    settled_at      timestamptz,
    UNIQUE (user_sub, idempotency_key)
);
-- Ids are UUIDs of version 7: their order is the order of time.
CREATE INDEX orders_history ON orders (user_sub, id DESC);
CREATE INDEX orders_unsettled ON orders (created_at) WHERE status = 'pending' OR release_due;

CREATE TABLE outbox (
    event_id    uuid PRIMARY KEY,
    topic       text NOT NULL,
    order_id    uuid NOT NULL REFERENCES orders (id),
    created_at  timestamptz NOT NULL DEFAULT now()
);
"];

/// Whether an order was begun now or stands already under the same key.
#[derive(Debug)]
pub(crate) enum Begun {
    Now(Order),
    Before(Order),
}

/// An event that waits for the log.
#[derive(Debug)]
pub(crate) struct OutboxEntry {
    pub(crate) event_id: EventId,
    pub(crate) topic: String,
    pub(crate) user: Subject,
    pub(crate) order: Order,
    pub(crate) traceparent: Option<String>,
}

/// The orders in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OrderStore {
    postgres: Postgres,
}

impl OrderStore {
    pub(crate) fn new(postgres: Postgres) -> Self {
        Self { postgres }
    }

    pub(crate) async fn ping(&self) -> Result<(), OrderError> {
        Ok(self.postgres.ping().await?)
    }

    pub(crate) async fn migrate(&self) -> Result<(), OrderError> {
        Ok(self.postgres.migrate(MIGRATIONS).await?)
    }

    /// The order that stands under the user's idempotency key, if it was the same request.
    pub(crate) async fn order_under_key(
        &self,
        placement: &Placement,
    ) -> Result<Option<Order>, OrderError> {
        again(|| self.find_under_key(placement)).await
    }

    async fn find_under_key(&self, placement: &Placement) -> Result<Option<Order>, OrderError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(&format!(
                "SELECT {ORDER_COLUMNS}, request_digest FROM orders
                 WHERE user_sub = $1 AND idempotency_key = $2"
            ))
            .await?;
        let (user, key) = (placement.user.as_str(), placement.key.as_str());
        let Some(row) = client.query_opt(&statement, &[&user, &key]).await? else {
            return Ok(None);
        };
        if row.try_get::<_, Vec<u8>>("request_digest")? != placement.digest() {
            return Err(OrderError::IdempotencyKeyReused);
        }
        order_from(&row).map(Some)
    }

    /// Writes the order as `pending`. Of two requests under one key, one begins and the other
    /// finds it.
    #[tracing::instrument(name = "postgres", skip_all, fields(
        otel.kind = "client",
        otel.name = "INSERT order",
        db.system.name = "postgresql",
        db.operation.name = "INSERT",
    ))]
    pub(crate) async fn begin(&self, draft: &Draft) -> Result<Begun, OrderError> {
        again(|| self.insert(draft)).await
    }

    async fn insert(&self, draft: &Draft) -> Result<Begun, OrderError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(&format!(
                "INSERT INTO orders
                     (id, user_sub, idempotency_key, request_digest, status, lines, total_minor,
                      currency, trace_id, traceparent)
                 VALUES ($1, $2, $3, $4, 'pending', $5, $6, $7, $8, $9)
                 ON CONFLICT (user_sub, idempotency_key) DO NOTHING
                 RETURNING {ORDER_COLUMNS}"
            ))
            .await?;
        let inserted = client
            .query_opt(
                &statement,
                &[
                    &draft.id.uuid(),
                    &draft.placement.user.as_str(),
                    &draft.placement.key.as_str(),
                    &draft.placement.digest(),
                    &Json(&draft.lines),
                    &draft.total.get(),
                    &draft.currency.as_str(),
                    &draft.placement.trace_id,
                    &draft.placement.traceparent,
                ],
            )
            .await?;
        drop(client);
        if let Some(row) = inserted {
            return order_from(&row).map(Begun::Now);
        }
        let before = self.find_under_key(&draft.placement).await?;
        match before {
            // Ours, of an attempt whose answer was lost.
            Some(order) if order.id == draft.id => Ok(Begun::Now(order)),
            Some(order) => Ok(Begun::Before(order)),
            None => Err(OrderError::BrokenOrder(draft.id)),
        }
    }

    /// Moves the order to `placed` and puts its event into the outbox: one statement, one commit.
    ///
    /// Answers the placed order also when it was placed before; an order that was given up in the
    /// meantime is an error that a person must look at.
    #[tracing::instrument(name = "postgres", skip_all, fields(
        otel.kind = "client",
        otel.name = "UPDATE order",
        db.system.name = "postgresql",
        db.operation.name = "UPDATE",
    ))]
    pub(crate) async fn place(&self, order_id: OrderId) -> Result<Order, OrderError> {
        patiently(|| self.update_placed(order_id)).await
    }

    async fn update_placed(&self, order_id: OrderId) -> Result<Order, OrderError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(&format!(
                "WITH settled AS (
                     UPDATE orders SET status = 'placed', settled_at = now()
                     WHERE id = $1 AND status = 'pending'
                     RETURNING {ORDER_COLUMNS}
                 ), event AS (
                     INSERT INTO outbox (event_id, topic, order_id)
                     SELECT $2, $3, id FROM settled
                 )
                 SELECT * FROM settled"
            ))
            .await?;
        let event_id = Uuid::now_v7();
        let topic = ringwall_proto::orders::TOPIC_ORDER_PLACED;
        let placed = client
            .query_opt(&statement, &[&order_id.uuid(), &event_id, &topic])
            .await?;
        drop(client);
        if let Some(row) = placed {
            return order_from(&row);
        }
        let order = self
            .order(order_id)
            .await?
            .ok_or(OrderError::BrokenOrder(order_id))?;
        match order.status {
            OrderStatus::Placed => Ok(order),
            _ => Err(OrderError::PaidTooLate(order_id)),
        }
    }

    /// Moves a pending order to `declined` or `failed`; from then on its stock is due for release.
    pub(crate) async fn settle_unplaced(
        &self,
        order_id: OrderId,
        status: OrderStatus,
    ) -> Result<(), OrderError> {
        again(async || {
            let client = self.postgres.client().await?;
            client
                .execute(
                    "UPDATE orders SET status = $2, release_due = true, settled_at = now()
                     WHERE id = $1 AND status = 'pending'",
                    &[&order_id.uuid(), &status.as_str()],
                )
                .await?;
            Ok(())
        })
        .await
    }

    /// Notes that inventory has the stock of an unplaced order back.
    pub(crate) async fn stock_given_back(&self, order_id: OrderId) -> Result<(), OrderError> {
        let client = self.postgres.client().await?;
        client
            .execute(
                "UPDATE orders SET release_due = false WHERE id = $1",
                &[&order_id.uuid()],
            )
            .await?;
        Ok(())
    }

    /// One order of one user; another user's order is not found.
    pub(crate) async fn order_of(
        &self,
        user: &Subject,
        order_id: OrderId,
    ) -> Result<Option<Order>, OrderError> {
        again(|| self.find_of(user, order_id)).await
    }

    async fn find_of(
        &self,
        user: &Subject,
        order_id: OrderId,
    ) -> Result<Option<Order>, OrderError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(&format!(
                "SELECT {ORDER_COLUMNS} FROM orders WHERE id = $1 AND user_sub = $2"
            ))
            .await?;
        let row = client
            .query_opt(&statement, &[&order_id.uuid(), &user.as_str()])
            .await?;
        row.as_ref().map(order_from).transpose()
    }

    /// A user's orders, newest first, older than `before`.
    pub(crate) async fn history(
        &self,
        user: &Subject,
        before: Option<OrderId>,
        limit: i64,
    ) -> Result<Vec<Order>, OrderError> {
        again(|| self.page(user, before, limit)).await
    }

    async fn page(
        &self,
        user: &Subject,
        before: Option<OrderId>,
        limit: i64,
    ) -> Result<Vec<Order>, OrderError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(&format!(
                "SELECT {ORDER_COLUMNS} FROM orders
                 WHERE user_sub = $1 AND id < $2 ORDER BY id DESC LIMIT $3"
            ))
            .await?;
        let before = before.map_or(Uuid::max(), |id| id.uuid());
        let rows = client
            .query(&statement, &[&user.as_str(), &before, &limit])
            .await?;
        rows.iter().map(order_from).collect()
    }

    /// Orders that a crash or an absent component left behind: pending for longer than `older_than`
    /// or with stock that is due for release. Oldest first.
    pub(crate) async fn unsettled(
        &self,
        older_than: Duration,
        limit: i64,
    ) -> Result<Vec<Order>, OrderError> {
        let client = self.postgres.client().await?;
        let rows = client
            .query(
                &format!(
                    "SELECT {ORDER_COLUMNS} FROM orders
                     WHERE (status = 'pending' OR release_due)
                       AND created_at <= now() - make_interval(secs => $1)
                     ORDER BY created_at LIMIT $2"
                ),
                &[&older_than.as_secs_f64(), &limit],
            )
            .await?;
        rows.iter().map(order_from).collect()
    }

    /// The oldest events that wait for the log.
    pub(crate) async fn outbox(&self, limit: i64) -> Result<Vec<OutboxEntry>, OrderError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(&format!(
                "SELECT outbox.event_id, outbox.topic, user_sub, traceparent, {ORDER_COLUMNS}
                 FROM outbox JOIN orders ON orders.id = outbox.order_id
                 ORDER BY outbox.created_at, outbox.event_id LIMIT $1"
            ))
            .await?;
        let rows = client.query(&statement, &[&limit]).await?;
        rows.iter().map(row::outbox_entry_from).collect()
    }

    /// Removes events that the log has stored.
    pub(crate) async fn sent(&self, events: &[EventId]) -> Result<(), OrderError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
        let client = self.postgres.client().await?;
        client
            .execute("DELETE FROM outbox WHERE event_id = ANY ($1)", &[&ids])
            .await?;
        Ok(())
    }

    async fn order(&self, order_id: OrderId) -> Result<Option<Order>, OrderError> {
        let client = self.postgres.client().await?;
        let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id = $1");
        let row = client.query_opt(&sql, &[&order_id.uuid()]).await?;
        row.as_ref().map(order_from).transpose()
    }
}
