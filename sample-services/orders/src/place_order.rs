//! One order, from the request to its payment: the main job of this service, top to bottom.
//!
//! Owns: the order of the steps and what each failure means for the order. The rules:
//!
//! - an order is written as `pending` before anything outside is changed, so nothing that was
//!   reserved or charged is ever forgotten;
//! - it leaves `pending` exactly once, by one conditional statement, to `placed`, `declined` or
//!   `failed`; stock is given back only after that;
//! - where nobody can tell whether money was taken, it stays `pending`, the user sees that, and
//!   `recovery.rs` asks payments later.
//!
//! It must not hold SQL or HTTP. Read next: `store.rs`, `recovery.rs`.

use std::sync::Arc;

use ringwall_proto::WireToken;
use ringwall_proto::orders::{Order, OrderStatus};
use ringwall_proto::payments::{Payment, PaymentTerms};
use tokio::sync::Notify;

use crate::credentials::Credentials;
use crate::draft::{Draft, Placement};
use crate::error::{Fate, OrderError};
use crate::inventory::Inventory;
use crate::metrics::{OrderMetrics, Outcome};
use crate::payments::Payments;
use crate::store::{Begun, OrderStore};

/// Everything that an order passes through. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) store: OrderStore,
    pub(crate) inventory: Inventory,
    pub(crate) credentials: Credentials,
    pub(crate) payments: Payments,
    /// Wakes the relay as soon as an event lies in the outbox.
    pub(crate) outbox: Arc<Notify>,
    pub(crate) metrics: OrderMetrics,
}

/// The result of a placement: made now, or found under the same idempotency key.
#[derive(Debug)]
pub(crate) enum Placed {
    Now(Order),
    Before(Order),
}

/// Places one order for the user in `placement`, paid with the authority of `access_token`.
pub(crate) async fn place_order(
    shop: &Shop,
    placement: Placement,
    access_token: &WireToken,
) -> Result<Placed, OrderError> {
    if let Some(order) = shop.store.order_under_key(&placement).await? {
        return Ok(Placed::Before(order));
    }

    let catalogue = shop.inventory.catalogue().await?;
    let draft = Draft::price(placement, &catalogue)?;

    let order = match shop.store.begin(&draft).await? {
        Begun::Now(order) => order,
        Begun::Before(order) => return Ok(Placed::Before(order)),
    };

    match reserve_and_pay(shop, &order, access_token).await {
        Ok(payment) => match finish(shop, &order, &payment).await {
            Ok(placed) => Ok(Placed::Now(placed)),
            // The money is taken: only recovery may bring this order to its end.
            Err(error) => give_up(shop, order, error.after_unresolved_payment())
                .await
                .map(Placed::Now),
        },
        Err(error) => give_up(shop, order, error).await.map(Placed::Now),
    }
}

async fn reserve_and_pay(
    shop: &Shop,
    order: &Order,
    access_token: &WireToken,
) -> Result<Payment, OrderError> {
    shop.inventory.reserve(order).await?;
    match pay(shop, order, access_token).await {
        // Payments are idempotent by order id, so one repetition is safe: it captures now, or it
        // finds what the first attempt captured. The first source token may be spent; a new one
        // is asked for.
        Err(OrderError::PaymentUnresolved(error)) => {
            tracing::warn!(%error, order_id = %order.id, "no answer from payments; asking again");
            pay(shop, order, access_token)
                .await
                .map_err(OrderError::after_unresolved_payment)
        }
        result => result,
    }
}

async fn pay(shop: &Shop, order: &Order, access_token: &WireToken) -> Result<Payment, OrderError> {
    let terms = terms_of(order);
    let credentials = shop.credentials.for_payment(access_token, &terms).await?;
    shop.payments.capture(terms, credentials).await
}

/// Commits `placed` together with its event, and wakes the relay.
pub(crate) async fn finish(
    shop: &Shop,
    order: &Order,
    payment: &Payment,
) -> Result<Order, OrderError> {
    let terms = terms_of(order);
    if (payment.amount_minor, payment.currency) != (terms.amount_minor, terms.currency) {
        return Err(OrderError::WrongPayment(order.id));
    }
    let placed = shop.store.place(order.id).await?;
    shop.outbox.notify_one();
    shop.metrics.count(Outcome::Placed);
    Ok(placed)
}

/// Settles an order that cannot be placed and gives its stock back, then answers with `error`.
///
/// What fails here is left to recovery: the order's row says what is still due. Where it is not
/// known whether money was taken, the order stays as it is and is the answer.
pub(crate) async fn give_up(
    shop: &Shop,
    order: Order,
    error: OrderError,
) -> Result<Order, OrderError> {
    let (status, outcome) = match error.fate() {
        Fate::Declined => (OrderStatus::Declined, Outcome::Declined),
        Fate::Failed => (OrderStatus::Failed, Outcome::Failed),
        Fate::Unresolved => {
            shop.metrics.count(Outcome::Unresolved);
            tracing::error!(%error, order_id = %order.id, "left pending for recovery");
            return Ok(order);
        }
    };
    shop.metrics.count(outcome);
    let settled = async {
        shop.store.settle_unplaced(order.id, status).await?;
        release(shop, order.id).await
    };
    if let Err(left) = settled.await {
        tracing::warn!(error = %left, order_id = %order.id, "left to recovery");
    }
    Err(error)
}

/// Gives the stock of a settled, unplaced order back.
pub(crate) async fn release(
    shop: &Shop,
    order_id: ringwall_proto::ids::OrderId,
) -> Result<(), OrderError> {
    shop.inventory.release(order_id).await?;
    shop.store.stock_given_back(order_id).await
}

fn terms_of(order: &Order) -> PaymentTerms {
    PaymentTerms {
        order_id: order.id,
        amount_minor: order.total_minor,
        currency: order.currency,
    }
}

#[cfg(test)]
mod tests;
