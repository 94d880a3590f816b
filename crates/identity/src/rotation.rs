//! When a certificate is renewed: at half of its life, with jitter, and again soon when that fails.
//!
//! Owns: the state machine of one certificate's renewal. The clock and the jitter are parameters.
//! Must not: sleep, read a clock or talk to an authority. Callers ask [`Rotation::due`], wait for
//! [`Rotation::next_check`], and ask again.
//!
//! The times are those of the wall clock, since that is what a certificate is made of: a machine
//! that was suspended, or whose clock was set, finds out at its next check, and no check is more
//! than [`MAX_CHECK`] away.
//! Read next: `authority.rs`, which decides the lifetimes.

use std::time::Duration;

use time::OffsetDateTime;

use crate::authority::BACKDATE;

/// The longest wait between two looks at the clock: a suspended machine wakes into one of these.
pub const MAX_CHECK: Duration = Duration::from_secs(1);
/// How far the renewal moves around half of the life, so that a fleet does not renew at once.
const JITTER: f64 = 0.1;
/// Wait after the first failure; doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between attempts; certificates of a few minutes retry more often than that.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// How far clocks may be apart before a certificate from the future is taken for a mistake: a holder
/// whose clock is behind would only get another such certificate, but one that was issued under a
/// clock that has since been set back must be replaced.
pub const TOLERATED_SKEW: time::Duration = BACKDATE;
/// Attempts that must fit into a life, whatever the backoff says.
const RETRIES_IN_A_LIFE: u32 = 20;

/// The renewal of one certificate; [`Rotation::renewed`] goes on with the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// When it was issued, as far as its times tell.
    begin: OffsetDateTime,
    not_after: OffsetDateTime,
    renew_at: OffsetDateTime,
    max_retry: Duration,
    spread: f64,
    failures: u32,
    retry: Option<Retry>,
}

/// The wait after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Retry {
    failed_at: OffsetDateTime,
    at: OffsetDateTime,
}

impl Rotation {
    /// The renewal of a certificate with these two times, as they stand in it. The authority
    /// backdates what it issues ([`BACKDATE`]), which is not counted as life.
    ///
    /// `jitter` is drawn by the caller, evenly from -1 to 1; other values are taken for the nearest
    /// of these.
    #[must_use]
    pub fn new(not_before: OffsetDateTime, not_after: OffsetDateTime, jitter: f64) -> Self {
        let jitter = if jitter.is_nan() {
            0.0
        } else {
            jitter.clamp(-1.0, 1.0)
        };
        let spread = 1.0 + JITTER * jitter;
        let whole = not_after - not_before;
        let begin = if whole > BACKDATE {
            not_before + BACKDATE
        } else {
            not_before
        };
        let life = (not_after - begin).max(time::Duration::ZERO);
        Self {
            begin,
            not_after,
            renew_at: begin + life * (0.5 * spread),
            max_retry: (life.unsigned_abs() / RETRIES_IN_A_LIFE).clamp(FIRST_RETRY, MAX_RETRY),
            spread,
            failures: 0,
            retry: None,
        }
    }

    /// Whether to attempt a renewal now.
    ///
    /// True from half of the life on, and when the certificate was issued further in the future than
    /// [`TOLERATED_SKEW`], which is as far as it is backdated: by this clock it is not valid yet. After a failure it is false until the backoff has passed, or the clock has
    /// gone back.
    #[must_use]
    pub fn due(&self, now: OffsetDateTime) -> bool {
        if let Some(retry) = self.retry
            && (retry.failed_at..retry.at).contains(&now)
        {
            return false;
        }
        now >= self.renew_at || self.is_from_the_future(now)
    }

    /// Goes on with the certificate that an attempt has brought. When it begins in the future like
    /// the last one, then it is this clock that is wrong: the next attempt waits as after a failure.
    pub fn renewed(
        &mut self,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
        jitter: f64,
        now: OffsetDateTime,
    ) {
        let failures = self.failures;
        *self = Self::new(not_before, not_after, jitter);
        if self.due(now) {
            self.failures = failures;
            self.failed(now);
        }
    }

    fn is_from_the_future(&self, now: OffsetDateTime) -> bool {
        now.saturating_add(TOLERATED_SKEW) < self.begin
    }

