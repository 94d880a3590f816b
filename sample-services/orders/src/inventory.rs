//! Client of inventory (B): the catalogue and the stock of an order.
//!
//! Owns: the API key of each call (read again each time, so that a rotation is seen) and what B's
//! answers mean for an order. It must not cache prices. Read next: `payments.rs`.

use std::sync::Arc;

use ringwall_http_io::client::{Call, ClientError};
use ringwall_proto::ids::OrderId;
use ringwall_proto::inventory::{Item, Reservation, ReservationRequest};
use ringwall_proto::lines::{Line, Lines};
use ringwall_proto::orders::Order;
use ringwall_proto::{headers, paths, problems};
use ringwall_secret::SecretProvider;
use ringwall_service::{Transport, Upstream};

use crate::error::OrderError;

/// Name of the secret that holds our API key for inventory.
const API_KEY_SECRET: &str = "api-key-inventory";

/// Speaks to inventory. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Inventory {
    upstream: Upstream,
    secrets: Arc<SecretProvider>,
}

impl Inventory {
    pub(crate) fn new(upstream: Upstream, secrets: Arc<SecretProvider>) -> Self {
        Self { upstream, secrets }
    }

    pub(crate) async fn catalogue(&self) -> Result<Vec<Item>, OrderError> {
        let call = self.authenticated(self.upstream.get(paths::INVENTORY_ITEMS))?;
        Ok(call
            .receive::<Vec<Item>>()
            .await
            .map_err(OrderError::Inventory)?
            .body)
    }

    /// Holds the stock of every line, at the prices of the order, or of none.
    pub(crate) async fn reserve(&self, order: &Order) -> Result<(), OrderError> {
        let wanted = order.lines.iter().map(|line| Line {
            sku: line.sku.clone(),
            quantity: line.quantity,
        });
        let request = ReservationRequest {
            order_id: order.id,
            lines: Lines::new(wanted.collect()).map_err(|_| OrderError::BrokenOrder(order.id))?,
        };
        let call = self.authenticated(self.upstream.post(paths::INVENTORY_RESERVATIONS))?;
        let reservation = call
            .json(&request)
            .receive::<Reservation>()
            .await
            .map_err(refusal)?
            .body;
        if (reservation.total_minor, reservation.currency) != (order.total_minor, order.currency) {
            return Err(OrderError::PriceChanged);
        }
        Ok(())
    }

    /// Gives the stock of an order back. Idempotent, also for an order that holds none.
    pub(crate) async fn release(&self, order_id: OrderId) -> Result<(), OrderError> {
        let path = format!("{}/{order_id}", paths::INVENTORY_RESERVATIONS);
        let call = self.authenticated(self.upstream.delete(&path))?;
        call.receive::<()>().await.map_err(OrderError::Inventory)?;
        Ok(())
    }

    fn authenticated<'a>(
        &self,
        call: Call<'a, Upstream>,
    ) -> Result<Call<'a, Upstream>, OrderError> {
        let key = self.secrets.get_string(API_KEY_SECRET)?;
        Ok(call.header(headers::API_KEY, key.expose()))
    }
}

/// B's business refusals decline the order; everything else means that B is of no use now.
fn refusal(error: ClientError) -> OrderError {
    match error.slug() {
        Some(problems::OUT_OF_STOCK) => OrderError::OutOfStock,
        _ => OrderError::Inventory(error),
    }
}
