//! Why the agent cannot give or get a certificate.
//!
//! Owns: the mapping of the control plane's answers. Must not: hold a token.

use std::path::PathBuf;

use ringwall_identity::IdentityError;
use ringwall_secret::SecretError;
use ringwall_tls::TlsError;
use tonic::{Code, Status};

/// Every failure of this component after its start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The control plane does not allow it: asking again changes nothing until something is declared.
    #[error("the control plane refuses: {0}")]
    Refused(String),
    /// The control plane cannot be reached or cannot answer now.
    #[error("the control plane does not answer: {0}")]
    Away(String),
    /// The join token cannot be read.
    #[error("the join token cannot be read: {0}")]
    JoinToken(#[from] SecretError),
    /// What the control plane has sent is not usable.
    #[error("the control plane's certificate is not usable: {0}")]
    Certificate(#[from] IdentityError),
    /// As above, found by the TLS library.
    #[error("the control plane's certificate is not usable: {0}")]
    Material(#[from] TlsError),
    /// As above, found by ourselves.
    #[error("the control plane's answer is not usable: {0}")]
    Answer(&'static str),
    /// A file cannot be written or read.
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl AgentError {
    pub(crate) fn file(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File {
            path: path.into(),
            source,
        }
    }
}

impl From<Status> for AgentError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::PermissionDenied
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition => Self::Refused(status.message().to_owned()),
            code => {
                // The innermost cause says what happened; the layers above only say where.
                let mut cause: &dyn std::error::Error = &status;
                while let Some(next) = cause.source() {
                    cause = next;
                }
                let text = cause.to_string();
                Self::Away(if text == status.to_string() {
                    format!("{code:?}: {}", status.message())
                } else {
                    text
                })
            }
        }
    }
}
