//! When a component that died is started again: after a pause that doubles, and not for ever.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// First pause; a dead component shows for at least this long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Restarts within [`WINDOW`] after which a component stays down.
const LIMIT: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);

/// The restarts of one component.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// No pause before the first one.
    at_once: bool,
    recent: VecDeque<Instant>,
    total: u32,
}

impl Restarts {
    /// Of a process whose sockets we hold: connections wait in them, so it is started again at once.
    pub(super) fn at_once() -> Self {
        Self {
            at_once: true,
            ..Self::default()
        }
    }

    /// Pause before the next start, or none when it died too often.
    pub(super) fn next(&mut self, now: Instant) -> Option<Duration> {
        self.recent.retain(|at| now.duration_since(*at) < WINDOW);
        let recent = self.recent.len();
        if recent >= LIMIT {
            return None;
        }
        self.recent.push_back(now);
        self.total += 1;
        let doublings = match self.at_once {
            true => recent.checked_sub(1),
            false => Some(recent),
        };
        let pause = doublings.map_or(Duration::ZERO, |times| FIRST_PAUSE * (1 << times));
        Some(pause.min(LONGEST_PAUSE))
    }

    /// Restarts since the platform was started.
    pub(super) fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let now = Instant::now();
        let mut restarts = Restarts::default();
        let pauses: Vec<_> = (0..6)
            .map(|_| restarts.next(now).map(|pause| pause.as_secs()))
            .collect();
        assert_eq!(
            pauses,
            [Some(2), Some(4), Some(8), Some(16), Some(30), None]
        );
        assert_eq!(restarts.total(), 5);
    }

    #[test]
    fn whoever_holds_connections_comes_back_at_once() {
        let now = Instant::now();
        let mut restarts = Restarts::at_once();
        let pauses: Vec<_> = (0..6)
            .map(|_| restarts.next(now).map(|pause| pause.as_secs()))
            .collect();
        assert_eq!(pauses, [Some(0), Some(2), Some(4), Some(8), Some(16), None]);
        assert_eq!(restarts.next(now + WINDOW), Some(Duration::ZERO));
    }

    #[test]
    fn old_deaths_are_forgotten() {
        let mut now = Instant::now();
        let mut restarts = Restarts::default();
        for _ in 0..20 {
            assert_eq!(restarts.next(now), Some(FIRST_PAUSE));
            now += WINDOW;
        }
    }
}
