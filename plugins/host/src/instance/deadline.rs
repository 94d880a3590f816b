//! The processor time of one callback.
//!
//! Owns: the judgement at each tick. The engine's epoch says only that time has passed; whether the guest has used it is
//! read from the thread's own clock, so that a busy machine does not fail innocent plugins. A callback that ends before
//! the first tick, as nearly all do, reads no clock.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use wasmtime::{Store, UpdateDeadline};

use crate::instance::Host;

/// About the most that a callback uses before its first tick.
const BEFORE_FIRST_TICK: Duration = Duration::from_millis(2);

/// The state of the running callback's limit.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    budget: Duration,
    first_tick: Option<Duration>,
    pub(crate) is_over: bool,
    /// What the callback took that failed.
    pub(crate) lost: Duration,
}

impl Deadline {
    pub(crate) const fn begin(&mut self, budget: Duration) {
        self.budget = budget;
        self.first_tick = None;
        self.is_over = false;
        self.lost = Duration::ZERO;
    }

    /// The callback has failed after `took`, of which waiting for the processor is not the guest's.
    pub(crate) fn fail(&mut self, took: Duration) {
        let since_first = self.first_tick.map_or(Duration::ZERO, |first| {
            processor_time().saturating_sub(first)
        });
        self.lost = took.min(since_first + BEFORE_FIRST_TICK);
    }

    fn tick(&mut self, now: Duration) -> UpdateDeadline {
        match self.first_tick {
            None => self.first_tick = Some(now),
            Some(first) if now.saturating_sub(first) >= self.budget => {
                self.is_over = true;
                return UpdateDeadline::Interrupt;
            }
            Some(_) => {}
        }
        UpdateDeadline::Continue(1)
    }
}

/// Makes the store ask at every tick.
pub(crate) fn watch(store: &mut Store<Host>) {
    store.epoch_deadline_callback(|mut context| {
        let now = processor_time();
        Ok(context.data_mut().deadline.tick(now))
    });
}

/// Of this thread. A clock that cannot be read ends the callback: time without a limit is none.
pub(super) fn processor_time() -> Duration {
    let read = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    read.map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r91_only_used_time_counts() {
        let mut deadline = Deadline::default();
        deadline.begin(Duration::from_millis(10));
        let mut at = |milliseconds| {
            let judged = deadline.tick(Duration::from_millis(milliseconds));
            matches!(judged, UpdateDeadline::Continue(1))
        };
        assert!(at(500)); // what this thread had used before
        assert!(at(500)); // a tick in which it did not run
        assert!(at(509));
        assert!(!at(510));
        assert!(deadline.is_over);
    }
}
