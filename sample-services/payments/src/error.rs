//! Every way in which payments refuses, and the one place where a refusal becomes a response.
//!
//! An answer names the credential that failed and nothing more; the reason is logged. Every answer
//! of this table but `internal` states that nothing was captured. Read next: `clearance.rs`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringwall_http_io::client::ClientError;
use ringwall_http_io::problem::Problem;
use ringwall_proto::ids::OrderId;
use ringwall_proto::problems;
use ringwall_service::api_keys::ApiKeyRefusal;
use ringwall_store::{StoreError, rusqlite};
use ringwall_token::TokenError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PaymentError {
    #[error(transparent)]
    ApiKey(#[from] ApiKeyRefusal),
    #[error("the request carries no single bearer token")]
    AccessTokenMissing,
    #[error("the access token does not hold")]
    AccessToken(#[source] TokenError),
    #[error("`{0}` acts in the access token")]
    WrongActor(String),
    #[error("the request carries no source token")]
    SourceTokenMissing,
    #[error("the source token does not hold: {0}")]
    SourceToken(&'static str),
    #[error("the tokenizer is not available")]
    Tokenizer(#[source] ClientError),
    #[error("declined: {0}")]
    Declined(&'static str),
    #[error("order {0} was paid with other terms")]
    OtherTerms(OrderId),
    #[error("there is no payment for this order")]
    NotFound,
    #[error("a row has an invalid `{0}`")]
    BrokenRow(&'static str),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("a statement failed")]
    Statement(#[from] rusqlite::Error),
}

impl IntoResponse for PaymentError {
    fn into_response(self) -> Response {
        if let Self::ApiKey(refusal) = self {
            return refusal.into_response();
        }
        let (status, slug, title) = self.answer();
        if status.is_server_error() {
            tracing::error!(
                error = &self as &dyn std::error::Error,
                "payment failed inside"
            );
        } else {
            tracing::warn!(error = &self as &dyn std::error::Error, "payment refused");
        }
        let problem = Problem::new(status, slug, title);
        let mut response = problem.into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750 §3: a 401 names the scheme that would help.
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer error=\"invalid_token\""),
            );
        }
        response
    }
}

impl PaymentError {
    fn answer(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::AccessTokenMissing => (
                StatusCode::UNAUTHORIZED,
                problems::ACCESS_TOKEN_MISSING,
                "An access token is required",
            ),
            Self::AccessToken(TokenError::KeySetUnavailable(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                problems::PAYMENTS_UNAVAILABLE,
                "Access tokens cannot be verified now",
            ),
            Self::ApiKey(_) | Self::AccessToken(_) => (
                StatusCode::UNAUTHORIZED,
                problems::ACCESS_TOKEN_REFUSED,
                "A valid access token is required",
            ),
            Self::WrongActor(_) => (
                StatusCode::FORBIDDEN,
                problems::ACCESS_TOKEN_REFUSED,
                "The access token is not meant for this use",
            ),
            Self::SourceTokenMissing => (
                StatusCode::FORBIDDEN,
                problems::SOURCE_TOKEN_MISSING,
                "A source token is required",
            ),
            Self::SourceToken(_) => (
                StatusCode::FORBIDDEN,
                problems::SOURCE_TOKEN_REFUSED,
                "A valid source token is required",
            ),
            Self::Declined(_) => (
                StatusCode::PAYMENT_REQUIRED,
                problems::PAYMENT_DECLINED,
                "Payment declined",
            ),
            Self::OtherTerms(_) => (
                StatusCode::CONFLICT,
                problems::PAYMENT_CONFLICT,
                "This order was paid with other terms",
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                problems::NOT_FOUND,
                "There is no such payment",
            ),
            Self::Tokenizer(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                problems::PAYMENTS_UNAVAILABLE,
                "Payments cannot be taken now",
            ),
            // The commit itself may have been reached.
            Self::BrokenRow(_) | Self::Store(_) | Self::Statement(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                problems::INTERNAL,
                "The ledger failed",
            ),
        }
    }
}
