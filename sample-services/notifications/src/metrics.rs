//! What became of the events, as Prometheus counters.
//!
//! It must not carry a user or an event id in a label. Read next: `consumer.rs`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::EncodeLabelValue;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use ringwall_service::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    Delivered,
    SeenBefore,
    Buried,
}

/// Counts events by what became of them. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct EventMetrics {
    events: Family<Labels, Counter>,
}

impl EventMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(
            "notifications_events",
            "Events of the topic by what became of them; `Buried` ones need a person",
            new.events.clone(),
        );
        new
    }

    pub(crate) fn delivered(&self) {
        self.count(Outcome::Delivered);
    }

    pub(crate) fn seen_before(&self) {
        self.count(Outcome::SeenBefore);
    }

    pub(crate) fn buried(&self) {
        self.count(Outcome::Buried);
    }

    fn count(&self, outcome: Outcome) {
        self.events.get_or_create(&Labels { outcome }).inc();
    }
}
