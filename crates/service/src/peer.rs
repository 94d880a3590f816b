//! The caller's verified workload identity, as handlers see it.

use axum::{extract::FromRequestParts, http::request::Parts};
use http::StatusCode;
use ringwall_http_io::Problem;
use ringwall_identity::SpiffeId;
use ringwall_proto::problems;

/// Who is at the other end of the mTLS connection. Only the shell's listener can make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(pub SpiffeId);

impl Peer {
    /// Name of the workload, such as `orders`.
    pub fn name(&self) -> &str {
        self.0.path()
    }

    /// Refuses every caller but the named one (`403`, type `peer-refused`).
    pub fn require(&self, name: &str) -> Result<(), Problem> {
        if self.name() == name {
            return Ok(());
        }
        tracing::warn!(peer = %self.0, expected = name, "caller refused on this route");
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            problems::PEER_REFUSED,
            "Caller refused",
        )
        .detail("This route is not open to the calling workload."))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(
                StatusCode::FORBIDDEN,
                problems::PEER_REFUSED,
                "Caller refused",
            )
            .detail("The connection carries no workload identity.")
        })
    }
}
