//! The application's calls, on their way to other services.

mod attempts;
mod replay;

use std::sync::Arc;

use crate::worker::Accepted;

/// What outbound keeps per worker.
#[derive(Debug, Default)]
pub(crate) struct Local {}

/// One declared service for opaque bytes.
#[derive(Debug)]
pub(crate) struct TcpTarget {
    pub(crate) service: Arc<str>,
    /// Default: the service's first `tcp` port.
    pub(crate) port: Option<u16>,
}

/// Serves one plaintext connection of the application.
pub(crate) async fn http(accepted: Accepted) {
    drop(accepted);
}

/// Carries one connection of the application to the service of its listener.
pub(crate) async fn tcp(accepted: Accepted, _target: Arc<TcpTarget>) {
    drop(accepted);
}
