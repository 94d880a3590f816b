//! The HTTP interface of payments, for `orders` alone.
//!
//! Owns: the routes. `capture` asks for evidence in its first arguments, so API key and access
//! token are proven before anything of the body is read. It must not hold SQL. Read next:
//! `clearance.rs`.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::routing::{get, post};
use http::StatusCode;
use http::request::Parts;
use ringwall_proto::ids::{OrderId, PaymentId};
use ringwall_proto::paths;
use ringwall_proto::payments::{
    Payment, PaymentRequest, SCOPE_PAYMENTS_READ, SCOPE_PAYMENTS_WRITE,
};
use ringwall_service::extract::{Json, Path};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::app::Payments;
use crate::clearance::{KnownCaller, OnBehalfOf};
use crate::error::PaymentError;
use crate::store::Captured;

pub(crate) fn router(payments: Payments) -> Router {
    Router::new()
        .route(paths::PAYMENTS, post(capture))
        .route("/v1/payments/{order_id}", get(payment_of))
        .with_state(payments)
}

/// Captures the money of one order: three credentials, then the ledger.
async fn capture(
    MayCapture(caller): MayCapture,
    on_behalf_of: OnBehalfOf,
    State(payments): State<Payments>,
    Json(request): Json<PaymentRequest>,
) -> Result<(StatusCode, axum::Json<Payment>), PaymentError> {
    let terms = request.terms();
    let cleared = payments
        .clearance
        .clear(caller, on_behalf_of, terms, request.source_token)
        .await?;
    payments.limits.check(cleared.terms())?;
    let (id, now) = (PaymentId(Uuid::now_v7()), OffsetDateTime::now_utc());
    Ok(match payments.ledger.capture(cleared, id, now).await? {
        Captured::Now(payment) => (StatusCode::CREATED, axum::Json(payment)),
        Captured::Before(payment) => (StatusCode::OK, axum::Json(payment)),
    })
}

/// For recovery, which has no user at hand: the API key and the mTLS identity are enough to read.
async fn payment_of(
    _: MayRead,
    State(payments): State<Payments>,
    Path(order_id): Path<OrderId>,
) -> Result<axum::Json<Payment>, PaymentError> {
    Ok(axum::Json(payments.ledger.payment_of(order_id).await?))
}

/// Evidence of an API key that may capture.
struct MayCapture(KnownCaller);

impl FromRequestParts<Payments> for MayCapture {
    type Rejection = PaymentError;

    async fn from_request_parts(parts: &mut Parts, on: &Payments) -> Result<Self, Self::Rejection> {
        on.clearance.caller(parts, SCOPE_PAYMENTS_WRITE).map(Self)
    }
}

/// Evidence of an API key that may read.
struct MayRead;

impl FromRequestParts<Payments> for MayRead {
    type Rejection = PaymentError;

    async fn from_request_parts(parts: &mut Parts, on: &Payments) -> Result<Self, Self::Rejection> {
        on.clearance
            .caller(parts, SCOPE_PAYMENTS_READ)
            .map(|_| Self)
    }
}

impl FromRequestParts<Payments> for OnBehalfOf {
    type Rejection = PaymentError;

    async fn from_request_parts(parts: &mut Parts, on: &Payments) -> Result<Self, Self::Rejection> {
        on.clearance.on_behalf_of(parts).await
    }
}

#[cfg(test)]
mod tests;
