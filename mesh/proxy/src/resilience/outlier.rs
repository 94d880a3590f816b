//! Whether one endpoint misbehaves, and how long it is left alone for it.
//!
//! Owns: the count of consecutive failures (no connection, a broken one, no answer in time, 502, 503, 504), the
//! ejection that doubles with each relapse and is forgiven step by step: an endpoint that behaves for as long as its last
//! ejection took has one doubling less.
//! Must not: know the other endpoints; how many may be ejected at once is `balance.rs`'s.

use std::time::Duration;

use crate::snapshot::Outlier;

/// The longest ejection that doubling reaches; a policy may start with more.
pub(crate) const MAX_EJECTION: Duration = Duration::from_secs(300);

/// The record of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    consecutive: u32,
    /// Ejections that are not forgiven.
    strikes: u32,
    /// End of the last ejection.
    until: Duration,
}

impl Conduct {
    /// Takes one verdict; `true` when the endpoint is to be ejected.
    pub(crate) fn record(&mut self, now: Duration, policy: &Outlier, failed: bool) -> bool {
        if !failed {
            self.consecutive = 0;
            return false;
        }
        self.consecutive = self.consecutive.saturating_add(1);
        self.consecutive >= policy.consecutive_failures.max(1) && !self.is_ejected(now)
    }

    /// Leaves the endpoint alone from `now` on; returns until when.
    pub(crate) fn eject(&mut self, now: Duration, policy: &Outlier) -> Duration {
        self.forgive(now, policy);
        self.until = now + length(policy, self.strikes);
        self.strikes = self.strikes.saturating_add(1);
        self.consecutive = 0;
        self.until
    }

    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        now < self.until
    }

    /// When the present ejection ends.
    pub(crate) fn ejected_until(&self, now: Duration) -> Option<Duration> {
        Some(self.until).filter(|until| now < *until)
    }

    fn forgive(&mut self, now: Duration, policy: &Outlier) {
        let mut behaved = now.saturating_sub(self.until);
        while let Some(last) = self.strikes.checked_sub(1) {
            let probation = length(policy, last);
            if behaved < probation {
                return;
            }
            behaved = behaved.saturating_sub(probation);
            self.strikes = last;
            if probation.is_zero() {
                self.strikes = 0;
            }
        }
    }
}

fn length(policy: &Outlier, strikes: u32) -> Duration {
    let factor = 2u32.saturating_pow(strikes);
    let cap = MAX_EJECTION.max(policy.ejection);
    policy.ejection.saturating_mul(factor).min(cap)
}

/// How many of `total` may be ejected at once: the policy's share, at least one where others remain, never all.
pub(crate) fn may_be_ejected(total: usize, policy: &Outlier) -> usize {
    let Some(most) = total.checked_sub(1).filter(|most| *most > 0) else {
        return 0;
    };
    if policy.max_ejected_percent == 0 {
        return 0;
    }
    let percent = usize::try_from(policy.max_ejected_percent).unwrap_or(100);
    (total.saturating_mul(percent) / 100).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Outlier {
        Outlier {
            consecutive_failures: 5,
            ejection: Duration::from_secs(5),
            max_ejected_percent: 50,
        }
    }

    fn fail_until_ejected(conduct: &mut Conduct, now: Duration) -> Duration {
        for _ in 0..4 {
            assert!(!conduct.record(now, &policy(), true));
        }
        assert!(conduct.record(now, &policy(), true));
        conduct.eject(now, &policy()) - now
    }

    #[test]
    fn r29_only_consecutive_failures_eject() {
        let mut conduct = Conduct::default();
        for _ in 0..50 {
            for _ in 0..4 {
                assert!(!conduct.record(Duration::ZERO, &policy(), true));
            }
            assert!(!conduct.record(Duration::ZERO, &policy(), false));
        }
        assert_eq!(
            fail_until_ejected(&mut conduct, Duration::ZERO),
            Duration::from_secs(5)
        );
    }

    #[test]
    fn r29_relapses_double_the_ejection_and_good_conduct_halves_it() {
        let mut conduct = Conduct::default();
        let mut now = Duration::ZERO;
        let mut lengths = Vec::new();
        for _ in 0..8 {
            let length = fail_until_ejected(&mut conduct, now);
            lengths.push(length.as_secs());
            now += length;
            assert!(!conduct.is_ejected(now));
        }
        assert_eq!(lengths, [5, 10, 20, 40, 80, 160, 300, 300]);
        // As long as the last ejection took: one doubling less. The eighth strike is worth 300 s, the seventh too.
        now += Duration::from_secs(600);
        assert_eq!(
            fail_until_ejected(&mut conduct, now),
            Duration::from_secs(300)
        );
        now += Duration::from_secs(300 + 300 + 160 + 80);
        assert_eq!(
            fail_until_ejected(&mut conduct, now),
            Duration::from_secs(80)
        );
        now += Duration::from_secs(100_000);
        assert_eq!(
            fail_until_ejected(&mut conduct, now),
            Duration::from_secs(5)
        );
    }

    proptest! {
        #[test]
        fn r29_never_all_are_ejected(total in 0usize..2000, percent in 0u32..300) {
            let policy = Outlier { max_ejected_percent: percent, ..policy() };
            let most = may_be_ejected(total, &policy);
            prop_assert!(most == 0 || most < total);
            prop_assert!(percent == 0 || total < 2 || most >= 1);
            prop_assert!(most <= (total * percent as usize / 100).max(1));
        }

        #[test]
        fn r29_an_ejection_always_ends(steps in proptest::collection::vec((0u64..20_000, any::<bool>()), 1..300)) {
            let mut conduct = Conduct::default();
            let mut now = Duration::ZERO;
            for (wait, failed) in steps {
                now += Duration::from_millis(wait);
                if conduct.record(now, &policy(), failed) {
                    let until = conduct.eject(now, &policy());
                    prop_assert!(conduct.is_ejected(now));
                    prop_assert!(until > now && until - now <= MAX_EJECTION);
                    prop_assert!(!conduct.is_ejected(until));
                }
            }
        }
    }
}
