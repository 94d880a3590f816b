//! How often each policy decided (R51).
//!
//! Owns: the counters between two reports. Must not: lock on the path of a request whose policies are known: whoever
//! caches a decision keeps its [`Counter`]s beside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use ringwall_mesh_api::v1;

/// Most policies that are counted; a bundle has far fewer.
const MAX_POLICIES: usize = 4096;

/// Uses of one policy since the last report.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    permitted: AtomicU64,
    forbidden: AtomicU64,
    dry_run: AtomicU64,
}

/// Uses of all policies.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    counters: RwLock<HashMap<Box<str>, Arc<Counter>, foldhash::fast::RandomState>>,
}

impl Usage {
    /// The counter of one policy; `None` when there are too many.
    pub(crate) fn counter(&self, policy: &str) -> Option<Arc<Counter>> {
        if let Some(counter) = self.counters.read().get(policy) {
            return Some(Arc::clone(counter));
        }
        let mut counters = self.counters.write();
        if counters.len() >= MAX_POLICIES && !counters.contains_key(policy) {
            return None;
        }
        Some(Arc::clone(counters.entry(policy.into()).or_default()))
    }

    /// What was counted since the last call; `None` when there was nothing.
    pub(crate) fn take(&self) -> Option<v1::UsageReport> {
        let mut uses: Vec<v1::PolicyUse> = self
            .counters
            .read()
            .iter()
            .filter_map(|(policy, counter)| counter.take(policy))
            .collect();
        uses.sort_by(|left, right| left.policy.cmp(&right.policy));
        (!uses.is_empty()).then_some(v1::UsageReport { uses })
    }

    /// Puts back what could not be reported.
    pub(crate) fn put_back(&self, report: &v1::UsageReport) {
        for used in &report.uses {
            if let Some(counter) = self.counter(&used.policy) {
                counter
                    .permitted
                    .fetch_add(used.permitted, Ordering::Relaxed);
                counter
                    .forbidden
                    .fetch_add(used.forbidden, Ordering::Relaxed);
                counter.dry_run.fetch_add(used.dry_run, Ordering::Relaxed);
            }
        }
    }
}

impl Counter {
    /// Counts a decision that this policy made.
    pub(crate) fn decided(&self, allowed: bool) {
        let counter = if allowed {
            &self.permitted
        } else {
            &self.forbidden
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a decision that this policy, in dry run, would have changed.
    pub(crate) fn tried(&self) {
        self.dry_run.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self, policy: &str) -> Option<v1::PolicyUse> {
        let used = v1::PolicyUse {
            policy: policy.to_owned(),
            permitted: self.permitted.swap(0, Ordering::Relaxed),
            forbidden: self.forbidden.swap(0, Ordering::Relaxed),
            dry_run: self.dry_run.swap(0, Ordering::Relaxed),
        };
        (used.permitted + used.forbidden + used.dry_run > 0).then_some(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r51_uses_are_reported_once() {
        let usage = Usage::default();
        assert!(usage.take().is_none());
        let counter = |policy| usage.counter(policy).unwrap();
        counter("orders").decided(true);
        counter("orders").decided(true);
        counter("strict").tried();
        counter("no-night").decided(false);
        let report = usage.take().unwrap();
        let rows: Vec<_> = report
            .uses
            .iter()
            .map(|used| {
                (
                    used.policy.as_str(),
                    used.permitted,
                    used.forbidden,
                    used.dry_run,
                )
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("no-night", 0, 1, 0),
                ("orders", 2, 0, 0),
                ("strict", 0, 0, 1)
            ]
        );
        assert!(usage.take().is_none());
        usage.put_back(&report);
        assert_eq!(
            usage.take().unwrap(),
            report,
            "a report that was lost is made again"
        );
    }

    #[test]
    fn the_number_of_counters_has_a_limit() {
        let usage = Usage::default();
        for policy in 0..MAX_POLICIES {
            assert!(usage.counter(&policy.to_string()).is_some());
        }
        assert!(usage.counter("one more").is_none());
        assert!(usage.counter("7").is_some());
    }
}
