//! The latency of one endpoint: a peak-sensitive, exponentially weighted moving average.
//!
//! Owns: the average. A slower answer counts at once and in full, a faster one with the weight of the time that has passed
//! (τ = 10 s); between answers the average sinks, so that an endpoint that was slow is tried again.
//! Must not: read a clock.

use std::time::Duration;

/// Time in which an old value loses 63 % of its weight.
pub(crate) const DECAY: Duration = Duration::from_secs(10);
/// Below this, differences are noise.
const FLOOR: f64 = 50e-6;

/// Seconds until the head of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeakEwma {
    seconds: f64,
    at: Duration,
}

impl PeakEwma {
    /// The first observation.
    pub(crate) fn new(now: Duration, took: Duration) -> Self {
        Self {
            seconds: took.as_secs_f64().max(FLOOR),
            at: now,
        }
    }

    pub(crate) fn observe(&mut self, now: Duration, took: Duration) {
        let took = took.as_secs_f64().max(FLOOR);
        let kept = self.kept(now);
        self.seconds = if took > self.seconds * kept {
            took
        } else {
            self.seconds.mul_add(kept, took * (1.0 - kept))
        };
        self.at = self.at.max(now);
    }

    /// What a request is expected to take.
    pub(crate) fn expect(&self, now: Duration) -> f64 {
        (self.seconds * self.kept(now)).max(FLOOR)
    }

    fn kept(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64();
        (-age / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r29_a_peak_counts_at_once_and_fades_with_time() {
        let mut ewma = PeakEwma::new(Duration::ZERO, Duration::from_millis(10));
        ewma.observe(Duration::from_secs(1), Duration::from_millis(500));
        assert!((ewma.expect(Duration::from_secs(1)) - 0.5).abs() < 1e-9);
        // One fast answer right after it does not hide it.
        ewma.observe(Duration::from_millis(1010), Duration::from_millis(10));
        assert!(ewma.expect(Duration::from_millis(1010)) > 0.49);
        let later = Duration::from_secs(11);
        assert!(
            (ewma.expect(later) / ewma.expect(Duration::from_millis(1010)) - 0.368).abs() < 0.01
        );
    }

    proptest! {
        #[test]
        fn r29_it_stays_between_its_observations(steps in proptest::collection::vec((0u64..5_000, 0u64..2_000), 1..100)) {
            let mut now = Duration::ZERO;
            let mut ewma: Option<PeakEwma> = None;
            let mut highest = FLOOR;
            for (wait, took) in steps {
                now += Duration::from_millis(wait);
                let took = Duration::from_millis(took);
                highest = highest.max(took.as_secs_f64());
                match &mut ewma {
                    None => ewma = Some(PeakEwma::new(now, took)),
                    Some(ewma) => ewma.observe(now, took),
                }
                let expected = ewma.as_ref().map_or(0.0, |ewma| ewma.expect(now));
                prop_assert!(expected >= FLOOR && expected <= highest + 1e-9);
            }
        }
    }
}
