//! What the kernel has refused, and what it has counted, for people and for Prometheus.
//!
//! Must not: take a label from a workload; labels are registered names and the kernel's own words.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_ebpf_loader::{Counters, Events, Hook, Kernel, Refused, Tier};
use ringwall_observe::{Direction, Flow, Observer, Verdict};
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabel {
    map: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TrafficLabels {
    workload: String,
    service: String,
    kind: &'static str,
}

/// The kernel's counters, as far as they were read.
#[derive(Clone, Default)]
pub(super) struct Metrics {
    tier: Family<TierLabel, Gauge>,
    refused: Family<ReasonLabel, Counter>,
    connections: Family<TrafficLabels, Counter>,
    sent: Family<TrafficLabels, Counter>,
    received: Family<TrafficLabels, Counter>,
    rtt: Family<TrafficLabels, Counter>,
    used: Family<MapLabel, Gauge>,
    capacity: Family<MapLabel, Gauge>,
}

impl Metrics {
    pub(super) fn register(metrics: &ringwall_service::Metrics, tier: &Tier) -> Self {
        let own = Self::default();
        metrics.register(
            "kernel_tier",
            "How much of the interception the kernel does: 1 for the tier that this node runs in",
            own.tier.clone(),
        );
        metrics.register(
            "kernel_refusals",
            "Connections, sockets and packets that the kernel has refused, by reason; event-lost and event-suppressed are \
             refusals that were counted and not told",
            own.refused.clone(),
        );
        metrics.register(
            "kernel_connections",
            "Ended connections of a workload, by service and way",
            own.connections.clone(),
        );
        metrics.register(
            "kernel_sent_bytes",
            "Bytes of ended connections that the other end has acknowledged",
            own.sent.clone(),
        );
        metrics.register(
            "kernel_received_bytes",
            "Bytes that ended connections have received",
            own.received.clone(),
        );
        metrics.register(
            "kernel_rtt_microseconds",
            "Sum of the smoothed round-trip times of ended connections; divide by kernel_connections",
            own.rtt.clone(),
        );
        metrics.register(
            "kernel_map_entries",
            "Entries of the kernel's maps",
            own.used.clone(),
        );
        metrics.register(
            "kernel_map_capacity",
            "Entries that fit; what does not fit is refused",
            own.capacity.clone(),
        );
        let word = tier.as_str();
        own.tier.get_or_create(&TierLabel { tier: word }).set(1);
        own
    }

    /// Adds what has grown since the last reading.
    fn add(&self, counters: &Counters) {
        for (reason, count) in &counters.refused {
            let reason = reason.as_str();
            raise(&self.refused.get_or_create(&ReasonLabel { reason }), *count);
        }
        // Names that nobody knows any more are one row, so that no count falls.
        let mut rows: HashMap<TrafficLabels, [u64; 4]> = HashMap::new();
        for row in &counters.traffic {
            let labels = TrafficLabels {
                workload: row.workload.clone().unwrap_or_default(),
                service: row.service.clone().unwrap_or_default(),
                kind: row.kind,
            };
            let sums = rows.entry(labels).or_default();
            let more = [
                row.sums.connections,
                row.sums.sent_bytes,
                row.sums.received_bytes,
                row.sums.rtt_sum_us,
            ];
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum = sum.saturating_add(more);
            }
        }
        for (labels, [connections, sent, received, rtt]) in rows {
            raise(&self.connections.get_or_create(&labels), connections);
            raise(&self.sent.get_or_create(&labels), sent);
            raise(&self.received.get_or_create(&labels), received);
            raise(&self.rtt.get_or_create(&labels), rtt);
        }
        for pressure in &counters.pressure {
            let label = MapLabel { map: pressure.map };
            self.used.get_or_create(&label).set(pressure.used.into());
            self.capacity
                .get_or_create(&label)
                .set(pressure.capacity.into());
        }
    }
}

/// The kernel counts since its maps were made; our counter began with this process and catches up.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// Reads the counters for ever.
pub(super) async fn count(kernel: Arc<Mutex<Kernel>>, metrics: Metrics, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let counters = kernel.lock().counters();
        match counters {
            Ok(counters) => metrics.add(&counters),
            Err(error) => tracing::warn!(%error, "the kernel's counters cannot be read"),
        }
    }
}

/// Writes every refusal to the log, and shows it to `ringwall observe`. The kernel bounds how many of one workload it tells;
/// the rest is counted.
pub(super) async fn tell(mut events: Events, observer: Arc<Observer>) {
    loop {
        match events.next().await {
            Ok(refused) => {
                observer.record(Verdict::Dropped, || flow(&refused));
                let (pid, command) = refused.process.clone().unzip();
                tracing::warn!(
                    workload = refused.workload,
                    service = refused.service,
                    reason = refused.reason.as_str(),
                    hook = ?refused.hook,
                    protocol = refused.protocol,
                    destination = refused.destination.map(|at| at.to_string()),
                    pid,
                    command,
                    cgroup = refused.cgroup,
                    "the kernel has refused"
                );
            }
            Err(error) => {
                tracing::error!(%error, "refusals are counted, and told no more");
                return;
            }
        }
    }
}

/// A refusal as a flow that did not come to be.
fn flow(refused: &Refused) -> Flow {
    let direction = match refused.hook {
        Hook::Ingress => Direction::Inbound,
        _ => Direction::Outbound,
    };
    let mut flow = Flow::new(OffsetDateTime::now_utc(), direction);
    let workload = refused
        .workload
        .clone()
        .unwrap_or_else(|| "unknown".to_owned());
    let destination = refused.destination;
    let other = refused
        .service
        .clone()
        .or_else(|| destination.map(|at| at.ip().to_string()));
    let other = other.unwrap_or_default();
    let (caller, callee) = match direction {
        Direction::Inbound => (other, workload),
        _ => (workload, other),
    };
    flow.caller = caller.into();
    flow.callee = callee.into();
    flow.port = destination.map_or(0, |at| at.port());
    flow.protocol = match i32::from(refused.protocol) {
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        _ => "other",
    };
    flow.reason = refused.reason.as_str().into();
    flow
}
