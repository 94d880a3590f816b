//! Good and bad outcomes of the last ten seconds, in slots of one second.
//!
//! Must not: read a clock.

use std::time::Duration;

const SLOTS: u64 = 10;
/// How far back [`Window::counts`] looks.
#[cfg(test)]
pub(crate) const WINDOW: Duration = Duration::from_secs(SLOTS);

/// Counters that forget.
#[derive(Debug, Default)]
pub(crate) struct Window {
    slots: [Slot; SLOTS as usize],
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    second: u64,
    good: u32,
    bad: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) good: u64,
    pub(crate) bad: u64,
}

impl Window {
    pub(crate) fn add(&mut self, now: Duration, good: bool) {
        let second = now.as_secs();
        let index = usize::try_from(second % SLOTS).unwrap_or(0);
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        let count = if good { &mut slot.good } else { &mut slot.bad };
        *count = count.saturating_add(1);
    }

    pub(crate) fn counts(&self, now: Duration) -> Counts {
        let second = now.as_secs();
        let recent = |slot: &&Slot| slot.second <= second && slot.second + SLOTS > second;
        self.slots
            .iter()
            .filter(recent)
            .fold(Counts::default(), |sum, slot| Counts {
                good: sum.good + u64::from(slot.good),
                bad: sum.bad + u64::from(slot.bad),
            })
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_those_of_the_last_ten_seconds(steps in proptest::collection::vec((0u64..4000, any::<bool>()), 1..200)) {
            let mut window = Window::default();
            let mut past: Vec<(Duration, bool)> = Vec::new();
            let mut now = Duration::ZERO;
            for (step, good) in steps {
                now += Duration::from_millis(step);
                window.add(now, good);
                past.push((now, good));
                let from = now.as_secs().saturating_sub(WINDOW.as_secs() - 1);
                let recent: Vec<bool> = past.iter().filter(|(at, _)| at.as_secs() >= from).map(|(_, good)| *good).collect();
                let counts = window.counts(now);
                prop_assert_eq!(counts.good, recent.iter().filter(|good| **good).count() as u64);
                prop_assert_eq!(counts.bad, recent.iter().filter(|good| !**good).count() as u64);
            }
        }
    }
}
