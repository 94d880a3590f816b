//! Uses of grants, added up in memory and written from time to time.
//!
//! Owns: the counts of names that the active bundle has; proxies cannot make others. Must not: write to the store itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use ringwall_policy::mesh::PolicyUse;

#[derive(Default)]
struct Counts {
    expected: HashSet<String>,
    uses: BTreeMap<String, PolicyUse>,
}

/// Clones share the counts.
#[derive(Clone, Default)]
pub(super) struct Usage(Arc<Mutex<Counts>>);

impl Usage {
    /// Counts these names alone from now on.
    pub(super) fn expect(&self, names: &[String]) {
        let mut counts = self.0.lock();
        counts.expected = names.iter().cloned().collect();
        let Counts { expected, uses } = &mut *counts;
        uses.retain(|name, _| expected.contains(name));
    }

    pub(super) fn add(&self, uses: Vec<(String, PolicyUse)>) {
        let mut counts = self.0.lock();
        let Counts {
            expected,
            uses: known,
        } = &mut *counts;
        for (name, used) in uses {
            if expected.contains(&name) {
                known.entry(name).or_default().add(&used);
            }
        }
    }

    /// What was counted since the last call.
    pub(super) fn take(&self) -> BTreeMap<String, PolicyUse> {
        std::mem::take(&mut self.0.lock().uses)
    }

    /// Puts back what could not be written.
    pub(super) fn put_back(&self, uses: BTreeMap<String, PolicyUse>) {
        self.add(uses.into_iter().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r51_only_names_of_the_bundle_are_counted() {
        let usage = Usage::default();
        usage.expect(&["a".to_owned(), "b".to_owned()]);
        let one = PolicyUse {
            permitted: 1,
            ..PolicyUse::default()
        };
        for name in ["a", "a", "stranger"] {
            usage.add(vec![(name.to_owned(), one)]);
        }
        let taken = usage.take();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken["a"].permitted, 2);
        assert!(usage.take().is_empty());
        usage.put_back(taken);
        usage.expect(&["b".to_owned()]);
        assert!(usage.take().is_empty());
    }
}
