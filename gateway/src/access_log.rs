//! One structured line per request, whatever way the request ends.
//!
//! Owns: [`Exchange`], the guard that is made first and writes its line when it is dropped, so that no exit of
//! the pipeline goes unrecorded. Must not: wait (see `ringwall_data_path::log`), or write a query, a header's value
//! or a token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use http::{Method, Uri, Version};
use ringwall_data_path::log::Line;
use ringwall_data_path::trace::{Hop, Trace};

use crate::conn::Connection;
use crate::pipeline::route::Routed;
use crate::token_cache::VerifiedToken;

/// One request and its response, from the head to the last byte.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) connection: Arc<Connection>,
    started: Instant,
    pub(crate) now: SystemTime,
    method: Method,
    uri: Uri,
    version: Version,
    pub(crate) host: Option<Box<str>>,
    pub(crate) routed: Option<Routed>,
    pub(crate) token: Option<Arc<VerifiedToken>>,
    pub(crate) trace: Trace,
    pub(crate) status: u16,
    pub(crate) refusal: Option<&'static str>,
    /// The policies that denied, or what else explains the refusal to an operator.
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) bytes_out: u64,
    /// Counted by the request's body while it streams.
    bytes_in: Option<Arc<AtomicU64>>,
    upstream_head: Option<Instant>,
    /// The response's last byte was handed over; otherwise the line says `aborted`.
    pub(crate) complete: bool,
}

impl Exchange {
    /// Begins the record of a request; from here on it counts as in flight.
    pub(crate) fn open<B>(connection: &Arc<Connection>, request: &http::Request<B>) -> Self {
        connection.watch.begin();
        let shared = &connection.worker.shared;
        Self {
            connection: Arc::clone(connection),
            started: Instant::now(),
            now: SystemTime::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: None,
            routed: None,
            token: None,
            trace: Trace::start(
                &connection.worker.random,
                request.headers(),
                shared.telemetry.then_some(Hop::Edge),
            ),
            status: 0,
            refusal: None,
            reason: None,
            bytes_out: 0,
            bytes_in: None,
            upstream_head: None,
            complete: false,
        }
    }

    pub(crate) const fn method(&self) -> &Method {
        &self.method
    }

    /// The upstream has answered with a response head.
    pub(crate) fn upstream_answered(&mut self) {
        self.upstream_head = Some(Instant::now());
    }

    pub(crate) fn count_request_bytes(&mut self, counter: Option<Arc<AtomicU64>>) {
        self.bytes_in = counter;
    }

    /// Monotonic time since the process's start, for the limiter.
    pub(crate) fn since_start(&self) -> std::time::Duration {
        self.started
            .saturating_duration_since(self.connection.worker.shared.began)
    }
}

/// Begins a line that belongs to no request.
pub(crate) fn line<'buffer>(buffer: &'buffer mut Vec<u8>, stamp: &str) -> Line<'buffer> {
    Line::begin(buffer, stamp)
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.watch.end();
        let took = self.started.elapsed();
        if let Some(routed) = &self.routed {
            let route = routed.route();
            let metrics = &self.connection.worker.shared.metrics;
            metrics.served(&route.series, &route.id, &self.method, self.status, took);
        }
        self.trace.finish(self.status, self.refusal);
        let worker = &self.connection.worker;
        worker.log.write(|buffer, stamp| {
            let mut line = Line::begin(buffer, stamp);
            line.text("method", self.method.as_str());
            line.text("host", self.host.as_deref().unwrap_or(""));
            line.text("path", self.uri.path());
            if let Some(routed) = &self.routed {
                line.text("route", &routed.route().id);
            }
            line.number("status", u64::from(self.status));
            if let Some(refusal) = self.refusal {
                line.text("refusal", refusal);
            }
            if let Some(reason) = &self.reason {
                line.text("reason", reason);
            }
            if let Some(token) = &self.token {
                line.text("sub", token.subject());
                line.text("client", token.client());
            }
            let bytes_in = self
                .bytes_in
                .as_ref()
                .map_or(0, |bytes| bytes.load(Ordering::Relaxed));
            line.number("bytes_in", bytes_in);
            line.number("bytes_out", self.bytes_out);
            line.number("us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            if let Some(head) = self.upstream_head {
                let waited = head.saturating_duration_since(self.started).as_micros();
                line.number("upstream_us", u64::try_from(waited).unwrap_or(u64::MAX));
            }
            if !self.complete {
                line.text("end", "aborted");
            }
            line.text("peer", &self.connection.peer_text);
            line.text("http", version_text(self.version));
            line.text("trace_id", self.trace.id());
            line.end();
        });
    }
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
