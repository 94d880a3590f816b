//! Until when an answer is of use.
//!
//! Owns: the deadline of a request with all its attempts, and its form on the wire: `grpc-timeout` (gRPC over HTTP/2,
//! "Timeout"), which this proxy reads from and writes to every request, gRPC or not. The deadline is for the head of the
//! answer: a body that streams is not cut.
//! Must not: read a clock.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Field of the remaining time.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The specification's bound on the value.
const MAX_DIGITS: usize = 8;
const MAX_VALUE: u128 = 99_999_999;

/// A point in monotonic time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: Duration,
    /// It is the caller's wish, and shorter than the policy's.
    callers: bool,
}

/// What the caller said is not a time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoTimeout;

impl Deadline {
    /// The policy's `timeout`, or what the caller asked for where that is less.
    pub(crate) fn new(now: Duration, timeout: Duration, asked: Option<Duration>) -> Self {
        let callers = asked.filter(|asked| *asked < timeout);
        Self {
            at: now.saturating_add(callers.unwrap_or(timeout)),
            callers: callers.is_some(),
        }
    }

    pub(crate) const fn is_callers(self) -> bool {
        self.callers
    }

    /// Time that is left; `None` when there is none.
    pub(crate) fn left(self, now: Duration) -> Option<Duration> {
        self.at.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// The time of one attempt: what the policy gives it, but no more than is left.
    pub(crate) fn share(self, now: Duration, per_try: Option<Duration>) -> Option<Duration> {
        let left = self.left(now)?;
        Some(per_try.map_or(left, |per_try| per_try.min(left)))
    }
}

/// The time that the caller of the request is still willing to wait.
pub(crate) fn asked(headers: &HeaderMap) -> Result<Option<Duration>, NoTimeout> {
    let mut values = headers.get_all(&GRPC_TIMEOUT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse(value.as_bytes()).map(Some).ok_or(NoTimeout),
        (Some(_), Some(_)) => Err(NoTimeout),
    }
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The value for the next hop: never more than `left`.
pub(crate) fn told(left: Duration) -> HeaderValue {
    let units = [
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
    ];
    let fitting = units.iter().find(|(number, _)| *number <= MAX_VALUE);
    let text = fitting.map_or_else(
        || format!("{MAX_VALUE}S"),
        |(number, unit)| format!("{number}{unit}"),
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0u"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r30_an_attempt_gets_its_share_and_never_more_than_is_left() {
        let deadline = Deadline::new(Duration::from_secs(5), Duration::from_secs(2), None);
        let share = |now, per_try| {
            deadline.share(
                Duration::from_millis(now),
                Some(Duration::from_millis(per_try)),
            )
        };
        assert_eq!(share(5000, 800), Some(Duration::from_millis(800)));
        assert_eq!(share(6500, 800), Some(Duration::from_millis(500)));
        assert_eq!(share(7000, 800), None);
        assert_eq!(share(9000, 800), None);
    }

    #[test]
    fn r30_the_shorter_of_policy_and_wish_counts() {
        let (now, timeout) = (Duration::from_secs(1), Duration::from_secs(15));
        let left = |asked| {
            let deadline = Deadline::new(now, timeout, asked);
            (deadline.left(now), deadline.is_callers())
        };
        let (short, long) = (Duration::from_secs(2), Duration::from_secs(60));
        assert_eq!(left(None), (Some(timeout), false));
        assert_eq!(left(Some(short)), (Some(short), true));
        assert_eq!(left(Some(long)), (Some(timeout), false));
        assert_eq!(left(Some(Duration::ZERO)), (None, true));
    }

    #[test]
    fn what_is_no_timeout_is_refused() {
        for text in [
            "",
            "5",
            "m",
            "123456789m",
            "-1S",
            "1s",
            "1.5S",
            "1 S",
            "1S,2S",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(asked(&headers), Ok(None));
        headers.append(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        assert_eq!(asked(&headers), Ok(Some(Duration::from_secs(1))));
        headers.append(GRPC_TIMEOUT, HeaderValue::from_static("2S"));
        assert_eq!(asked(&headers), Err(NoTimeout));
    }

    proptest! {
        #[test]
        fn r30_a_deadline_never_grows_on_its_way(nanos in 0u64..99_999_999_000_000_000) {
            let left = Duration::from_nanos(nanos);
            let told = told(left);
            prop_assert!(told.len() <= MAX_DIGITS + 1);
            let read = parse(told.as_bytes()).unwrap();
            prop_assert!(read <= left);
            // Nor does it lose more than the unit's rounding.
            prop_assert!(left - read <= Duration::from_secs(1).max(left / 10_000_000));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _either = parse(&bytes);
        }
    }
}
