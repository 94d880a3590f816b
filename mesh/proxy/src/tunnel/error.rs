//! What failed on the way to a peer, and whether the peer may have seen it.

use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use http::StatusCode;
use ringwall_http_io::body::BoxError;
use thiserror::Error;

/// Why there is no response.
#[derive(Debug, Error)]
pub(crate) enum SendError {
    /// No connection: TCP, TLS or identity.
    #[error("connect: {0}")]
    Connect(Arc<str>),
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// Too many wait for this endpoint already.
    #[error("too many requests wait for a connection")]
    Pending,
    /// The peer has said that it did not look at the request (REFUSED_STREAM, or GOAWAY before it).
    #[error("the peer did not take the request: {0}")]
    NotTaken(h2::Error),
    /// The peer reset the stream.
    #[error("the peer reset the stream: {0}")]
    Reset(h2::Error),
    /// The connection broke with the request on its way.
    #[error("the connection broke: {0}")]
    Lost(h2::Error),
    /// A tunnel that the peer declined.
    #[error("the peer answered {0} to a CONNECT")]
    Refused(StatusCode),
    /// The peer cannot carry a WebSocket (RFC 8441 §3).
    #[error("the peer has no extended CONNECT")]
    NoExtendedConnect,
    /// Our own side failed to give the body of the request.
    #[error("the request's body: {0}")]
    Body(BoxError),
}

impl SendError {
    /// Whether the peer certainly did not act on the request, so that another attempt is safe for any method.
    pub(crate) const fn is_unseen(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Pending | Self::NotTaken(_) => true,
            Self::Reset(_)
            | Self::Lost(_)
            | Self::Refused(_)
            | Self::NoExtendedConnect
            | Self::Body(_) => false,
        }
    }

    /// Whether it speaks against the endpoint rather than against the request.
    pub(crate) const fn is_fault_of_endpoint(&self) -> bool {
        matches!(
            self,
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Reset(_) | Self::Lost(_)
        )
    }

    /// Sorts what the h2 crate says of a stream that was begun (RFC 9113 §6.8, §8.7).
    pub(super) fn of_stream(error: h2::Error) -> Self {
        let refused = error.reason() == Some(Reason::REFUSED_STREAM);
        if error.is_remote() && (error.is_go_away() || refused) {
            // The h2 crate ends with a GOAWAY only those streams that the peer's last id leaves out.
            Self::NotTaken(error)
        } else if error.is_reset() {
            Self::Reset(error)
        } else {
            Self::Lost(error)
        }
    }
}
