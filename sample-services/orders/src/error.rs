//! Every way in which an order fails, what that means for the order, and the one place where a
//! failure becomes a response.
//!
//! It must not tell a user what a component said; that is logged. Read next: `place_order.rs`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringwall_http_io::client::ClientError;
use ringwall_http_io::problem::Problem;
use ringwall_proto::ids::{OrderId, Sku};
use ringwall_proto::problems;
use ringwall_secret::SecretError;
use ringwall_store::StoreError;
use ringwall_store::postgres::tokio_postgres;
use ringwall_token::TokenError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("the request needs an `Idempotency-Key` of 1 to 64 visible ASCII characters")]
    IdempotencyKeyMissing,
    #[error("this idempotency key was used for another order")]
    IdempotencyKeyReused,
    #[error("the request needs exactly one bearer token")]
    AccessTokenMissing,
    #[error("there is no item `{0}`")]
    UnknownItem(Sku),
    #[error("the items are sold in different currencies and cannot be one order")]
    MixedCurrencies,
    #[error("the total is larger than this shop handles")]
    TotalTooLarge,
    #[error("not enough is left of at least one item")]
    OutOfStock,
    #[error("a price changed while the order was placed; nothing was charged")]
    PriceChanged,
    #[error("the payment was declined; nothing was charged")]
    PaymentDeclined,
    #[error("`limit` must be from 1 to 100")]
    PageSize,
    #[error("there is no such order")]
    NotFound,
    #[error("`{0}` may not read this topic or move this cursor")]
    TopicDenied(String),
    #[error("there is no such topic")]
    UnknownTopic,
    #[error("the cursor lies beyond the end of the topic")]
    CursorBeyondEnd,

    #[error("the user's access token was refused by a component")]
    UsersToken(#[source] ClientError),
    #[error("inventory is of no use now")]
    Inventory(#[source] ClientError),
    #[error("the tokens for the payment cannot be had")]
    Credentials(#[source] ClientError),
    #[error("payments is of no use now, and captured nothing")]
    Payments(#[source] ClientError),
    #[error("payments did not say whether it captured")]
    PaymentUnresolved(#[source] ClientError),
    #[error("payments may have captured before this happened: {0}")]
    AfterUnresolvedPayment(#[source] Box<OrderError>),
    #[error("payments captured other terms for order {0}")]
    WrongPayment(OrderId),
    #[error("order {0} was paid after it had been given up")]
    PaidTooLate(OrderId),
    #[error("a row has an invalid `{0}`")]
    BrokenRow(&'static str),
    #[error("order {0} is not valid in the store")]
    BrokenOrder(OrderId),

    #[error("the order's task ended early; recovery brings it to an end")]
    Interrupted,
    #[error("the database is of no use now")]
    Store(#[from] StoreError),
    #[error("a statement failed")]
    Statement(#[from] tokio_postgres::Error),
    #[error("a secret cannot be read")]
    Secret(#[from] SecretError),
    #[error("an event cannot be signed")]
    Sign(#[source] TokenError),
}

/// What an error means for the order that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A rule said no; the order ends as `declined`.
    Declined,
    /// A component was away before money moved; the order ends as `failed`.
    Failed,
    /// Money may have moved; only recovery may decide.
    Unresolved,
}

impl OrderError {
    pub(crate) fn fate(&self) -> Fate {
        match self {
            Self::OutOfStock | Self::PriceChanged | Self::PaymentDeclined => Fate::Declined,
            Self::PaymentUnresolved(_)
            | Self::AfterUnresolvedPayment(_)
            | Self::WrongPayment(_)
            | Self::PaidTooLate(_) => Fate::Unresolved,
            _ => Fate::Failed,
        }
    }

    /// Once one attempt to pay ended without an answer, no later error proves that nothing was
    /// captured.
    pub(crate) fn after_unresolved_payment(self) -> Self {
        Self::AfterUnresolvedPayment(Box::new(self))
    }

    fn answer(&self) -> Answer {
        self.refusal().unwrap_or_else(|| self.outage())
    }

    /// What the caller can do something about.
    fn refusal(&self) -> Option<Answer> {
        Some(match self {
            Self::IdempotencyKeyMissing => Answer(
                StatusCode::BAD_REQUEST,
                problems::IDEMPOTENCY_KEY_MISSING,
                "An idempotency key is required",
            ),
            Self::IdempotencyKeyReused => Answer(
                StatusCode::UNPROCESSABLE_ENTITY,
                problems::IDEMPOTENCY_KEY_REUSED,
                "The idempotency key was used for another order",
            ),
            Self::AccessTokenMissing => Answer(
                StatusCode::UNAUTHORIZED,
                problems::ACCESS_TOKEN_MISSING,
                "An access token is required",
            ),
            Self::UsersToken(_) => Answer(
                StatusCode::UNAUTHORIZED,
                problems::ACCESS_TOKEN_REFUSED,
                "The access token is no longer valid",
            ),
            Self::UnknownItem(_) => Answer(
                StatusCode::UNPROCESSABLE_ENTITY,
                problems::UNKNOWN_ITEM,
                "No such item",
            ),
            Self::MixedCurrencies | Self::TotalTooLarge => Answer(
                StatusCode::UNPROCESSABLE_ENTITY,
                problems::INVALID_BODY,
                "The order cannot be placed like this",
            ),
            Self::OutOfStock => {
                Answer(StatusCode::CONFLICT, problems::OUT_OF_STOCK, "Out of stock")
            }
            Self::PriceChanged => Answer(
                StatusCode::CONFLICT,
                problems::PRICE_CHANGED,
                "A price changed",
            ),
            Self::PaymentDeclined => Answer(
                StatusCode::PAYMENT_REQUIRED,
                problems::PAYMENT_DECLINED,
                "Payment declined",
            ),
            Self::PageSize => Answer(
                StatusCode::BAD_REQUEST,
                problems::BAD_REQUEST,
                "The query is not valid",
            ),
            Self::NotFound | Self::UnknownTopic => {
                Answer(StatusCode::NOT_FOUND, problems::NOT_FOUND, "Not found")
            }
            Self::TopicDenied(_) => Answer(
                StatusCode::FORBIDDEN,
                problems::PEER_REFUSED,
                "Not this workload's topic",
            ),
            Self::CursorBeyondEnd => Answer(
                StatusCode::CONFLICT,
                problems::CURSOR_CONFLICT,
                "The cursor is too far",
            ),
            _ => return None,
        })
    }

    /// What only we can do something about: a 503 that names the part of the shop that is away.
    fn outage(&self) -> Answer {
        let (slug, title) = match self {
            Self::Inventory(_) => (
                problems::INVENTORY_UNAVAILABLE,
                "The shop's stock cannot be reached",
            ),
            Self::Credentials(_) | Self::Payments(_) => (
                problems::PAYMENTS_UNAVAILABLE,
                "Payments cannot be taken now",
            ),
            _ => (problems::ORDERS_UNAVAILABLE, "Orders cannot be taken now"),
        };
        Answer(StatusCode::SERVICE_UNAVAILABLE, slug, title)
    }
}

/// Status, problem type and title of an answer.
struct Answer(StatusCode, &'static str, &'static str);

/// Seconds after which a client may try a 503 again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

impl IntoResponse for OrderError {
    fn into_response(self) -> Response {
        let Answer(status, slug, title) = self.answer();
        let problem = Problem::new(status, slug, title);
        if status.is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "order failed");
            return problem
                .header(header::RETRY_AFTER, RETRY_AFTER)
                .into_response();
        }
        tracing::info!(error = &self as &dyn std::error::Error, "order refused");
        problem.detail(self.to_string()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r61_only_an_error_that_proves_that_no_money_moved_ends_an_order() {
        assert_eq!(OrderError::OutOfStock.fate(), Fate::Declined);
        assert_eq!(OrderError::PaymentDeclined.fate(), Fate::Declined);
        let later = OrderError::PaymentDeclined.after_unresolved_payment();
        assert_eq!(later.fate(), Fate::Unresolved);
        assert_eq!(
            OrderError::WrongPayment(OrderId::generate()).fate(),
            Fate::Unresolved
        );
    }

    #[test]
    fn r61_a_component_that_is_away_is_a_503_and_says_when_to_come_back() {
        let error = OrderError::Store(StoreError::PostgresUnavailable("refused".into()));
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], RETRY_AFTER);
    }
}
