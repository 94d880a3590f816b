//! Endpoints from among which is drawn, in proportion to their weights.
//!
//! Must not: know what the indices stand for.

use ringwall_data_path::random::Random;

/// Draws that may meet the same member before its neighbour is taken.
const REDRAWS: usize = 3;

/// Indices with the running sum of their weights.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: Vec<(u64, usize)>,
}

impl Group {
    /// From indices and weights; no weight is 0.
    pub(super) fn new(members: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let mut sum = 0;
        let running = |(index, weight): (usize, u64)| {
            sum += weight;
            (sum, index)
        };
        Self {
            members: members.into_iter().map(running).collect(),
        }
    }

    pub(super) fn weight(&self) -> u64 {
        self.members.last().map_or(0, |(sum, _)| *sum)
    }

    /// Two members, distinct where there are two.
    pub(super) fn draw_two(&self, random: &Random) -> Option<(usize, usize)> {
        let first = self.draw(random)?;
        let mut second = first;
        for _ in 0..REDRAWS {
            second = self.draw(random)?;
            if second != first {
                break;
            }
        }
        if second == first {
            second = self
                .members
                .len()
                .checked_sub(1)
                .map(|last| (first + 1).min(last))?;
        }
        if second == first {
            second = 0;
        }
        let index = |at: usize| self.members.get(at).map(|(_, index)| *index);
        Some((index(first)?, index(second)?))
    }

    /// Position of a member.
    fn draw(&self, random: &Random) -> Option<usize> {
        let at = random.next().checked_rem(self.weight())?;
        Some(self.members.partition_point(|(sum, _)| *sum <= at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_group_has_nobody() {
        assert_eq!(Group::default().draw_two(&Random::seeded(1)), None);
    }

    proptest! {
        #[test]
        fn two_distinct_members_are_drawn(weights in proptest::collection::vec(1u64..1000, 1..20), seed: u64) {
            let random = Random::seeded(seed);
            let group = Group::new(weights.iter().copied().enumerate());
            for _ in 0..50 {
                let (first, second) = group.draw_two(&random).unwrap();
                prop_assert!(first < weights.len() && second < weights.len());
                prop_assert!(weights.len() == 1 || first != second);
            }
        }
    }

    #[test]
    fn the_first_is_drawn_in_proportion_to_its_weight() {
        let random = Random::seeded(7);
        let group = Group::new([(0, 1), (1, 9)]);
        let heavy = (0..10_000)
            .filter(|_| group.draw_two(&random).is_some_and(|(first, _)| first == 1))
            .count();
        assert!((8_800..9_200).contains(&heavy), "{heavy}");
    }
}
