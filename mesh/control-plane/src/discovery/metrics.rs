//! What can be counted about configuration streams.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_service::Metrics as Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Kind {
    kind: &'static str,
}

/// Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(super) streams: Gauge,
    pub(super) endpoints: Gauge,
    pub(super) lost_endpoints: Gauge,
    messages: Family<Kind, Counter>,
    answers: Family<Kind, Counter>,
    refused: Counter,
}

impl Metrics {
    pub(super) fn register(&self, registry: &Registry) {
        registry.register("mesh_streams", "Connected proxies", self.streams.clone());
        registry.register(
            "mesh_endpoints",
            "Registered endpoints",
            self.endpoints.clone(),
        );
        registry.register(
            "mesh_endpoints_lost",
            "Registered endpoints whose proxy is not connected",
            self.lost_endpoints.clone(),
        );
        registry.register(
            "mesh_config_messages",
            "Messages to proxies",
            self.messages.clone(),
        );
        registry.register(
            "mesh_config_answers",
            "Answers of proxies",
            self.answers.clone(),
        );
        registry.register(
            "mesh_streams_refused",
            "Streams that were refused or ended for a breach",
            self.refused.clone(),
        );
    }

    pub(super) fn sent(&self, snapshot: bool) {
        let kind = if snapshot { "snapshot" } else { "delta" };
        self.messages.get_or_create(&Kind { kind }).inc();
    }

    pub(super) fn answered(&self, applied: bool) {
        let kind = if applied { "ack" } else { "nack" };
        self.answers.get_or_create(&Kind { kind }).inc();
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }
}
