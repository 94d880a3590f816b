//! What the proxy counts: rate, errors and duration per edge, connections, tunnels.
//!
//! Owns: the series, looked up once per connection and edge, not per request. Labels are names of workloads that
//! hold a certificate, and bounded all the same. Must not: take a label from a request.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use ringwall_data_path::watch::Expired;
use ringwall_service::Metrics;

use crate::access_log::Direction;

/// Edges with series of their own; further ones share the name `_other`.
const MAX_EDGES: usize = 512;
const OTHER: &str = "_other";

/// Seconds, from a tenth of a millisecond: a hop inside a machine takes less than one.
const SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];

/// The proxy's metrics; clones share them.
#[derive(Clone)]
pub(crate) struct ProxyMetrics {
    edges: Arc<Mutex<HashMap<EdgeLabels, Arc<EdgeSeries>, RandomState>>>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<EdgeLabels, Histogram, Buckets>,
    open: Family<EdgeLabels, Gauge>,
    bytes: Family<ByteLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    pub(crate) handshake_failures: Counter,
    pub(crate) cut: Counter,
    pub(crate) dropped_lines: Counter,
    pub(crate) tunnels_opened: Counter,
    pub(crate) tunnels: Gauge,
    malformed: Counter,
    /// Connections to the capture listener that nobody had captured.
    pub(crate) strays: Counter,
    refused_connections: Counter,
    expired: Counter,
    reloads: Counter,
    rejected_reloads: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EdgeLabels {
    reporter: &'static str,
    source: Arc<str>,
    destination: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    reporter: &'static str,
    source: Arc<str>,
    destination: Arc<str>,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    reporter: &'static str,
    source: Arc<str>,
    destination: Arc<str>,
    /// `request` or `response`.
    part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reporter: &'static str,
    reason: &'static str,
}

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

/// The series of one edge; shared by all workers.
pub(crate) struct EdgeSeries {
    pub(crate) source: Arc<str>,
    pub(crate) destination: Arc<str>,
    classes: [Counter; 6],
    duration: Histogram,
    open: Gauge,
    bytes: [Counter; 2],
}

/// One open connection of an edge.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<EdgeSeries>);

impl fmt::Debug for ProxyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyMetrics").finish_non_exhaustive()
    }
}

impl fmt::Debug for EdgeSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeSeries({} -> {})", self.source, self.destination)
    }
}