    /// Takes note of an attempt that failed: the next one is 1 s away, then 2, 4, … up to 30 s, or to
    /// a twentieth of the life where that is less.
    pub fn failed(&mut self, now: OffsetDateTime) {
        let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(16));
        let wait = doubled.min(self.max_retry).mul_f64(self.spread);
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(Retry {
            failed_at: now,
            at: now
                .saturating_add(time::Duration::try_from(wait).unwrap_or(time::Duration::MINUTE)),
        });
    }

    /// How long to wait before asking [`Rotation::due`] again: zero when it is due already, and never
    /// more than [`MAX_CHECK`].
    #[must_use]
    pub fn next_check(&self, now: OffsetDateTime) -> Duration {
        if self.due(now) {
            return Duration::ZERO;
        }
        let event = match self.retry {
            Some(retry) if retry.at > now => retry.at,
            _ => self.renew_at,
        };
        // A positive wait, so that a caller that loops on this never spins.
        (event - now)
            .unsigned_abs()
            .clamp(Duration::from_millis(1), MAX_CHECK)
    }

    /// Whether the certificate is beyond its end by this clock.
    #[must_use]
    pub fn expired(&self, now: OffsetDateTime) -> bool {
        now >= self.not_after
    }

    /// When the first attempt is made.
    #[must_use]
    pub fn renew_at(&self) -> OffsetDateTime {
        self.renew_at
    }

    /// Attempts that failed so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const ISSUED: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);
    const SECOND: time::Duration = time::Duration::SECOND;

    /// A certificate of `life` seconds, issued at [`ISSUED`] as the authority does.
    fn rotation(life: i64, jitter: f64) -> Rotation {
        Rotation::new(ISSUED - BACKDATE, ISSUED + SECOND * life as i32, jitter)
    }

    #[test]
    fn r33_renewal_is_due_at_half_of_the_life_with_a_tenth_of_jitter() {
        for (jitter, at) in [(0.0, 1800), (1.0, 1980), (-1.0, 1620), (f64::NAN, 1800)] {
            let hour = rotation(3600, jitter);
            assert_eq!(hour.renew_at(), ISSUED + SECOND * at, "{jitter}");
            assert!(!hour.due(hour.renew_at() - SECOND));
            assert!(hour.due(hour.renew_at()));
        }
        assert_eq!(rotation(3600, 7.0), rotation(3600, 1.0));
        assert_eq!(rotation(60, 0.0).renew_at(), ISSUED + SECOND * 30);
    }

    #[test]
    fn r33_a_certificate_that_is_not_backdated_is_renewed_at_half_too() {
        let short = Rotation::new(ISSUED, ISSUED + SECOND * 40, 0.0);
        assert_eq!(short.renew_at(), ISSUED + SECOND * 20);
    }

    #[test]
    fn r33_failures_back_off_to_a_cap() {
        let mut hour = rotation(3600, 0.0);
        let mut now = hour.renew_at();
        let mut waits = Vec::new();
        for _ in 0..8 {
            hour.failed(now);
            assert!(!hour.due(now));
            let before = now;
            while !hour.due(now) {
                now += hour.next_check(now);
            }
            waits.push((now - before).whole_seconds());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(hour.failures(), 8);
        let mut minute = rotation(60, 0.0);
        for _ in 0..8 {
            minute.failed(ISSUED + SECOND * 31);
        }
        assert!(minute.due(ISSUED + SECOND * 34), "a twentieth of a minute");
    }

    #[test]
    fn r33_a_clock_that_goes_back_does_not_prolong_the_backoff() {
        let mut hour = rotation(3600, 0.0);
        let later = ISSUED + SECOND * 3000;
        hour.failed(later);
        assert!(!hour.due(later + SECOND / 2));
        assert!(hour.due(ISSUED + SECOND * 2000));
    }

    #[test]
    fn r33_a_certificate_from_the_future_is_renewed() {
        let hour = rotation(3600, 0.0);
        let limit = ISSUED - TOLERATED_SKEW;
        assert!(hour.due(limit - SECOND));
        assert!(!hour.due(limit));
        assert!(!hour.expired(ISSUED));
    }

    /// Its clock is ten minutes behind the authority's: renewing again and again would not help.
    #[test]
    fn r33_a_clock_that_is_behind_makes_no_storm() {
        let behind = SECOND * 600;
        let mut held = rotation(3600, 0.0);
        let mut now = ISSUED - behind;
        let mut attempts = 0;
        while now < ISSUED + SECOND * 600 - behind {
            if held.due(now) {
                attempts += 1;
                let issued = now + behind;
                held.renewed(issued - BACKDATE, issued + SECOND * 3600, 0.0, now);
            }
            now += held.next_check(now).max(Duration::from_millis(1));
        }
        assert!((15..30).contains(&attempts), "{attempts}");
    }

    #[test]
    fn r33_a_good_renewal_forgets_earlier_failures() {
        let mut hour = rotation(3600, 0.0);
        let now = hour.renew_at();
        hour.failed(now);
        hour.renewed(now - BACKDATE, now + SECOND * 3600, 0.0, now);
        assert_eq!(hour.failures(), 0);
        assert_eq!(hour.renew_at(), now + SECOND * 1800);
    }

    #[test]
    fn r33_a_machine_that_was_suspended_renews_at_its_next_check() {
        let hour = rotation(3600, 0.0);
        let asleep = ISSUED + SECOND * 10;
        assert_eq!(hour.next_check(asleep), MAX_CHECK);
        let awake = asleep + SECOND * 86_400;
        assert!(hour.expired(awake) && hour.due(awake));
        assert_eq!(hour.next_check(awake), Duration::ZERO);
    }

    /// What the authority and the clock do between two checks.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Tick,
        /// The clock is set, or the machine was asleep: seconds forward or back.
        Jump(i32),
        AuthorityDown(u32),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            20 => Just(Event::Tick),
            1 => (-7200..7200i32).prop_map(Event::Jump),
            2 => (1..400u32).prop_map(Event::AuthorityDown),
        ]
    }

    proptest! {
        #[test]
        fn r33_the_first_attempt_lies_between_45_and_55_percent(
            life in 10..86_400i64, jitter in -1.0..=1.0f64
        ) {
            let rotation = rotation(life, jitter);
            let at = (rotation.renew_at() - ISSUED).as_seconds_f64() / life as f64;
            prop_assert!((0.449..=0.551).contains(&at), "{at}");
        }

        /// Waiting as told never overshoots, never spins and never sleeps through a second.
        #[test]
        fn r33_checks_are_frequent_and_never_spin(
            life in 10..86_400i64, jitter in -1.0..=1.0f64, at in -4000..90_000i64, failures in 0..40u32
        ) {
            let mut rotation = rotation(life, jitter);
            let now = ISSUED + time::Duration::seconds(at);
            for _ in 0..failures {
                rotation.failed(now);
            }
            let wait = rotation.next_check(now);
            prop_assert!(wait <= MAX_CHECK);
            prop_assert_eq!(wait.is_zero(), rotation.due(now));
        }

        /// Whatever clock and authority do: while the authority answers, the holder has a valid
        /// certificate again within a retry's cap and a check; and it never asks more than once a
        /// second while the authority is down.
        #[test]
        fn r33_a_holder_recovers_from_every_outage_and_jump(
            life in 60..3600i32, jitter in -1.0..=1.0f64, events in proptest::collection::vec(event(), 1..100)
        ) {
            let cap = MAX_RETRY.mul_f64(1.0 + JITTER) + MAX_CHECK * 2;
            let mut now = ISSUED;
            let mut held = Rotation::new(now - BACKDATE, now + SECOND * life, jitter);
            let (mut down_until, mut invalid_since) = (now, None::<OffsetDateTime>);
            let mut attempts = 0_u32;
            for event in events {
                match event {
                    Event::Tick => {}
                    Event::Jump(seconds) => {
                        now += SECOND * seconds;
                        down_until = now;
                        invalid_since = None;
                    }
                    Event::AuthorityDown(seconds) => down_until = now + SECOND * seconds as i32,
                }
                let until = now + SECOND * 60;
                while now < until {
                    if held.due(now) {
                        attempts += 1;
                        if now >= down_until {
                            held.renewed(now - BACKDATE, now + SECOND * life, jitter, now);
                        } else {
                            held.failed(now);
                        }
                    }
                    let valid = !held.expired(now) && !held.is_from_the_future(now);
                    if valid || now < down_until {
                        invalid_since = None;
                    } else {
                        let since = *invalid_since.get_or_insert(now);
                        prop_assert!((now - since).unsigned_abs() <= cap, "invalid since {since}, now {now}");
                    }
                    now += held.next_check(now).max(Duration::from_millis(1));
                }
            }
            prop_assert!(attempts <= 100 * 62);
        }
    }
}
