//! Why a request was refused, and the one place where that becomes a gRPC status.
//!
//! Owns: the mapping. Must not: tell strangers why a join token was refused; the audit log does.

use std::time::Duration;

use ringwall_identity::IdentityError;
use ringwall_secret::SecretError;
use ringwall_store::StoreError;
use ringwall_tls::TlsError;
use ringwall_token::TokenError;
use thiserror::Error;
use tonic::{Code, Status};

/// Every refusal and failure of this component.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The join token cannot be used; the reason is in the audit log.
    #[error("the join token is refused")]
    JoinToken,
    /// Too many attempts.
    #[error("too many attempts, try again in {0:?}")]
    RateLimited(Duration),
    /// The caller may not do this.
    #[error("{0}")]
    Denied(String),
    /// The request does not follow the contract.
    #[error("{0}")]
    Invalid(String),
    /// What the request names is not there.
    #[error("{0}")]
    Missing(String),
    /// More than this component keeps.
    #[error("{0}")]
    TooMany(String),
    /// Only the leader does this.
    #[error("this replica does not lead, {leader} does")]
    NotLeader {
        /// The holder of the leadership, or nobody's name.
        leader: String,
    },
    /// Another replica was faster; the caller reads again.
    #[error("changed by somebody else at the same time")]
    Conflict,
    /// A certificate could not be made, or a request for one is refused.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token could not be signed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A secret could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The own identity could not be taken into use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    File {
        /// The file.
        what: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn denied(why: impl Into<String>) -> Self {
        Self::Denied(why.into())
    }

    /// The word for metrics and the audit log: few, and none of a caller's making.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::JoinToken => "join_token",
            Self::RateLimited(_) => "rate_limited",
            Self::Denied(_) => "denied",
            Self::Identity(IdentityError::Request(_)) => "csr",
            Self::Invalid(_) | Self::Missing(_) => "invalid",
            Self::TooMany(_) => "too_many",
            Self::NotLeader { .. } => "not_leader",
            Self::Conflict => "conflict",
            Self::Identity(IdentityError::AuthorityExpired(_)) => "authority_expired",
            Self::Identity(_) => "identity",
            Self::Store(_) => "store",
            Self::Token(_) | Self::Secret(_) | Self::Tls(_) | Self::File { .. } => "internal",
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::JoinToken => Code::Unauthenticated,
            Self::RateLimited(_) | Self::TooMany(_) => Code::ResourceExhausted,
            Self::Denied(_) => Code::PermissionDenied,
            Self::Invalid(_)
            | Self::Identity(
                IdentityError::Request(_)
                | IdentityError::Name(_)
                | IdentityError::SpiffeId { .. }
                | IdentityError::Serial(_),
            ) => Code::InvalidArgument,
            Self::Missing(_) => Code::NotFound,
            Self::NotLeader { .. } => Code::FailedPrecondition,
            Self::Conflict => Code::Aborted,
            Self::Identity(IdentityError::AuthorityExpired(_)) | Self::Store(_) => {
                Code::Unavailable
            }
            Self::Identity(_)
            | Self::Token(_)
            | Self::Secret(_)
            | Self::Tls(_)
            | Self::File { .. } => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = error.code();
        match code {
            // What went wrong inside is for our log, not for callers.
            Code::Internal | Code::Unavailable => {
                tracing::error!(%error, "a request failed");
                let text = if code == Code::Internal {
                    "the control plane failed; its log says why"
                } else {
                    "the control plane cannot do this now; its log says why"
                };
                Self::new(code, text)
            }
            _ => Self::new(code, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_learn_nothing_about_tokens_and_failures() {
        let status = Status::from(Error::JoinToken);
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(status.message(), "the join token is refused");
        let status = Status::from(Error::Store(StoreError::Closed));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(!status.message().contains("database"));
    }

    #[test]
    fn a_bad_request_is_the_callers_fault() {
        let status = Status::from(Error::Identity(IdentityError::Request("not PKCS#10")));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(Error::Conflict.code(), Code::Aborted);
    }
}
