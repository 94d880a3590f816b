//! Time and chance as parameters, and what the control plane's time says about ours.
//!
//! Owns: the difference between this machine's clock and the control plane's, which every certificate that has just been
//! issued tells. Must not: believe a difference that was measured before the clock jumped.

use std::sync::Arc;

use aws_lc_rs::rand;
use parking_lot::Mutex;
use ringwall_identity::rotation::TOLERATED_SKEW;
use time::{Duration, OffsetDateTime};
use tokio::time::Instant;

/// What an answer may take on its way, so that this little says nothing.
const WHILE_UNDER_WAY: Duration = Duration::seconds(2);

/// Tells the time, and draws the jitter of renewals. Clones share both.
#[derive(Clone)]
pub(crate) struct Clock {
    wall: Arc<dyn Fn() -> OffsetDateTime + Send + Sync>,
    jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
    heard: Arc<Mutex<Option<Heard>>>,
}

/// When the control plane's time was heard last.
#[derive(Clone, Copy)]
struct Heard {
    /// How far this machine's clock was ahead.
    ahead: Duration,
    wall: OffsetDateTime,
    steady: Instant,
}

/// How far this machine's clock is from the control plane's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skew {
    None,
    /// Certificates allow for it.
    Tolerated,
    /// Certificates are refused here that are good elsewhere, or soon will be.
    TooMuch,
}

impl Skew {
    pub(crate) fn of(ahead: Duration) -> Self {
        match ahead.abs() {
            little if little <= WHILE_UNDER_WAY => Self::None,
            some if some <= TOLERATED_SKEW => Self::Tolerated,
            _ => Self::TooMuch,
        }
    }
}

impl Clock {
    /// The machine's clock, which may jump, and the system's randomness.
    pub(crate) fn system() -> Self {
        Self::new(OffsetDateTime::now_utc, random_jitter)
    }

    pub(crate) fn new(
        wall: impl Fn() -> OffsetDateTime + Send + Sync + 'static,
        jitter: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            wall: Arc::new(wall),
            jitter: Arc::new(jitter),
            heard: Arc::default(),
        }
    }

    /// The time by which certificates and tokens are judged: the control plane's, as far as it was heard, else this
    /// machine's.
    pub(crate) fn now(&self) -> OffsetDateTime {
        let wall = (self.wall)();
        let Some(heard) = *self.heard.lock() else {
            return wall;
        };
        // The clock was set meanwhile, or the machine was suspended: nobody knows which, and so what it was ahead.
        let jumped = (wall - heard.wall) - heard.steady.elapsed();
        if jumped.abs() > WHILE_UNDER_WAY {
            return wall;
        }
        wall - heard.ahead
    }

    /// Takes note of the control plane's time, which was `there` a moment ago; by how much this clock is ahead.
    pub(crate) fn hear(&self, there: OffsetDateTime) -> Duration {
        let wall = (self.wall)();
        let measured = wall - there;
        let ahead = match Skew::of(measured) {
            Skew::None => Duration::ZERO,
            Skew::Tolerated | Skew::TooMuch => measured,
        };
        *self.heard.lock() = Some(Heard {
            ahead,
            wall,
            steady: Instant::now(),
        });
        ahead
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
    use crate::fixture::Wall;

    #[test]
    fn jitter_is_spread_within_its_bounds() {
        let drawn: Vec<f64> = (0..200).map(|_| Clock::system().jitter()).collect();
        assert!(drawn.iter().all(|jitter| (-1.0..=1.0).contains(jitter)));
        assert!(drawn.iter().any(|jitter| *jitter < -0.2));
        assert!(drawn.iter().any(|jitter| *jitter > 0.2));
    }

    #[tokio::test(start_paused = true)]
    async fn r33_the_control_plane_s_time_counts_until_the_own_clock_jumps() {
        let (wall, there) = (Wall::new(), Wall::new());
        let clock = wall.clock();
        assert_eq!(clock.hear(there.now()), Duration::ZERO);
        wall.jump(Duration::minutes(-20));
        let ahead = clock.hear(there.now());
        assert_eq!(ahead.whole_seconds(), -1200);
        assert_eq!(Skew::of(ahead), Skew::TooMuch);
        tokio::time::sleep(std::time::Duration::from_secs(3000)).await;
        assert!((clock.now() - there.now()).abs() < Duration::SECOND);
        // Somebody sets it right: what was measured says nothing any more.
        wall.jump(Duration::minutes(20));
        assert!((clock.now() - there.now()).abs() < Duration::SECOND);
        // A suspended machine looks the same, and is right as well.
        wall.jump(Duration::hours(9));
        assert_eq!(clock.now(), wall.now());
    }

    #[test]
    fn what_is_tolerated_is_what_certificates_are_backdated_by() {
        for (seconds, skew) in [
            (0, Skew::None),
            (2, Skew::None),
            (-3, Skew::Tolerated),
            (300, Skew::Tolerated),
            (301, Skew::TooMuch),
            (-301, Skew::TooMuch),
        ] {
            assert_eq!(Skew::of(Duration::seconds(seconds)), skew, "{seconds}");
        }
    }
}
