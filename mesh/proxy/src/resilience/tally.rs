//! What happened to the calls of one destination, in numbers.
//!
//! Owns: counters that the metrics show (`outbound/metrics.rs` registers them). Must not: decide anything.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::breaker::Phase;

/// The numbers of one destination; clones share them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) retries: Counter,
    pub(crate) hedges: Counter,
    /// Retries that the budget did not allow.
    pub(crate) exhausted: Counter,
    pub(crate) in_flight: Gauge,
    /// 0 closed, 1 half-open, 2 open.
    pub(crate) breaker: Gauge,
    pub(crate) opened: Counter,
    pub(crate) ejections: Counter,
    pub(crate) ejected: Gauge,
    /// Whether all endpoints are ejected, and so all are used.
    pub(crate) panicking: Gauge,
}

impl Tally {
    pub(super) fn turned(&self, before: Phase, after: Phase) {
        if before == after {
            return;
        }
        if after == Phase::Open {
            self.opened.inc();
        }
        self.breaker.set(match after {
            Phase::Closed => 0,
            Phase::HalfOpen => 1,
            Phase::Open => 2,
        });
    }
}
