//! What the failures of one plugin may cost its worker.
//!
//! Owns: the account. A guest runs on its worker's thread, so while one loops into its time-out, everybody else there waits.
//! A failure is paid for with the time that it took, and with that of starting another instance. The account is refilled so
//! slowly that failures cannot take the hundredth of the time that a neighbour's 99th percentile would show. Must not: read
//! clocks.

use std::time::{Duration, Instant};

/// What may be lost at once.
const MOST: Duration = Duration::from_millis(100);
/// One part of so many of the time that passes is given back: two thousandths.
const PARTS: u32 = 500;
/// A plugin is not left alone for longer.
const LONGEST: Duration = Duration::from_secs(10);

/// The account of one version of a plugin in one worker.
#[derive(Debug)]
pub(super) struct Losses {
    left: Duration,
    since: Instant,
}

impl Losses {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            left: MOST,
            since: now,
        }
    }

    /// Pays `cost`. What the account does not cover is paid by a pause, which is returned.
    pub(super) fn pay(&mut self, cost: Duration, now: Instant) -> Option<Duration> {
        let earned = now.saturating_duration_since(self.since) / PARTS;
        let left = (self.left + earned).min(MOST);
        self.since = now;
        self.left = left.saturating_sub(cost);
        let owed = cost.saturating_sub(left);
        (!owed.is_zero()).then(|| owed.saturating_mul(PARTS).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn r91_a_few_failures_are_free_and_the_next_are_paid_by_pauses() {
        let now = Instant::now();
        let mut losses = Losses::new(now);
        for _ in 0..10 {
            assert_eq!(losses.pay(ms(10), now), None);
        }
        assert_eq!(losses.pay(ms(10), now), Some(ms(5000)));
        // After the pause the next failure is paid by another.
        assert_eq!(losses.pay(ms(20), now + ms(5000)), Some(ms(5000)));
    }

    #[test]
    fn r91_the_account_is_refilled_up_to_its_most() {
        let now = Instant::now();
        let mut losses = Losses::new(now);
        assert_eq!(losses.pay(ms(100), now), None);
        assert_eq!(losses.pay(ms(5), now + ms(2500)), None);
        let later = now + Duration::from_secs(3600);
        assert_eq!(losses.pay(ms(100), later), None);
        assert_eq!(losses.pay(ms(1), later), Some(ms(500)));
    }

    #[test]
    fn r91_no_pause_is_longer_than_the_longest() {
        let now = Instant::now();
        let mut losses = Losses::new(now);
        assert_eq!(losses.pay(Duration::MAX, now), Some(LONGEST));
    }
}
