//! Numbers that nobody need keep secret: trace ids, choices among equals.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;

/// SplitMix64 over a counter. Must not: make keys, tokens or nonces.
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Default for Random {
    /// Seeded anew for each value and process.
    fn default() -> Self {
        Self::seeded(RandomState::default().hash_one(0u8))
    }
}

impl Random {
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    #[must_use]
    pub fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_within_and_between_instances() {
        let (a, b) = (Random::default(), Random::default());
        let drawn = [a.next(), a.next(), b.next(), b.next()];
        let distinct: std::collections::HashSet<u64> = drawn.into_iter().collect();
        assert_eq!(distinct.len(), 4);
    }
}
