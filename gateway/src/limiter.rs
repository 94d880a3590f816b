//! Exact rate limits over all workers: the generic cell rate algorithm (GCRA, ITU-T I.371).
//!
//! Owns: one theoretical arrival time (TAT) per limited key, in bounded sharded maps. A key may pass `burst`
//! requests at once and then `rate` per period, never more than `burst + rate·t` in any time `t`.
//! Must not: know requests or read the clock: `now` is a parameter. Next: `pipeline/limit.rs`.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::FixedState;
use parking_lot::Mutex;

const SHARDS: usize = 64;

/// A limit, ready to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Nanoseconds between two requests at the steady rate.
    interval: u64,
    /// How far the TAT may lie ahead of now: `interval · (burst − 1)`.
    tolerance: u64,
    pub(crate) rate: u64,
    pub(crate) burst: u64,
    pub(crate) period: Duration,
}

impl Quota {
    /// `None` where `rate`, `burst` or `period` is zero or out of range.
    pub(crate) fn new(rate: u64, period: Duration, burst: u64) -> Option<Self> {
        let period_nanos = u64::try_from(period.as_nanos()).ok()?;
        // Rounded up, so that rounding never lets more than `rate` pass.
        let interval = period_nanos.checked_add(rate.checked_sub(1)?)? / rate;
        let tolerance = interval.checked_mul(burst.checked_sub(1)?)?;
        (interval > 0).then_some(Self {
            interval,
            tolerance,
            rate,
            burst,
            period,
        })
    }
}

/// Who is limited by which rule. 128 bits of a keyed hash: two keys do not meet by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LimitKey(pub(crate) u128);

/// The verdict on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// The same request passes after this time.
    Wait(Duration),
}

/// All limits of the gateway.
#[derive(Debug)]
pub(crate) struct Limiter {
    shards: Vec<Mutex<Shard>>,
    shard_capacity: usize,
}

#[derive(Debug, Default)]
struct Shard {
    arrivals: HashMap<LimitKey, u64, FixedState>,
}

impl Limiter {
    /// Holds at most `capacity` keys. Beyond it, keys at rest are dropped first (which loses nothing: an absent
    /// key and a key at rest are the same), then the key nearest to rest.
    pub(crate) fn new(capacity: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect();
        Self {
            shards,
            shard_capacity: (capacity / SHARDS).max(1),
        }
    }

    /// Counts one request of `key` at `now`, a monotonic time since the process's start.
    pub(crate) fn check(&self, key: LimitKey, quota: &Quota, now: Duration) -> Verdict {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        // The shard comes from the key's low bits: they are already a hash.
        let index = usize::try_from(key.0 % SHARDS as u128).unwrap_or(0);
        let Some(shard) = self.shards.get(index) else {
            return Verdict::Pass;
        };
        let mut shard = shard.lock();
        if let Some(arrival) = shard.arrivals.get_mut(&key) {
            let tat = (*arrival).max(now);
            if tat - now > quota.tolerance {
                return Verdict::Wait(Duration::from_nanos(tat - now - quota.tolerance));
            }
            *arrival = tat.saturating_add(quota.interval);
            return Verdict::Pass;
        }
        if shard.arrivals.len() >= self.shard_capacity {
            shard.make_room(now, self.shard_capacity);
        }
        shard
            .arrivals
            .insert(key, now.saturating_add(quota.interval));
        Verdict::Pass
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().arrivals.len())
            .sum()
    }
}

