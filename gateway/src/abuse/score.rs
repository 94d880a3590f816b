//! When it is enough: points that fade, and denials that grow.
//!
//! Owns: the memory of one worker, which is bounded: with too many sources, those that have done least are forgotten. Must not:
//! read a clock; `now` is a parameter, monotonic since the process's start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ringwall_ebpf_common::Prefix;

/// Sources that one worker remembers.
const MAX_SOURCES: usize = 4096;

/// The numbers of `AbuseConfig`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Policy {
    pub(crate) threshold: f64,
    pub(crate) half_life: Duration,
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// What every source has done lately.
#[derive(Debug, Default)]
pub(crate) struct Scores(HashMap<Prefix, Score>);

#[derive(Debug, Clone, Copy, Default)]
struct Score {
    points: f64,
    /// When these were right.
    at: Duration,
    /// How often it was reported.
    reports: u32,
}

impl Score {
    fn points_at(&self, now: Duration, policy: &Policy) -> f64 {
        let halves = now
            .saturating_sub(self.at)
            .div_duration_f64(policy.half_life);
        self.points * (-halves).exp2()
    }
}

impl Policy {
    /// Twice as long each time.
    fn lasts(&self, reports: u32) -> Duration {
        let factor = 1_u32.checked_shl(reports).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

impl Scores {
    /// Adds points; when that makes it enough, how long the source is to be denied. It begins anew then, and is denied for
    /// longer the next time.
    pub(crate) fn add(
        &mut self,
        address: IpAddr,
        points: u32,
        now: Duration,
        policy: &Policy,
    ) -> Option<Duration> {
        let party = Prefix::party(address);
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&party) {
            self.make_room(now, policy);
        }
        let score = self.0.entry(party).or_default();
        // Who has kept quiet for as long as the longest denial begins as everybody does.
        if now.saturating_sub(score.at) > policy.longest {
            score.reports = 0;
        }
        score.points = score.points_at(now, policy) + f64::from(points);
        score.at = now;
        if score.points < policy.threshold {
            return None;
        }
        let lasts = policy.lasts(score.reports);
        score.reports = score.reports.saturating_add(1);
        score.points = 0.0;
        Some(lasts)
    }

    /// An eighth at once, so that a flood of sources does not look at all of them for each.
    fn make_room(&mut self, now: Duration, policy: &Policy) {
        let weight = |score: &Score| {
            score.points_at(now, policy) + policy.threshold * f64::from(score.reports)
        };
        let mut weights: Vec<f64> = self.0.values().map(weight).collect();
        weights.sort_by(f64::total_cmp);
        let bound = weights.get(MAX_SOURCES / 8).copied().unwrap_or(0.0);
        let mut left = MAX_SOURCES / 8;
        self.0.retain(|_, score| {
            let goes = left > 0 && weight(score) <= bound;
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        threshold: 100.0,
        half_life: Duration::from_secs(30),
        first: Duration::from_secs(60),
        longest: Duration::from_secs(3600),
    };

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn enough_is_enough_and_the_next_time_takes_twice_as_long() {
        let mut scores = Scores::default();
        let now = Duration::from_secs(1000);
        let mut denied = Vec::new();
        for _ in 0..80 {
            denied.extend(scores.add(address(1), 10, now, &POLICY));
        }
        let seconds: Vec<u64> = denied.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        // After a quiet time it begins anew.
        let later = now + POLICY.longest + Duration::from_secs(1);
        let again = (0..10).find_map(|_| scores.add(address(1), 10, later, &POLICY));
        assert_eq!(again, Some(POLICY.first));
    }

    #[test]
    fn what_is_seldom_is_forgotten() {
        let mut scores = Scores::default();
        // One each ten seconds, for a day: the points never pass 1 / (1 - 2^(-1/3)) of one offence.
        for number in 0..8640 {
            let now = Duration::from_secs(number * 10);
            assert_eq!(scores.add(address(1), 10, now, &POLICY), None);
        }
    }

    #[test]
    fn a_host_of_ipv6_has_its_64_for_itself() {
        let mut scores = Scores::default();
        let denied = (0..10_u128).find_map(|host| {
            let address = IpAddr::V6((0x2001_0db8 << 96 | host).into());
            scores.add(address, 10, Duration::ZERO, &POLICY)
        });
        assert_eq!(denied, Some(POLICY.first));
    }

    #[test]
    fn memory_is_bounded_and_keeps_who_has_done_most() {
        let mut scores = Scores::default();
        let now = Duration::from_secs(5);
        for _ in 0..9 {
            assert_eq!(scores.add(address(7), 10, now, &POLICY), None);
        }
        for number in 0..100_000 {
            scores.add(address(0x0b00_0000 + number), 1, now, &POLICY);
            assert!(scores.0.len() <= MAX_SOURCES);
        }
        assert_eq!(scores.add(address(7), 10, now, &POLICY), Some(POLICY.first));
    }

    proptest! {
        #[test]
        fn nobody_is_denied_for_less_than_the_threshold(
            gaps in proptest::collection::vec((0_u64..120_000, 1_u32..20), 1..300),
        ) {
            let mut scores = Scores::default();
            let mut now = Duration::ZERO;
            let mut since = 0_u64;
            for (gap, points) in gaps {
                now += Duration::from_millis(gap);
                since += u64::from(points);
                if let Some(lasts) = scores.add(address(1), points, now, &POLICY) {
                    prop_assert!(since >= 100, "{since} points");
                    prop_assert!(lasts >= POLICY.first && lasts <= POLICY.longest);
                    since = 0;
                }
            }
        }

        #[test]
        fn whoever_goes_on_is_denied(points in 1_u32..20, milliseconds in 1_u64..100) {
            // Faster than points fade: 100 of them in less than a half-life.
            prop_assume!(u64::from(points) * 15_000 > 100 * milliseconds * 2);
            let mut scores = Scores::default();
            let denied = (0..10_000_u64).any(|number| {
                let now = Duration::from_millis(number * milliseconds);
                scores.add(address(1), points, now, &POLICY).is_some()
            });
            prop_assert!(denied);
        }

        #[test]
        fn one_source_is_never_blamed_for_another(
            offences in proptest::collection::vec((0_u32..50, 1_u32..20), 1..500),
        ) {
            let mut scores = Scores::default();
            let mut own = HashMap::new();
            for (source, points) in offences {
                let sum: &mut u64 = own.entry(source).or_default();
                *sum += u64::from(points);
                if scores.add(address(source), points, Duration::ZERO, &POLICY).is_some() {
                    prop_assert!(*sum >= 100);
                    *sum = 0;
                }
            }
        }
    }
}
