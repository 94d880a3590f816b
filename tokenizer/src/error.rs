//! Why a request was refused, and the one place where that becomes an answer.
//!
//! Owns: the mapping to problems (RFC 9457) with the OAuth error code (RFC 8693 §2.2.2).
//! Must not: tell causes of a refused redemption apart. Read next: `api.rs`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringwall_http_io::{ClientError, Problem};
use ringwall_proto::{ProtoError, problems};
use ringwall_store::StoreError;
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum TokenizerError {
    /// The request does not follow the contract.
    #[error(transparent)]
    Request(#[from] ProtoError),
    /// No edge of the configuration allows this caller, audience, method and path.
    #[error("no edge allows this request")]
    EdgeUndeclared,
    /// The user's access token is not active, or not one for us.
    #[error("the subject token is refused: {0}")]
    Subject(&'static str),
    /// The caller has too many unspent tokens.
    #[error("the caller has {limit} unspent tokens")]
    TooManyOutstanding { limit: u32 },
    /// The authorization server cannot say whether the user's token is active: fail closed.
    #[error("introspection failed: {0}")]
    Introspection(#[from] ClientError),
    /// The token cannot be redeemed; the reason is in the audit log.
    #[error("the source token is refused")]
    SourceToken,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    Random,
}

impl From<ringwall_store::rusqlite::Error> for TokenizerError {
    fn from(error: ringwall_store::rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl TokenizerError {
    fn problem(&self) -> Problem {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Request(error) => Problem::new(bad, problems::BAD_REQUEST, "Bad request")
                .detail(error.to_string())
                .with("error", "invalid_request"),
            Self::EdgeUndeclared => {
                Problem::new(StatusCode::FORBIDDEN, problems::FORBIDDEN, "Not allowed")
                    .detail("No declared edge allows this caller this request to this audience.")
                    .with("error", "invalid_target")
            }
            Self::Subject(_) => {
                Problem::new(bad, problems::ACCESS_TOKEN_REFUSED, "Access token refused")
                    .with("error", "invalid_request")
            }
            Self::TooManyOutstanding { .. } => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                problems::TOO_MANY_REQUESTS,
                "Too many unspent source tokens",
            )
            .header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            Self::SourceToken => {
                Problem::new(bad, problems::SOURCE_TOKEN_REFUSED, "Source token refused")
            }
            Self::Introspection(_) | Self::Store(_) | Self::Random => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                problems::UNAVAILABLE,
                "Temporarily unavailable",
            )
            .header(header::RETRY_AFTER, HeaderValue::from_static("1")),
        }
    }
}

impl IntoResponse for TokenizerError {
    fn into_response(self) -> Response {
        match &self {
            Self::Introspection(_) | Self::Store(_) | Self::Random => {
                tracing::error!(error = %self, "a request failed");
            }
            _ => {}
        }
        self.problem().into_response()
    }
}
