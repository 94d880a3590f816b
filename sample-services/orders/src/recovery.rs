//! Orders that a crash or an absent component left behind.
//!
//! Owns: bringing each to an end. A pending order that payments captured is finished, at any age.
//! One that was not captured is given up only when nothing can be captured any more: it is older
//! than the longest order and the life of a source token together (`recovery.give_up_after`). It
//! must not guess: without an answer of payments an order stays as it is. Read next:
//! `place_order.rs`.

use std::time::Duration;

use ringwall_proto::orders::{Order, OrderStatus};
use time::OffsetDateTime;

use crate::config::RecoveryConfig;
use crate::error::OrderError;
use crate::metrics::Outcome;
use crate::place_order::{self, Shop};

/// Orders of one round.
const BATCH: i64 = 100;
/// Orders younger than this belong to a request that still runs.
const IN_FLIGHT: Duration = Duration::from_secs(45);

pub(crate) struct Recovery {
    shop: Shop,
    config: RecoveryConfig,
}

impl Recovery {
    pub(crate) fn new(shop: Shop, config: RecoveryConfig) -> Self {
        Self { shop, config }
    }

    /// Runs until it is dropped. At start no request of this process runs yet, so the first round
    /// looks at every unsettled order.
    pub(crate) async fn run(self) {
        let mut min_age = Duration::ZERO;
        loop {
            match self.round(min_age).await {
                Ok(()) => min_age = IN_FLIGHT,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "recovery waits");
                }
            }
            tokio::time::sleep(self.config.every).await;
        }
    }

    /// One look at everything older than `min_age`.
    pub(crate) async fn round(&self, min_age: Duration) -> Result<(), OrderError> {
        for order in self.shop.store.unsettled(min_age, BATCH).await? {
            let id = order.id;
            // One order that cannot be settled now must not hold up the others.
            if let Err(error) = self.settle(order, OffsetDateTime::now_utc()).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    order_id = %id,
                    "an order stays unsettled"
                );
            }
        }
        Ok(())
    }

    async fn settle(&self, order: Order, now: OffsetDateTime) -> Result<(), OrderError> {
        if order.status != OrderStatus::Pending {
            return place_order::release(&self.shop, order.id).await;
        }
        if let Some(payment) = self.shop.payments.payment_of(order.id).await? {
            place_order::finish(&self.shop, &order, &payment).await?;
            tracing::info!(order_id = %order.id, "an interrupted order was finished");
        } else if now - order.placed_at >= self.config.give_up_after {
            self.shop
                .store
                .settle_unplaced(order.id, OrderStatus::Failed)
                .await?;
            place_order::release(&self.shop, order.id).await?;
            self.shop.metrics.count(Outcome::Failed);
            tracing::info!(order_id = %order.id, "an interrupted order was given up");
        }
        Ok(())
    }
}
