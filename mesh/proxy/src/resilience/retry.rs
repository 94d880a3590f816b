//! Whether a failed attempt is made again, and after which pause.
//!
//! Owns: what is safe (RFC 9110 §9.2.2): an attempt that the peer cannot have seen always is; one that it may have seen, or
//! answered with a status of the policy, only where the method is idempotent. Never what the caller itself spoilt, never
//! beyond the policy's attempts.
//! Must not: know budgets (`budget.rs`) or bodies; the sender asks for all of them.

use std::time::Duration;

use http::Method;

use crate::snapshot::Retries;

/// Upper bounds of the first and of any pause.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection, or a stream that the peer refused unread.
    Unseen,
    /// The peer is going, and said that it did not look at the request (GOAWAY): nothing speaks against the service, and
    /// once in a call the next attempt is nobody's expense.
    Leaving,
    /// Broken off, or without an answer in its time: the peer may have acted.
    Lost,
    /// Answered, with this status.
    Status(u16),
    /// The caller's own doing, such as a body that broke off.
    Own,
}

/// RFC 9110 §9.2.2.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether attempt number `made` (1 for the first) may be followed by another.
pub(crate) fn may_follow(policy: &Retries, made: u32, idempotent: bool, failure: Failure) -> bool {
    made <= policy.attempts
        && match failure {
            Failure::Unseen | Failure::Leaving => true,
            Failure::Lost => idempotent,
            Failure::Status(status) => idempotent && policy.statuses.contains(&status),
            Failure::Own => false,
        }
}

/// Full jitter: anything from nothing up to the exponentially growing bound.
pub(crate) fn pause(made: u32, random: u64) -> Duration {
    let doublings = made.saturating_sub(1).min(16);
    let bound = FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE);
    let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random % (micros + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(attempts: u32) -> Retries {
        Retries {
            attempts,
            per_try_timeout: None,
            budget_permille: 200,
            budget_floor: 3,
            statuses: vec![502, 503, 504],
        }
    }

    #[test]
    fn r30_what_may_have_been_seen_is_repeated_only_where_that_is_harmless() {
        let policy = policy(1);
        for (idempotent, failure, again) in [
            (false, Failure::Unseen, true),
            (true, Failure::Unseen, true),
            (false, Failure::Leaving, true),
            (false, Failure::Lost, false),
            (true, Failure::Lost, true),
            (false, Failure::Status(503), false),
            (true, Failure::Status(503), true),
            (true, Failure::Status(500), false),
            (true, Failure::Own, false),
        ] {
            assert_eq!(
                may_follow(&policy, 1, idempotent, failure),
                again,
                "{idempotent} {failure:?}"
            );
        }
        assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
        assert!(is_idempotent(&Method::PUT) && is_idempotent(&Method::GET));
    }

    proptest! {
        #[test]
        fn r30_attempts_are_bounded(attempts in 0u32..10, idempotent: bool) {
            let policy = policy(attempts);
            let mut made = 1;
            while may_follow(&policy, made, idempotent, Failure::Unseen) {
                made += 1;
            }
            prop_assert_eq!(made, attempts + 1);
        }

        #[test]
        fn r30_pauses_are_spread_below_their_bound(made in 1u32..100, random: u64) {
            let bound = FIRST_PAUSE.saturating_mul(1 << made.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
            prop_assert!(pause(made, random) <= bound);
            prop_assert_eq!(pause(made, 0), Duration::ZERO);
        }
    }
}
