//! Metrics that a plugin defines.
//!
//! Owns: their ids and rules. As in Envoy, a metric defined twice is the same one, a counter does not shrink, and a
//! histogram cannot be read.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::abi::Status;
use crate::metrics::Buckets;

/// Upper bounds of a plugin's histograms, whose unit is the plugin's.
pub(super) const BOUNDS: [u64; 14] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 100_000,
];
/// The longest name, in bytes.
const MAX_NAME: usize = 256;

/// `proxy_metric_type_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl TryFrom<u32> for MetricKind {
    type Error = Status;

    fn try_from(number: u32) -> Result<Self, Status> {
        match number {
            0 => Ok(Self::Counter),
            1 => Ok(Self::Gauge),
            2 => Ok(Self::Histogram),
            _ => Err(Status::BadArgument),
        }
    }
}

#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: String,
    pub(super) kind: MetricKind,
    pub(super) value: AtomicU64,
    pub(super) buckets: Buckets<14>,
}

/// A plugin's metrics; an id is a place in the list, plus one.
#[derive(Debug, Default)]
pub(crate) struct Defined {
    metrics: RwLock<Vec<Metric>>,
}

impl Defined {
    /// The id of the metric, which may be there already.
    pub(crate) fn define(
        &self,
        kind: MetricKind,
        name: &[u8],
        limit: usize,
    ) -> Result<u32, Status> {
        let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Status::BadArgument);
        }
        let mut metrics = self.metrics.write();
        let mut known = metrics.iter();
        let known = known.position(|metric| metric.name == name && metric.kind == kind);
        let place = match known {
            Some(place) => place,
            None if metrics.len() >= limit => return Err(Status::InternalFailure),
            None => {
                metrics.push(Metric {
                    name: name.to_owned(),
                    kind,
                    value: AtomicU64::new(0),
                    buckets: Buckets::default(),
                });
                metrics.len() - 1
            }
        };
        u32::try_from(place + 1).map_err(|_| Status::InternalFailure)
    }

    /// Adds to a counter, sets a gauge, notes a value in a histogram.
    pub(crate) fn record(&self, id: u32, value: u64) -> Result<(), Status> {
        self.with(id, |metric| match metric.kind {
            MetricKind::Counter => {
                metric.value.fetch_add(value, Ordering::Relaxed);
            }
            MetricKind::Gauge => metric.value.store(value, Ordering::Relaxed),
            MetricKind::Histogram => metric.buckets.record(&BOUNDS, value),
        })
    }

    pub(crate) fn increment(&self, id: u32, delta: i64) -> Result<(), Status> {
        self.with(id, |metric| match metric.kind {
            MetricKind::Counter if delta > 0 => {
                metric
                    .value
                    .fetch_add(delta.unsigned_abs(), Ordering::Relaxed);
                Ok(())
            }
            MetricKind::Gauge => {
                // In two's complement, adding a negative number is subtracting it.
                metric
                    .value
                    .fetch_add(delta.cast_unsigned(), Ordering::Relaxed);
                Ok(())
            }
            MetricKind::Counter | MetricKind::Histogram => Err(Status::BadArgument),
        })?
    }

    pub(crate) fn get(&self, id: u32) -> Result<u64, Status> {
        self.with(id, |metric| match metric.kind {
            MetricKind::Counter | MetricKind::Gauge => Ok(metric.value.load(Ordering::Relaxed)),
            MetricKind::Histogram => Err(Status::BadArgument),
        })?
    }

    fn with<T>(&self, id: u32, act: impl FnOnce(&Metric) -> T) -> Result<T, Status> {
        let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let metrics = self.metrics.read();
        let metric = place.and_then(|place| metrics.get(place));
        metric.map(act).ok_or(Status::NotFound)
    }

    pub(super) fn each(&self, mut show: impl FnMut(&Metric)) {
        self.metrics.read().iter().for_each(&mut show);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r90_metrics_follow_the_specification() {
        let defined = Defined::default();
        let counter = defined.define(MetricKind::Counter, b"c", 8).unwrap();
        let gauge = defined.define(MetricKind::Gauge, b"g", 8).unwrap();
        let histogram = defined.define(MetricKind::Histogram, b"h", 8).unwrap();
        assert_eq!(defined.define(MetricKind::Counter, b"c", 8), Ok(counter));
        assert_eq!(defined.increment(counter, 2), Ok(()));
        assert_eq!(defined.record(counter, 3), Ok(()));
        assert_eq!(defined.get(counter), Ok(5));
        assert_eq!(defined.increment(counter, -1), Err(Status::BadArgument));
        assert_eq!(defined.increment(counter, 0), Err(Status::BadArgument));
        assert_eq!(defined.increment(gauge, -1), Ok(()));
        assert_eq!(defined.get(gauge), Ok(u64::MAX));
        assert_eq!(defined.increment(gauge, i64::MIN), Ok(()));
        assert_eq!(defined.record(gauge, 7), Ok(()));
        assert_eq!(defined.get(gauge), Ok(7));
        assert_eq!(defined.record(histogram, 7), Ok(()));
        assert_eq!(defined.get(histogram), Err(Status::BadArgument));
        assert_eq!(defined.increment(histogram, 1), Err(Status::BadArgument));
        for unknown in [0, 4, u32::MAX] {
            assert_eq!(defined.get(unknown), Err(Status::NotFound));
            assert_eq!(defined.record(unknown, 1), Err(Status::NotFound));
        }
    }

    #[test]
    fn r91_metrics_are_bounded() {
        let defined = Defined::default();
        assert!(defined.define(MetricKind::Counter, b"a", 1).is_ok());
        assert_eq!(
            defined.define(MetricKind::Counter, b"b", 1),
            Err(Status::InternalFailure)
        );
        assert_eq!(
            defined.define(MetricKind::Counter, &[b'a'; 300], 9),
            Err(Status::BadArgument)
        );
        assert_eq!(
            defined.define(MetricKind::Counter, b"\xff", 9),
            Err(Status::BadArgument)
        );
    }
}
