//! Numbers about plugins, and the numbers that plugins keep.
//!
//! Owns: the host's own counters of each plugin and the text format. Both outlive instances and versions: a replaced
//! plugin goes on counting. Must not: read clocks. Read next: `metrics/defined.rs`, what plugins define themselves.

mod defined;
mod encode;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use self::defined::{Defined, MetricKind};
use crate::instance::FailureKind;

/// Upper bounds of the histogram of callback times, in microseconds.
const CALLBACK_BOUNDS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000, 20_000, 100_000];

/// A count that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts below fixed bounds; the last one has none.
#[derive(Debug)]
pub(crate) struct Buckets<const N: usize> {
    counts: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Buckets<N> {
    pub(crate) fn record(&self, bounds: &[u64; N], value: u64) {
        let mut found = bounds.iter().zip(&self.counts);
        let bucket = found.find(|(bound, _)| value <= **bound);
        let bucket = bucket.map_or(&self.above, |(_, count)| count);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }
}

/// What the host counts about one plugin.
#[derive(Debug, Default)]
pub(crate) struct PluginMetrics {
    pub(crate) streams: Counter,
    pub(crate) traps: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) floods: Counter,
    pub(crate) exits: Counter,
    pub(crate) paused_too_long: Counter,
    pub(crate) recreations: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) failed_open: Counter,
    pub(crate) failed_closed: Counter,
    pub(crate) refused_hostcalls: Counter,
    pub(crate) log_lines_dropped: Counter,
    pub(crate) local_responses: Counter,
    pub(crate) callouts: Counter,
    pub(crate) callouts_failed: Counter,
    pub(crate) swaps: Counter,
    pub(crate) instances: AtomicI64,
    pub(crate) memory: AtomicI64,
    pub(crate) starts: Counter,
    /// Until the guest's own code ran for the first time, and until it was configured.
    pub(crate) instantiation_nanoseconds: Counter,
    pub(crate) start_nanoseconds: Counter,
    callback_time: CallbackTime,
    pub(crate) defined: Defined,
}

#[derive(Debug, Default)]
struct CallbackTime(Buckets<12>);

impl PluginMetrics {
    /// An instance was made in so much processor time, and was made and configured in so much.
    pub(crate) fn started(&self, made: Duration, configured: Duration) {
        self.starts.add(1);
        let nanoseconds = |took: Duration| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.instantiation_nanoseconds.add(nanoseconds(made));
        self.start_nanoseconds.add(nanoseconds(configured));
    }

    pub(crate) fn callback(&self, took: Duration) {
        let rest = u64::from(took.subsec_nanos().div_ceil(1000));
        let microseconds = took
            .as_secs()
            .saturating_mul(1_000_000)
            .saturating_add(rest);
        self.callback_time.0.record(&CALLBACK_BOUNDS, microseconds);
    }

    pub(crate) fn failure(&self, kind: FailureKind) {
        let counter = match kind {
            FailureKind::Timeout => &self.timeouts,
            FailureKind::HostcallFlood => &self.floods,
            FailureKind::Exit => &self.exits,
            FailureKind::PausedTooLong => &self.paused_too_long,
            FailureKind::Unavailable => &self.unavailable,
            FailureKind::Trap | FailureKind::StackOverflow => &self.traps,
        };
        counter.add(1);
    }
}

/// The metrics of all plugins, by name.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    plugins: Mutex<BTreeMap<Arc<str>, Arc<PluginMetrics>>>,
}

impl Registry {
    /// Those of a plugin, made on first use.
    pub(crate) fn of(&self, plugin: &Arc<str>) -> Arc<PluginMetrics> {
        let mut plugins = self.plugins.lock();
        Arc::clone(plugins.entry(Arc::clone(plugin)).or_default())
    }

    pub(crate) fn encode(&self) -> String {
        let plugins = self.plugins.lock();
        encode::text(&plugins)
    }
}
