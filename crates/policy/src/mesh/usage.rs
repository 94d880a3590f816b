//! Which grants nobody uses (R51).
//!
//! Owns: the names under which uses are counted, and the report. Must not: count; proxies do, and the control plane adds
//! up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Edge, Effect, MeshPolicy};

/// Edges are counted beside policies, under names that no `@id` may have.
pub(super) const EDGE_PREFIX: &str = "edge:";

/// Name under which a proxy counts a connection that an edge let in.
#[must_use]
pub fn edge_use(caller: &str, callee: &str) -> String {
    format!("{EDGE_PREFIX}{caller}>{callee}")
}

/// How often a policy decided, or an edge let in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyUse {
    pub permitted: u64,
    pub forbidden: u64,
    pub dry_run: u64,
}

impl PolicyUse {
    /// Adds, without overflow: the counts come from elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.permitted = self.permitted.saturating_add(other.permitted);
        self.forbidden = self.forbidden.saturating_add(other.forbidden);
        self.dry_run = self.dry_run.saturating_add(other.dry_run);
    }
}

/// What could be taken away, since nothing used it while it was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedGrants {
    pub edges: Vec<Edge>,
    /// Permitting policies that decided nothing.
    pub policies: Vec<UnusedPolicy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedPolicy {
    pub policy: String,
    /// Name of the policy text.
    pub file: String,
    pub line: usize,
    pub dry_run: bool,
}

impl MeshPolicy {
    /// Grants without a use in `uses` (policies by `@id`, edges by [`edge_use`]).
    #[must_use]
    pub fn unused_grants(&self, uses: &BTreeMap<String, PolicyUse>) -> UnusedGrants {
        let used = |name: &str| uses.get(name).copied().unwrap_or_default();
        let edges = self.bundle.edges.iter();
        let edges = edges
            .filter(|edge| used(&edge_use(&edge.caller, &edge.callee)).permitted == 0)
            .cloned()
            .collect();
        let policies = self.compiled.facts.iter();
        let policies = policies
            .filter(|(_, facts)| facts.effect == Effect::Permit)
            .filter(|(id, facts)| {
                let used = used(id);
                let count = if facts.dry_run {
                    used.dry_run
                } else {
                    used.permitted
                };
                count == 0
            })
            .map(|(id, facts)| UnusedPolicy {
                policy: id.clone(),
                file: facts.file.clone(),
                line: facts.line,
                dry_run: facts.dry_run,
            })
            .collect();
        UnusedGrants { edges, policies }
    }
}
