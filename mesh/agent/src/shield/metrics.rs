//! What the shield counts, for Prometheus. Labels are our own words and names of interfaces.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_ebpf_loader::{Attached, Count, Fill, List};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Entries {
    list: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    interface: String,
    mode: &'static str,
}

#[derive(Clone, Default)]
pub(super) struct Metrics {
    attached: Family<Place, Gauge>,
    /// Where it was at work once; interfaces are configured, so that they are few.
    places: Arc<Mutex<Vec<Place>>>,
    dropped: Family<Reason, Counter>,
    passed: Family<Reason, Counter>,
    entries: Family<Entries, Gauge>,
    capacity: Family<Entries, Gauge>,
    reports: Family<Outcome, Counter>,
}

impl Metrics {
    pub(super) fn register(metrics: &ringwall_service::Metrics) -> Self {
        let own = Self::default();
        metrics.register(
            "shield_attached",
            "1 where the edge shield is at work, by interface and way",
            own.attached.clone(),
        );
        metrics.register(
            "shield_dropped_packets",
            "Packets that the edge shield has dropped, by reason; front: sources that were dropped many times before",
            own.dropped.clone(),
        );
        metrics.register(
            "shield_passed_packets",
            "Packets that it has let pass for a reason: allow-listed, expired, unreadable",
            own.passed.clone(),
        );
        metrics.register(
            "shield_entries",
            "Denied sources, by list",
            own.entries.clone(),
        );
        metrics.register(
            "shield_capacity",
            "Denied sources that fit",
            own.capacity.clone(),
        );
        metrics.register(
            "shield_reports",
            "What came of sources that a gateway wanted denied",
            own.reports.clone(),
        );
        own
    }

    /// Where it is at work now; what was before is 0 from then on.
    pub(super) fn attached(&self, places: &[Attached]) {
        let mut known = self.places.lock();
        for place in places {
            let place = Place {
                interface: place.interface.clone(),
                mode: place.mode.as_str(),
            };
            if !known.contains(&place) {
                known.push(place);
            }
        }
        for place in &*known {
            let at_work = places
                .iter()
                .any(|one| one.interface == place.interface && one.mode.as_str() == place.mode);
            self.attached.get_or_create(place).set(at_work.into());
        }
    }

    pub(super) fn reported(&self, outcome: &'static str) {
        self.reports.get_or_create(&Outcome { outcome }).inc();
    }

    /// Adds what has grown since the last reading: the kernel counts since its maps were made.
    pub(super) fn read(&self, counts: &[(Count, u64)], fill: &[(List, Fill)]) {
        for (count, packets) in counts {
            let family = if count.is_drop() {
                &self.dropped
            } else {
                &self.passed
            };
            let counter = family.get_or_create(&Reason {
                reason: count.as_str(),
            });
            counter.inc_by(packets.saturating_sub(counter.get()));
        }
        for (list, fill) in fill {
            let list = Entries {
                list: list.as_str(),
            };
            self.entries.get_or_create(&list).set(fill.used.into());
            self.capacity.get_or_create(&list).set(fill.capacity.into());
        }
    }
}
