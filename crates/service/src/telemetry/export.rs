//! OTLP/HTTP over the platform's own client, so that traces leave by the mesh like everything else.
//!
//! The SDK exports from a thread of its own; the client needs the runtime. So each export runs as a
//! task of the runtime, and the thread only waits for it.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use http::{Request, Response};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use ringwall_http_io::{
    Client, Transport,
    body::{collect, full},
};
use tokio::runtime::Handle;

/// Largest answer of a receiver that is looked at, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) struct ExportClient {
    client: Client,
    runtime: Handle,
    /// Whether the last export failed: a receiver that is away is reported once, not every second.
    failing: AtomicBool,
}

impl ExportClient {
    pub(super) fn new(client: Client, runtime: Handle) -> Self {
        Self {
            client,
            runtime,
            failing: AtomicBool::new(false),
        }
    }

    fn report(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let problem = match outcome {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(error) if !was_failing => {
                tracing::warn!(
                    error,
                    "traces cannot be exported; requests are not affected"
                );
            }
            None if was_failing => tracing::info!("traces are exported again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for ExportClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let response = client.send(request.map(full)).await?;
            let (parts, body) = response.into_parts();
            Ok(Response::from_parts(
                parts,
                collect(body, MAX_ANSWER).await?,
            ))
        };
        let outcome = self
            .runtime
            .spawn(exchange)
            .await
            .unwrap_or_else(|error| Err(error.into()));
        self.report(&outcome);
        outcome
    }
}

impl fmt::Debug for ExportClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportClient")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