impl Shard {
    fn make_room(&mut self, now: u64, capacity: usize) {
        self.arrivals.retain(|_, arrival| *arrival > now);
        // Evict an eighth at once, so that a flood of new keys does not scan the shard for each of them.
        if self.arrivals.len() > capacity - capacity / 8 {
            let mut arrivals: Vec<u64> = self.arrivals.values().copied().collect();
            let eighth = arrivals.len() / 8;
            let (_, threshold, _) = arrivals.select_nth_unstable(eighth);
            let threshold = *threshold;
            self.arrivals.retain(|_, arrival| *arrival > threshold);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn quota(rate: u64, burst: u64) -> Quota {
        Quota::new(rate, SECOND, burst).expect("valid quota")
    }

    #[test]
    fn burst_passes_then_the_rate_holds() {
        let limiter = Limiter::new(1000);
        let quota = quota(10, 3);
        let key = LimitKey(7);
        for _ in 0..3 {
            assert_eq!(limiter.check(key, &quota, SECOND), Verdict::Pass);
        }
        let Verdict::Wait(wait) = limiter.check(key, &quota, SECOND) else {
            panic!("the fourth must wait")
        };
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(
            limiter.check(key, &quota, SECOND + wait - Duration::from_nanos(1)),
            Verdict::Wait(Duration::from_nanos(1))
        );
        assert_eq!(limiter.check(key, &quota, SECOND + wait), Verdict::Pass);
    }

    #[test]
    fn keys_do_not_share_a_limit() {
        let limiter = Limiter::new(1000);
        let quota = quota(1, 1);
        for key in 0..100 {
            assert_eq!(limiter.check(LimitKey(key), &quota, SECOND), Verdict::Pass);
            assert!(matches!(
                limiter.check(LimitKey(key), &quota, SECOND),
                Verdict::Wait(_)
            ));
        }
    }

    #[test]
    fn zero_is_not_a_quota() {
        assert_eq!(Quota::new(0, SECOND, 1), None);
        assert_eq!(Quota::new(1, SECOND, 0), None);
        assert_eq!(Quota::new(1, Duration::ZERO, 1), None);
    }

    #[test]
    fn r01_exactly_n_pass_under_concurrency() {
        let limiter = Limiter::new(1000);
        let quota = quota(1, 500);
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if limiter.check(LimitKey(1), &quota, SECOND) == Verdict::Pass {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.load(Ordering::Relaxed), 500);
    }

    #[test]
    fn memory_stays_bounded_under_a_flood_of_keys() {
        let limiter = Limiter::new(64 * 64);
        let quota = quota(1, 1);
        for key in 0..200_000u128 {
            limiter.check(LimitKey(key), &quota, SECOND);
        }
        assert!(limiter.len() <= 64 * 64, "{}", limiter.len());
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_times_time(
            rate in 1u64..200, burst in 1u64..50,
            gaps in proptest::collection::vec(0u64..50_000_000, 1..400),
        ) {
            let limiter = Limiter::new(1000);
            let quota = quota(rate, burst);
            let mut now = 0u64;
            let mut passes: Vec<u64> = Vec::new();
            for gap in gaps {
                now += gap;
                if limiter.check(LimitKey(3), &quota, Duration::from_nanos(now)) == Verdict::Pass {
                    passes.push(now);
                }
            }
            // Every window between two passes obeys the bound.
            for (index, start) in passes.iter().enumerate() {
                for (count, end) in passes[index..].iter().enumerate() {
                    let allowed = burst as u128 * 1_000_000_000 + rate as u128 * u128::from(end - start);
                    prop_assert!((count as u128 + 1) * 1_000_000_000 <= allowed);
                }
            }
        }

        #[test]
        fn a_patient_client_is_never_refused(rate in 1u64..1000, burst in 1u64..10) {
            let limiter = Limiter::new(1000);
            let quota = quota(rate, burst);
            let step = 1_000_000_000u64.div_ceil(rate);
            for n in 0..200u64 {
                prop_assert_eq!(limiter.check(LimitKey(1), &quota, Duration::from_nanos(n * step)), Verdict::Pass);
            }
        }

        #[test]
        fn wait_is_exact(rate in 1u64..1000, burst in 1u64..20, offset in 0u64..1_000_000_000) {
            let limiter = Limiter::new(1000);
            let quota = quota(rate, burst);
            let now = Duration::from_nanos(offset);
            for _ in 0..burst {
                prop_assert_eq!(limiter.check(LimitKey(1), &quota, now), Verdict::Pass);
            }
            if let Verdict::Wait(wait) = limiter.check(LimitKey(1), &quota, now) {
                prop_assert_eq!(limiter.check(LimitKey(1), &quota, now + wait), Verdict::Pass);
            } else {
                prop_assert!(false, "burst + 1 must wait");
            }
        }
    }
}