impl ProxyMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.counter(name, help);
        let own = Self {
            edges: Arc::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(Buckets),
            open: Family::default(),
            bytes: Family::default(),
            refusals: Family::default(),
            handshake_failures: counter(
                "mesh_handshake_failures",
                "Mesh TLS handshakes that were refused or failed",
            ),
            cut: counter(
                "mesh_connections_cut",
                "Live connections ended by revocation, expiry or policy",
            ),
            dropped_lines: counter(
                "mesh_access_log_dropped",
                "Access log lines that found no room",
            ),
            tunnels_opened: counter("mesh_tunnels_opened", "Connections opened to other proxies"),
            tunnels: metrics.gauge("mesh_tunnels", "Open connections to other proxies"),
            malformed: counter(
                "mesh_malformed",
                "Connections ended for bytes that are no request",
            ),
            strays: counter(
                "mesh_stray_connections",
                "Connections to the capture listener without a destination of their own, or with more than one",
            ),
            refused_connections: counter(
                "mesh_refused_connections",
                "Connections beyond the limit",
            ),
            expired: counter(
                "mesh_expired_connections",
                "Connections ended for being too slow",
            ),
            reloads: counter("mesh_config_reloads", "Times that plugins were taken over"),
            rejected_reloads: counter(
                "mesh_config_reloads_rejected",
                "Times that they were refused, and the last good ones served on",
            ),
        };
        let register = |name: &str, help: &str, metric| metrics.register(name, help, metric);
        register(
            "mesh_requests",
            "Requests by edge and status class",
            own.requests.clone(),
        );
        metrics.register(
            "mesh_request_duration_seconds",
            "Time from the head of a request to the end of its response",
            own.durations.clone(),
        );
        metrics.register(
            "mesh_connections",
            "Open connections by edge",
            own.open.clone(),
        );
        metrics.register("mesh_bytes", "Body bytes by edge", own.bytes.clone());
        metrics.register(
            "mesh_refusals",
            "Requests refused by the proxy",
            own.refusals.clone(),
        );
        own
    }

    pub(crate) fn reloaded(&self, taken: bool) {
        if taken {
            self.reloads.inc()
        } else {
            self.rejected_reloads.inc()
        };
    }

    /// The series of one edge.
    pub(crate) fn edge(
        &self,
        direction: Direction,
        source: &str,
        destination: &str,
    ) -> Arc<EdgeSeries> {
        let mut edges = self.edges.lock();
        let labels = EdgeLabels {
            reporter: direction.as_str(),
            source: source.into(),
            destination: destination.into(),
        };
        if let Some(known) = edges.get(&labels) {
            return Arc::clone(known);
        }
        let labels = if edges.len() < MAX_EDGES {
            labels
        } else {
            EdgeLabels {
                source: OTHER.into(),
                destination: OTHER.into(),
                ..labels
            }
        };
        let series = edges
            .entry(labels)
            .or_insert_with_key(|labels| Arc::new(self.series(labels)));
        Arc::clone(series)
    }

    fn series(&self, labels: &EdgeLabels) -> EdgeSeries {
        let EdgeLabels {
            reporter,
            source,
            destination,
        } = labels.clone();
        let class = |class: &'static str| {
            let labels = RequestLabels {
                reporter,
                source: Arc::clone(&source),
                destination: Arc::clone(&destination),
                class,
            };
            self.requests.get_or_create(&labels).clone()
        };
        let bytes = |part: &'static str| {
            let labels = ByteLabels {
                reporter,
                source: Arc::clone(&source),
                destination: Arc::clone(&destination),
                part,
            };
            self.bytes.get_or_create(&labels).clone()
        };
        EdgeSeries {
            classes: ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
            duration: self.durations.get_or_create(labels).clone(),
            open: self.open.get_or_create(labels).clone(),
            bytes: ["request", "response"].map(bytes),
            source,
            destination,
        }
    }

    /// Counts a request that this proxy refused itself.
    pub(crate) fn refused(&self, direction: Direction, reason: &'static str) {
        let labels = RefusalLabels {
            reporter: direction.as_str(),
            reason,
        };
        self.refusals.get_or_create(&labels).inc();
    }

    pub(crate) fn malformed(&self) {
        self.malformed.inc();
    }

    pub(crate) fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    pub(crate) fn expired(&self, _why: Expired) {
        self.expired.inc();
    }
}

impl EdgeSeries {
    /// Counts one finished request; status 0 is a connection that broke off.
    pub(crate) fn served(&self, status: u16, took: Duration, bytes_in: u64, bytes_out: u64) {
        let class = usize::from(status / 100).min(5);
        if let Some(counter) = self.classes.get(class) {
            counter.inc();
        }
        self.duration.observe(took.as_secs_f64());
        let [request, response] = &self.bytes;
        request.inc_by(bytes_in);
        response.inc_by(bytes_out);
    }

    /// Counts a connection as open for as long as the value lives.
    pub(crate) fn opened(self: &Arc<Self>) -> OpenConnection {
        self.open.inc();
        OpenConnection(Arc::clone(self))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_bounded_and_shared() {
        let metrics = ProxyMetrics::register(&Metrics::default());
        let first = metrics.edge(Direction::Inbound, "a", "b");
        assert!(Arc::ptr_eq(
            &first,
            &metrics.edge(Direction::Inbound, "a", "b")
        ));
        for number in 0..MAX_EDGES + 10 {
            metrics.edge(Direction::Outbound, "a", &number.to_string());
        }
        let one = metrics.edge(Direction::Outbound, "a", "beyond-1");
        let two = metrics.edge(Direction::Outbound, "a", "beyond-2");
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(&*one.destination, OTHER);
    }
}
