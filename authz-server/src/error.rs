//! The one error of the server and its two shapes: OAuth JSON (RFC 6749 §5.2) for machines and a
//! page for people.
//!
//! What a client may know is in [`Code`] and the description; everything else is logged and
//! becomes `server_error`. Read next: `pages.rs` for the page, `authorize/response.rs` for errors
//! that travel back by redirect.

use std::borrow::Cow;
use std::fmt;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::pages;

/// Registered error codes of RFC 6749 §4.1.2.1 and §5.2, RFC 6750 §3.1, RFC 7009 §2.2.1,
/// RFC 8693 §2.2.2 (`invalid_target` is RFC 8707 §2) and OpenID Connect Core §3.1.2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidRequest,
    InvalidGrant,
    InvalidScope,
    InvalidTarget,
    InvalidToken,
    InsufficientScope,
    UnauthorizedClient,
    UnsupportedGrantType,
    UnsupportedResponseType,
    AccessDenied,
    LoginRequired,
    ConsentRequired,
    InvalidRequestUri,
    RequestNotSupported,
    RegistrationNotSupported,
}

impl Code {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::AccessDenied => "access_denied",
            Self::LoginRequired => "login_required",
            Self::ConsentRequired => "consent_required",
            Self::InvalidRequestUri => "invalid_request_uri",
            Self::RequestNotSupported => "request_not_supported",
            Self::RegistrationNotSupported => "registration_not_supported",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{code}: {description}")]
    Refused {
        code: Code,
        description: Cow<'static, str>,
    },
    /// Client authentication failed. One answer for unknown client, wrong method and wrong
    /// secret, so that clients cannot be enumerated.
    #[error("client authentication failed: {reason}")]
    ClientRefused { basic: bool, reason: &'static str },
    /// The bearer token of a protected endpoint is missing (RFC 6750 §3: no error code then).
    #[error("no bearer token")]
    BearerMissing,
    #[error("a form was sent from elsewhere or too late")]
    FormRefused,
    #[error("password hashing is saturated")]
    Busy,
    #[error("the random number generator failed")]
    Random,
    #[error("the database: {0}")]
    Store(#[from] ringwall_store::StoreError),
    #[error("signing or verifying: {0}")]
    Token(#[from] ringwall_token::TokenError),
    #[error("a secret: {0}")]
    Secret(#[from] ringwall_secret::SecretError),
    #[error("a page: {0}")]
    Page(#[from] askama::Error),
    #[error("an identity: {0}")]
    Identity(#[from] ringwall_identity::IdentityError),
    #[error(
        "no key seals the signing keys\n  fix: set keys.seal_key_file, or use the sealed secret \
         provider"
    )]
    SealKeyMissing,
    #[error(
        "the secret {name} is too short to be a random one\n  fix: make one, for instance with \
         `openssl rand -hex 32`"
    )]
    WeakSecret { name: String },
    #[error("password hash: {0}")]
    PasswordHash(String),
    #[error("a background task ended early")]
    Task(#[from] tokio::task::JoinError),
    #[error("stored data is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

impl Error {
    pub(crate) const fn refused(code: Code, description: &'static str) -> Self {
        Self::Refused {
            code,
            description: Cow::Borrowed(description),
        }
    }

    pub(crate) const fn refused_owned(code: Code, description: String) -> Self {
        Self::Refused {
            code,
            description: Cow::Owned(description),
        }
    }

    #[cfg(test)]
    pub(crate) const fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Refused {
                code: Code::InvalidToken,
                ..
            }
            | Self::ClientRefused { .. }
            | Self::BearerMissing => StatusCode::UNAUTHORIZED,
            Self::Refused {
                code: Code::InsufficientScope,
                ..
            }
            | Self::FormRefused => StatusCode::FORBIDDEN,
            Self::Refused { .. } => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What may be said aloud.
    fn public(&self) -> ErrorBody {
        let (error, description): (&'static str, Cow<'static, str>) = match self {
            Self::Refused { code, description } => (code.as_str(), description.clone()),
            Self::ClientRefused { .. } => (
                "invalid_client",
                Cow::Borrowed("client authentication failed"),
            ),
            Self::BearerMissing => ("invalid_token", Cow::Borrowed("a bearer token is needed")),
            Self::FormRefused => (
                "invalid_request",
                Cow::Borrowed("the form was not sent by this site"),
            ),
            Self::Busy => (
                "temporarily_unavailable",
                Cow::Borrowed("try again in a second"),
            ),
            _ => (
                "server_error",
                Cow::Borrowed("the request could not be processed"),
            ),
        };
        ErrorBody {
            error,
            error_description: description,
        }
    }

    fn challenge(&self) -> Option<HeaderValue> {
        match self {
            Self::ClientRefused { basic: true, .. } => Some(HeaderValue::from_static(
                "Basic realm=\"ringwall\", charset=\"UTF-8\"",
            )),
            Self::BearerMissing => Some(HeaderValue::from_static("Bearer realm=\"ringwall\"")),
            Self::Refused {
                code: Code::InvalidToken,
                ..
            } => Some(HeaderValue::from_static(
                "Bearer realm=\"ringwall\", error=\"invalid_token\"",
            )),
            Self::Refused {
                code: Code::InsufficientScope,
                ..
            } => Some(HeaderValue::from_static(
                "Bearer realm=\"ringwall\", error=\"insufficient_scope\", scope=\"openid\"",
            )),
            _ => None,
        }
    }

    fn log(&self) {
        let status = self.status().as_u16();
        if self.status().is_server_error() {
            tracing::error!(status, error = %self, "request failed");
        } else {
            tracing::info!(status, reason = %self, "request refused");
        }
    }
}

#[derive(Serialize)]
struct ErrorBody {
    error: &'static str,
    error_description: Cow<'static, str>,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.log();
        let mut response = (self.status(), Json(self.public())).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if matches!(self, Self::Busy) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The same error, shown to a person.
pub(crate) struct PageError(pub(crate) Error);

impl<E> From<E> for PageError
where
    Error: From<E>,
{
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        self.0.log();
        let public = self.0.public();
        let status = self.0.status();
        let mut response = pages::error(status, public.error, &public.error_description);
        if matches!(self.0, Error::Busy) {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_client_gets_401_with_the_challenge_it_used() {
        let response = Error::ClientRefused {
            basic: true,
            reason: "secret",
        }
        .into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(response.headers().contains_key(WWW_AUTHENTICATE));
        let response = Error::ClientRefused {
            basic: false,
            reason: "secret",
        }
        .into_response();
        assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    }

    #[test]
    fn inner_failures_say_nothing_about_themselves() {
        let body = Error::PasswordHash("salt at 0x7f".to_owned()).public();
        assert_eq!(body.error, "server_error");
        assert!(!body.error_description.contains("salt"));
    }

    #[test]
    fn a_saturated_server_answers_503_with_retry_after() {
        let response = PageError(Error::Busy).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }
}
