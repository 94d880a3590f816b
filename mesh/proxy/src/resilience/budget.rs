//! How many retries a destination's callers may add to its load.
//!
//! Owns: two buckets of thousandths of a retry. Each request puts `permille` into the first, which forgets what is older
//! than ten seconds; the second fills with `floor` retries a second and holds one second's worth, so that rare requests can
//! be retried at all. Integers only.
//! Must not: read a clock, know why something is retried.

use std::time::Duration;

/// Slots of one second whose deposits count.
const SLOTS: u64 = 10;
/// One retry.
const RETRY: u64 = 1000;

/// The retry budget of one destination.
#[derive(Debug)]
pub(crate) struct Budget {
    slots: [Slot; SLOTS as usize],
    floor: u64,
    floor_at: Duration,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    second: u64,
    left: u64,
}

impl Budget {
    /// Starts with a full floor.
    pub(crate) fn new(now: Duration, floor: u32) -> Self {
        Self {
            slots: [Slot::default(); SLOTS as usize],
            floor: u64::from(floor) * RETRY,
            floor_at: now,
        }
    }

    /// Counts one request (not a retry).
    pub(crate) fn deposit(&mut self, now: Duration, permille: u32) {
        let second = now.as_secs();
        let index = usize::try_from(second % SLOTS).unwrap_or(0);
        if let Some(slot) = self.slots.get_mut(index) {
            if slot.second != second {
                *slot = Slot { second, left: 0 };
            }
            slot.left = slot.left.saturating_add(u64::from(permille));
        }
    }

    /// Takes one retry; `false` when there is none left.
    pub(crate) fn withdraw(&mut self, now: Duration, floor: u32) -> bool {
        self.refill(now, floor);
        if self.deposited(now) >= RETRY {
            self.take_oldest(now);
            return true;
        }
        match self.floor.checked_sub(RETRY) {
            Some(left) => {
                self.floor = left;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Duration, floor: u32) {
        let passed = now.saturating_sub(self.floor_at);
        // Retries a second times milliseconds are thousandths of a retry.
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let most = u64::from(floor) * RETRY;
        self.floor = self
            .floor
            .saturating_add(millis.saturating_mul(u64::from(floor)))
            .min(most);
        // What is less than a millisecond stays for the next time.
        self.floor_at += Duration::from_millis(millis);
    }

    fn deposited(&self, now: Duration) -> u64 {
        self.slots
            .iter()
            .filter(|slot| slot.counts(now))
            .map(|slot| slot.left)
            .sum()
    }

    fn take_oldest(&mut self, now: Duration) {
        let mut owed = RETRY;
        let newest = now.as_secs();
        for second in newest.saturating_sub(SLOTS - 1)..=newest {
            let index = usize::try_from(second % SLOTS).unwrap_or(0);
            if let Some(slot) = self.slots.get_mut(index).filter(|s| s.second == second) {
                let taken = slot.left.min(owed);
                slot.left -= taken;
                owed -= taken;
            }
        }
    }
}

impl Slot {
    const fn counts(&self, now: Duration) -> bool {
        self.second <= now.as_secs() && self.second + SLOTS > now.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn r30_a_fifth_of_the_requests_may_be_retried_and_the_floor_besides() {
        let mut budget = Budget::new(Duration::ZERO, 3);
        let mut retried = 0;
        for n in 0..1000 {
            budget.deposit(millis(n), 200);
            retried += usize::from(budget.withdraw(millis(n), 3));
        }
        // 200 of the ratio; 3 that were there at first and 3 of the second that passed.
        assert!((203..=206).contains(&retried), "{retried}");
    }

    #[test]
    fn r30_the_floor_is_there_without_requests_and_does_not_pile_up() {
        let mut budget = Budget::new(Duration::ZERO, 3);
        let now = Duration::from_secs(3600);
        let taken = (0..100).filter(|_| budget.withdraw(now, 3)).count();
        assert_eq!(taken, 3);
        assert!(!budget.withdraw(now + millis(333), 3));
        assert!(budget.withdraw(now + millis(334), 3));
    }

    #[test]
    fn r30_old_requests_allow_nothing() {
        let mut budget = Budget::new(Duration::ZERO, 0);
        for _ in 0..1000 {
            budget.deposit(millis(500), 200);
        }
        assert!(budget.withdraw(millis(9_999), 0));
        assert!(!budget.withdraw(millis(10_000), 0));
    }

    proptest! {
        /// In any ten seconds: no more retries than the ratio of the requests that can have paid for them, and the floor.
        #[test]
        fn r30_the_budget_holds_in_every_window(
            steps in proptest::collection::vec((0u64..700, 0u32..5, 0u32..8), 1..300),
            permille in 0u32..1000,
            floor in 0u32..10,
        ) {
            let mut now = Duration::ZERO;
            let mut budget = Budget::new(now, floor);
            let mut requests: Vec<Duration> = Vec::new();
            let mut retries: Vec<Duration> = Vec::new();
            for (wait, sent, wanted) in steps {
                now += millis(wait);
                for _ in 0..sent {
                    budget.deposit(now, permille);
                    requests.push(now);
                }
                for _ in 0..wanted {
                    if budget.withdraw(now, floor) {
                        retries.push(now);
                    }
                }
                let from = now.saturating_sub(Duration::from_secs(10));
                let payers = requests.iter().filter(|at| **at + Duration::from_secs(10) > from).count() as u64;
                let taken = retries.iter().filter(|at| **at >= from).count() as u64;
                prop_assert!(taken * 1000 <= payers * u64::from(permille) + u64::from(floor) * 11 * 1000);
            }
        }
    }
}
