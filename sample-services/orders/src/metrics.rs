//! What became of the orders, as Prometheus counters.
//!
//! It must not carry a user or an order id in a label. Read next: `place_order.rs`.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use ringwall_service::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

/// What an order came to; `Unresolved` ones are counted again when recovery has settled them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Placed,
    Declined,
    Failed,
    Unresolved,
}

/// Counts orders by what became of them. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct OrderMetrics {
    orders: Family<Labels, Counter>,
}

impl OrderMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(
            "orders_settled",
            "Orders by what became of them",
            new.orders.clone(),
        );
        new
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.orders.get_or_create(&Labels { outcome }).inc();
    }
}
