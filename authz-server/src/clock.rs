//! Time as a parameter: the injected clock and the second-resolution instant of all stored rows.
//!
//! Nothing else in this crate may ask the operating system for the time, so that tests move it by
//! hand and never sleep.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Where "now" comes from.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The clock of the machine.
    pub(crate) fn system() -> Self {
        Self::from_fn(SystemTime::now)
    }

    /// A clock that a test moves.
    pub(crate) fn from_fn(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::from_system((self.0)())
    }
}

/// Seconds since the Unix epoch, the resolution of JWT dates (RFC 7519 §2, NumericDate).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub(crate) struct UnixTime(i64);

impl UnixTime {
    pub(crate) const fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    pub(crate) fn from_system(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
        Self(seconds)
    }

    pub(crate) fn to_system(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.unsigned())
    }

    pub(crate) const fn seconds(self) -> i64 {
        self.0
    }

    /// For claims, which are unsigned; a time before the epoch cannot come from [`Clock`].
    pub(crate) fn unsigned(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }

    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(span.as_secs()).unwrap_or(i64::MAX)),
        )
    }

    /// How long ago this was at `now`; zero when it lies in the future.
    pub(crate) fn age_at(self, now: Self) -> Duration {
        Duration::from_secs(u64::try_from(now.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// Time left until this instant; zero when it has passed.
    pub(crate) fn remaining_at(self, now: Self) -> Duration {
        now.age_at(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_never_go_below_zero() {
        let early = UnixTime::from_seconds(100);
        let late = early.plus(Duration::from_secs(30));
        assert_eq!(early.age_at(late), Duration::from_secs(30));
        assert_eq!(late.age_at(early), Duration::ZERO);
        assert_eq!(late.remaining_at(early), Duration::from_secs(30));
        assert_eq!(UnixTime::from_system(late.to_system()), late);
    }
}
