//! Time and chance as parameters.

use std::sync::Arc;

use aws_lc_rs::rand;
use time::OffsetDateTime;

/// Tells the time, and draws the jitter of renewals. Clones share both.
#[derive(Clone)]
pub(crate) struct Clock {
    now: Arc<dyn Fn() -> OffsetDateTime + Send + Sync>,
    jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Clock {
    /// The machine's clock, which may jump, and the system's randomness.
    pub(crate) fn system() -> Self {
        Self::new(OffsetDateTime::now_utc, random_jitter)
    }

    pub(crate) fn new(
        now: impl Fn() -> OffsetDateTime + Send + Sync + 'static,
        jitter: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            now: Arc::new(now),
            jitter: Arc::new(jitter),
        }
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        (self.now)()
    }

    /// Evenly from -1 to 1.
    pub(crate) fn jitter(&self) -> f64 {
        (self.jitter)()
    }
}

fn random_jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everybody renews at exactly half: correct, only not spread.
    if rand::fill(&mut bytes).is_err() {
        return 0.0;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_spread_within_its_bounds() {
        let drawn: Vec<f64> = (0..200).map(|_| Clock::system().jitter()).collect();
        assert!(drawn.iter().all(|jitter| (-1.0..=1.0).contains(jitter)));
        assert!(drawn.iter().any(|jitter| *jitter < -0.2));
        assert!(drawn.iter().any(|jitter| *jitter > 0.2));
    }
}
