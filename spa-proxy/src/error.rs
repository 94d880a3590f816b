//! Every refusal of spa-proxy, and the one place where it becomes an HTTP answer.
//!
//! Must not: put a token, a cookie or another component's words into an answer or a log line.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringwall_http_io::problem::Problem;
use ringwall_proto::problems;

/// Why a request ends here. Variants are named by the step that refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the request does not come from our own page")]
    CrossSite,
    #[error("a cookie occurs twice")]
    DuplicateCookie,
    #[error("there is no session")]
    NoSession,
    #[error("the session is over: {0}")]
    SessionOver(&'static str),
    #[error("the authorization server cannot be asked: {0}")]
    AuthorityUnreachable(String),
    #[error("the API cannot be reached: {0}")]
    ApiUnreachable(String),
    #[error("the API refused a token that the authorization server calls valid")]
    ApiRefusedToken,
    #[error("the mesh peer may not call this route")]
    PeerRefused,
    #[error("nothing is here")]
    NotFound,
    #[error("the request is not understood: {0}")]
    BadRequest(&'static str),
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    #[error("the content type is not supported")]
    UnsupportedMediaType,
    #[error("too many streams are open in this session")]
    TooManyStreams,
    #[error("the logout token was refused: {0}")]
    LogoutToken(&'static str),
}

/// Why a sign-in did not end in a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("no started sign-in belongs to this answer")]
    UnknownTransaction,
    #[error("it took too long")]
    Expired,
    #[error("the answer comes from another issuer than was asked")]
    IssuerMismatch,
    #[error("the person or the server said no")]
    Denied,
    #[error("the authorization server answered with an error")]
    ServerError,
    #[error("the code was not accepted")]
    CodeRefused,
    #[error("the ID token was not accepted: {0}")]
    IdToken(String),
    #[error("the authorization server does not answer")]
    Unreachable,
}

impl SignInError {
    /// The word that the page turns into a sentence; it tells nothing about the cause that an
    /// attacker could use.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::UnknownTransaction | Self::Expired => "expired",
            Self::Denied => "denied",
            Self::Unreachable => "unavailable",
            _ => "failed",
        }
    }
}

impl Error {
    fn problem(&self) -> Problem {
        use StatusCode as S;
        match self {
            Self::CrossSite => Problem::new(
                S::FORBIDDEN,
                problems::CSRF_REFUSED,
                "Cross-site request refused",
            ),
            Self::DuplicateCookie => Problem::new(
                S::BAD_REQUEST,
                problems::BAD_REQUEST,
                "A cookie occurs twice",
            ),
            Self::NoSession | Self::SessionOver(_) => {
                Problem::new(S::UNAUTHORIZED, problems::UNAUTHENTICATED, "Sign in first")
            }
            Self::AuthorityUnreachable(_) => Problem::new(
                S::SERVICE_UNAVAILABLE,
                problems::UNAVAILABLE,
                "Your sign-in cannot be checked right now",
            )
            .header(header::RETRY_AFTER, HeaderValue::from_static("2")),
            Self::ApiUnreachable(_) => Problem::new(
                S::BAD_GATEWAY,
                problems::BAD_GATEWAY,
                "The API does not answer",
            ),
            Self::ApiRefusedToken => Problem::new(
                S::BAD_GATEWAY,
                problems::BAD_GATEWAY,
                "The API refused the call",
            ),
            Self::PeerRefused => {
                Problem::new(S::FORBIDDEN, problems::PEER_REFUSED, "Not for this caller")
            }
            Self::NotFound => Problem::new(S::NOT_FOUND, problems::NOT_FOUND, "Not found"),
            Self::BadRequest(why) => {
                Problem::new(S::BAD_REQUEST, problems::BAD_REQUEST, "Bad request").detail(*why)
            }
            Self::BodyTooLarge(limit) => Problem::new(
                S::PAYLOAD_TOO_LARGE,
                problems::BODY_TOO_LARGE,
                "Body too large",
            )
            .detail(format!("at most {limit} bytes")),
            Self::UnsupportedMediaType => Problem::new(
                S::UNSUPPORTED_MEDIA_TYPE,
                problems::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported content type",
            ),
            Self::TooManyStreams => Problem::new(
                S::TOO_MANY_REQUESTS,
                problems::TOO_MANY_REQUESTS,
                "Too many streams",
            )
            .header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            Self::LogoutToken(_) => Problem::new(
                S::BAD_REQUEST,
                problems::BAD_REQUEST,
                "Logout token refused",
            ),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match &self {
            Self::NoSession | Self::NotFound => {}
            Self::AuthorityUnreachable(_) | Self::ApiUnreachable(_) | Self::ApiRefusedToken => {
                tracing::warn!(error = %self, "request failed");
            }
            _ => tracing::info!(refusal = %self, "request refused"),
        }
        self.problem().into_response()
    }
}
