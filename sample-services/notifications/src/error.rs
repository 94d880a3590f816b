//! Every way in which notifications fails, and the one place where a failure becomes a response.
//!
//! Read next: `consumer.rs`, `api.rs`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringwall_http_io::client::ClientError;
use ringwall_http_io::problem::Problem;
use ringwall_proto::problems;
use ringwall_store::{StoreError, rusqlite};
use ringwall_token::TokenError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotificationsError {
    #[error("`limit` must be from 1 to 100")]
    PageSize,
    #[error("too many open streams")]
    TooManyStreams,
    #[error("the user's subject is not valid")]
    Subject,
    #[error("the producer cannot be reached")]
    Poll(#[source] ClientError),
    #[error("the producer's keys cannot be had")]
    Keys(#[source] TokenError),
    #[error("a row has an invalid `{0}`")]
    BrokenRow(&'static str),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("a statement failed")]
    Statement(#[from] rusqlite::Error),
}

/// Seconds after which a client may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

impl IntoResponse for NotificationsError {
    fn into_response(self) -> Response {
        let (status, slug, title) = match &self {
            Self::PageSize => (
                StatusCode::BAD_REQUEST,
                problems::BAD_REQUEST,
                "The query is not valid",
            ),
            Self::TooManyStreams => (
                StatusCode::TOO_MANY_REQUESTS,
                problems::TOO_MANY_REQUESTS,
                "Too many streams",
            ),
            _ => (
                StatusCode::SERVICE_UNAVAILABLE,
                problems::NOTIFICATIONS_UNAVAILABLE,
                "Notifications cannot be shown now",
            ),
        };
        if status.is_client_error() {
            let problem = Problem::new(status, slug, title).detail(self.to_string());
            return problem
                .header(header::RETRY_AFTER, RETRY_AFTER)
                .into_response();
        }
        tracing::error!(
            error = &self as &dyn std::error::Error,
            "request failed inside"
        );
        Problem::new(status, slug, title)
            .header(header::RETRY_AFTER, RETRY_AFTER)
            .into_response()
    }
}
