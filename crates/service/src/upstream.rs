//! Calls of declared upstreams: the mesh client plus a client span, trace context and metrics.
//!
//! Owns: what every outgoing call has in common. Must not: dial anything that the configuration does
//! not name; a component gets its upstreams from `Shell::upstream` alone.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use ringwall_http_io::{BoxBody, Client, ClientError, ClientLimits, Transport, body::collect};
use ringwall_token::{BoxError, FetchFuture, JwksCache, JwksLimits};
use tracing::{Instrument, Span, field::Empty};

use crate::{
    metrics::{Metrics, method_label},
    telemetry,
};

/// One upstream workload. Clones share the connection pool.
#[derive(Clone)]
pub struct Upstream {
    client: Client,
    name: Arc<str>,
    metrics: Metrics,
}

impl Upstream {
    pub(crate) fn new(client: Client, name: &str, metrics: Metrics) -> Self {
        Self {
            client: client.named(name),
            name: name.into(),
            metrics,
        }
    }

    /// An upstream over any client, counted nowhere: for tests of a component in one process.
    pub fn over(client: Client, name: &str) -> Self {
        Self::new(client, name, Metrics::default())
    }

    /// Cache of the key set that this upstream publishes at `path`. Keys come from this address
    /// alone, whatever a token says.
    pub fn jwks(&self, path: &'static str) -> JwksCache {
        let upstream = self.clone();
        let fetch = move || -> FetchFuture {
            let upstream = upstream.clone();
            Box::pin(async move { upstream.fetch_jwks(path).await })
        };
        JwksCache::new(fetch, JwksLimits::default())
    }

    /// One fetch of that key set, for a cache that fetches in its own way.
    pub async fn fetch_jwks(&self, path: &str) -> Result<Bytes, BoxError> {
        let response = self.get(path).send().await?;
        if !response.status().is_success() {
            return Err(format!("{} answered {}", self.name, response.status()).into());
        }
        Ok(collect(response.into_body(), JwksLimits::default().max_bytes).await?)
    }

    /// Name under which the upstream is declared.
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn observed(
        &self,
        mut request: Request<BoxBody>,
        span: Span,
    ) -> Result<Response<Incoming>, ClientError> {
        telemetry::inject_span(&span, request.headers_mut());
        let method = request.method().clone();
        let started = Instant::now();
        let result = self.client.send(request).await;
        let outcome = match &result {
            Ok(response) => {
                let status = response.status();
                span.record("http.response.status_code", status.as_u16());
                if status.is_client_error() || status.is_server_error() {
                    span.record("otel.status_code", "ERROR");
                }
                status.as_str().to_owned()
            }
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", error_type(error));
                tracing::warn!(upstream = %self.name, %error, "upstream call failed");
                "error".to_owned()
            }
        };
        self.metrics
            .called(&self.name, &method, outcome, started.elapsed());
        result
    }

    /// A client span (OpenTelemetry semantic conventions for HTTP). The query is left out: it may
    /// hold what must not be recorded.
    fn span(&self, request: &Request<BoxBody>) -> Span {
        let method = method_label(request.method());
        tracing::info_span!(
            "call",
            otel.name = %format_args!("{method} {}", self.name),
            otel.kind = "client",
            otel.status_code = Empty,
            error.r#type = Empty,
            http.request.method = method,
            http.response.status_code = Empty,
            peer.service = &*self.name,
            url.path = request.uri().path(),
        )
    }
}

impl Transport for Upstream {
    async fn send(&self, request: Request<BoxBody>) -> Result<Response<Incoming>, ClientError> {
        let span = self.span(&request);
        Box::pin(self.observed(request, span.clone()).instrument(span)).await
    }

    fn limits(&self) -> &ClientLimits {
        self.client.limits()
    }

    fn peer(&self) -> &Arc<str> {
        &self.name
    }
}

fn error_type(error: &ClientError) -> &'static str {
    match error {
        ClientError::Connect { .. } => "connect",
        ClientError::Timeout { .. } => "timeout",
        ClientError::Exchange { .. } => "exchange",
        ClientError::Body { .. } => "body",
        ClientError::Request(_) => "request",
        ClientError::Refused { .. } => "refused",
        ClientError::Decode { .. } => "decode",
    }
}
