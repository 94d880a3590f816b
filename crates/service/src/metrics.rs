//! Prometheus metrics (OpenMetrics text): the built-in ones and the component's own.
//!
//! Must not: take a label from a client; label values are routes, methods, statuses and peers.
//! Read next: `metrics/process.rs`, the figures that are read at each scrape.

mod process;

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Metric, Registry},
};

/// Bucket bounds in seconds, from a millisecond to the request timeout.
const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

type Histograms<L> = Family<L, Histogram, Buckets>;

/// Metrics that are kept elsewhere.
struct Others(Box<dyn Fn() -> String + Send + Sync>);

impl std::fmt::Debug for Others {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Others")
    }
}

/// The process's metrics. Clones share the registry.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    others: Arc<Mutex<Vec<Others>>>,
    server: Histograms<ServerLabels>,
    client: Histograms<ClientLabels>,
    pub(crate) handshake_failures: Counter,
    pub(crate) loopback_refusals: Counter,
    pub(crate) connections: Gauge,
    pub(crate) panics: Counter,
    pub(crate) identity_not_after: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientLabels {
    peer: Arc<str>,
    method: &'static str,
    outcome: String,
}

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            others: Arc::default(),
            server: Family::new_with_constructor(Buckets),
            client: Family::new_with_constructor(Buckets),
            handshake_failures: Counter::default(),
            loopback_refusals: Counter::default(),
            connections: Gauge::default(),
            panics: Counter::default(),
            identity_not_after: Gauge::default(),
        };
        let process = Box::new(process::Process::default());
        metrics.registry.lock().register_collector(process);
        metrics.register(
            "http_server_request_duration_seconds",
            "Time from the head of a request to the head of its answer",
            metrics.server.clone(),
        );
        metrics.register(
            "http_client_request_duration_seconds",
            "Time from sending a request until the head of its answer",
            metrics.client.clone(),
        );
        metrics.register(
            "tls_handshake_failures",
            "Refused or broken handshakes",
            metrics.handshake_failures.clone(),
        );
        metrics.register(
            "loopback_refusals",
            "Requests past the service proxy, refused",
            metrics.loopback_refusals.clone(),
        );
        metrics.register(
            "http_server_connections",
            "Open connections",
            metrics.connections.clone(),
        );
        metrics.register(
            "http_server_panics",
            "Requests that ended in a panic",
            metrics.panics.clone(),
        );
        metrics.register(
            "identity_not_after_seconds",
            "End of the workload certificate in use, in seconds since 1970",
            metrics.identity_not_after.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Registers a metric of the component. Counters get the suffix `_total` from the format itself.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry.lock().register(name, help, metric);
    }

    /// A registered counter.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(name, help, counter.clone());
        counter
    }

    /// A registered gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, help, gauge.clone());
        gauge
    }

    /// A registered histogram of seconds with the platform's buckets.
    pub fn histogram(&self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram::new(SECONDS);
        self.register(name, help, histogram.clone());
        histogram
    }

    /// Counts one served request. Public so that a data path of its own counts the same way.
    pub fn served(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        self.served_histogram(method, route, status)
            .observe(took.as_secs_f64());
    }

    /// The series that [`Self::served`] feeds, for a data path that counts too often to look it up
    /// each time. Unit: seconds.
    pub fn served_histogram(&self, method: &Method, route: &str, status: StatusCode) -> Histogram {
        let labels = ServerLabels {
            method: method_label(method),
            route: route.to_owned(),
            status: status.as_u16(),
        };
        self.server.get_or_create(&labels).clone()
    }

    /// Counts one call of an upstream; `outcome` is the status or `error`.
    pub(crate) fn called(&self, peer: &Arc<str>, method: &Method, outcome: String, took: Duration) {
        let labels = ClientLabels {
            peer: Arc::clone(peer),
            method: method_label(method),
            outcome,
        };
        self.client
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Shows metrics that are kept elsewhere, such as those of plugins: complete families in OpenMetrics text, without the
    /// line that ends it.
    pub fn show_others(&self, others: impl Fn() -> String + Send + Sync + 'static) {
        self.others.lock().push(Others(Box::new(others)));
    }

    /// The whole registry in OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry.lock())?;
        for others in self.others.lock().iter() {
            text.push_str(&(others.0)());
        }
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Known methods by name; a made-up one must not make a new time series.
pub(crate) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_own_metrics_appear_in_the_text() {
        let metrics = Metrics::default();
        metrics.counter("orders_placed", "Orders placed").inc();
        metrics.served(
            &Method::GET,
            "/v1/items",
            StatusCode::OK,
            Duration::from_millis(3),
        );
        let text = metrics.encode().unwrap();
        assert!(text.contains("orders_placed_total 1"), "{text}");
        assert!(text.contains(
            r#"http_server_request_duration_seconds_count{method="GET",route="/v1/items",status="200"} 1"#
        ));
    }

    #[test]
    fn made_up_methods_share_one_label() {
        assert_eq!(
            method_label(&Method::from_bytes(b"BREW").unwrap()),
            "_OTHER"
        );
    }
}
