//! What the gateway counts, beside the requests that the shell's metrics count for every component.
//!
//! Must not: take a label from a client.

use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use ringwall_data_path::watch::Expired;
use ringwall_service::Metrics;

/// The gateway's metrics; clones share them.
#[derive(Clone)]
pub(crate) struct GatewayMetrics {
    requests: Metrics,
    handshake_failures: Counter,
    malformed: Counter,
    slow_readers: Counter,
    slow_writers: Counter,
    stalled: Counter,
    refused_connections: Counter,
    severed: Counter,
    reloads: Counter,
    rejected_reloads: Counter,
    dropped_lines: Counter,
    denied_sources: Counter,
    spared_sources: Counter,
    failed_reports: Counter,
}

/// The series that one route feeds: one per declared method and status.
#[derive(Debug, Default)]
pub(crate) struct RouteSeries(Mutex<Vec<(Method, u16, Histogram)>>);

impl std::fmt::Debug for GatewayMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayMetrics").finish_non_exhaustive()
    }
}

impl GatewayMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.counter(name, help);
        Self {
            requests: metrics.clone(),
            handshake_failures: counter(
                "gateway_tls_handshake_failures",
                "Public TLS handshakes that failed",
            ),
            malformed: counter(
                "gateway_malformed",
                "Connections ended for bytes that are no request",
            ),
            slow_readers: counter(
                "gateway_expired_reads",
                "Connections ended while a request was due",
            ),
            slow_writers: counter(
                "gateway_expired_writes",
                "Connections ended for not taking a response",
            ),
            stalled: counter(
                "gateway_stalled",
                "Connections ended with a request on which nothing moved",
            ),
            refused_connections: counter(
                "gateway_refused_connections",
                "Connections beyond the limit",
            ),
            severed: counter(
                "gateway_severed_upstreams",
                "Connections to services ended because these are believed no more",
            ),
            reloads: counter("gateway_reloads", "Configurations taken over"),
            rejected_reloads: counter("gateway_rejected_reloads", "Configurations refused"),
            dropped_lines: counter(
                "gateway_access_log_dropped",
                "Access log lines that found no room",
            ),
            denied_sources: counter(
                "gateway_abuse_denied",
                "Sources that the edge shield drops on our word",
            ),
            spared_sources: counter(
                "gateway_abuse_spared",
                "Sources that we have reported and the edge shield does not drop: allowed, or denied already",
            ),
            failed_reports: counter(
                "gateway_abuse_reports_failed",
                "Sources that could not be reported to the edge shield",
            ),
        }
    }

    /// Counts one request of `route`, whose series are looked up once each.
    pub(crate) fn served(
        &self,
        series: &RouteSeries,
        route: &str,
        method: &Method,
        status: u16,
        took: Duration,
    ) {
        let mut series = series.0.lock();
        let known = |(m, s, _): &&(Method, u16, Histogram)| *s == status && m == method;
        if let Some((_, _, histogram)) = series.iter().find(known) {
            histogram.observe(took.as_secs_f64());
            return;
        }
        let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let histogram = self.requests.served_histogram(method, route, code);
        histogram.observe(took.as_secs_f64());
        series.push((method.clone(), status, histogram));
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshake_failures.inc();
    }

    pub(crate) fn malformed(&self) {
        self.malformed.inc();
    }

    pub(crate) fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    pub(crate) fn severed(&self, connections: u64) {
        self.severed.inc_by(connections);
    }

    pub(crate) fn expired(&self, expired: Expired) {
        match expired {
            Expired::Read => self.slow_readers.inc(),
            Expired::Write => self.slow_writers.inc(),
            Expired::Stall => self.stalled.inc(),
        };
    }

    /// The agent has answered to a report.
    pub(crate) fn reported(&self, denied: bool) {
        if denied {
            self.denied_sources.inc()
        } else {
            self.spared_sources.inc()
        };
    }

    pub(crate) fn report_failed(&self) {
        self.failed_reports.inc();
    }

    #[cfg(test)]
    pub(crate) fn failed_reports(&self) -> u64 {
        self.failed_reports.get()
    }

    pub(crate) fn lines_dropped(&self, lines: u64) {
        self.dropped_lines.inc_by(lines);
    }

    pub(crate) fn reloaded(&self, taken: bool) {
        if taken {
            self.reloads.inc()
        } else {
            self.rejected_reloads.inc()
        };
    }
}
