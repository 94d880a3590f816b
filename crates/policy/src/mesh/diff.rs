//! What a new bundle would change.
//!
//! Owns: the comparison of two bundles that both compile. Must not: decide which one is better.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Edge, Example, Expect, MeshPolicy};

/// From an old bundle to a new one. Edges are compared by caller, callee and ports; policies by `@id` and text, wherever
/// they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleDiff {
    pub edges_added: Vec<Edge>,
    pub edges_removed: Vec<Edge>,
    pub policies_added: Vec<String>,
    pub policies_removed: Vec<String>,
    pub policies_changed: Vec<String>,
    /// Policies that are only logged from now on, and those that are enforced from now on.
    pub now_dry_run: Vec<String>,
    pub now_enforced: Vec<String>,
    pub services_added: Vec<String>,
    pub services_removed: Vec<String>,
    pub services_changed: Vec<String>,
    pub examples_added: Vec<String>,
    pub examples_removed: Vec<String>,
    /// Cases of either bundle on which the two disagree.
    pub verdicts: Vec<VerdictChange>,
}

/// One case that is decided differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictChange {
    pub example: String,
    pub from: Expect,
    pub to: Expect,
    /// Why the new bundle decides so.
    pub reason: String,
}

impl BundleDiff {
    /// Compares.
    #[must_use]
    pub fn between(old: &MeshPolicy, new: &MeshPolicy) -> Self {
        let (before, after) = (old.bundle(), new.bundle());
        let edges = |policy: &MeshPolicy| -> BTreeSet<Edge> {
            policy.bundle.edges.iter().map(canonical).collect()
        };
        let (edges_before, edges_after) = (edges(old), edges(new));
        let policies = changes(&texts(old), &texts(new));
        let services = changes(&before.services, &after.services);
        let examples = |policy: &MeshPolicy| -> BTreeMap<String, ()> {
            let names = policy.bundle.examples.iter();
            names.map(|example| (example.name.clone(), ())).collect()
        };
        let examples = changes(&examples(old), &examples(new));
        let dry = |policy: &MeshPolicy| -> BTreeSet<String> {
            policy.bundle.dry_run.iter().cloned().collect()
        };
        let (dry_before, dry_after) = (dry(old), dry(new));
        let known = texts(new);
        Self {
            edges_added: edges_after.difference(&edges_before).cloned().collect(),
            edges_removed: edges_before.difference(&edges_after).cloned().collect(),
            policies_added: policies.added,
            policies_removed: policies.removed,
            policies_changed: policies.changed,
            now_dry_run: dry_after.difference(&dry_before).cloned().collect(),
            now_enforced: dry_before
                .difference(&dry_after)
                .filter(|id| known.contains_key(*id))
                .cloned()
                .collect(),
            services_added: services.added,
            services_removed: services.removed,
            services_changed: services.changed,
            examples_added: examples.added,
            examples_removed: examples.removed,
            verdicts: verdicts(old, new),
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

fn changes<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Changes {
    let absent = |from: &BTreeMap<String, T>, name: &String| !from.contains_key(name);
    let differs = |name: &&String| {
        old.get(*name)
            .is_some_and(|before| new.get(*name) != Some(before))
    };
    Changes {
        added: new
            .keys()
            .filter(|name| absent(old, name))
            .cloned()
            .collect(),
        removed: old
            .keys()
            .filter(|name| absent(new, name))
            .cloned()
            .collect(),
        changed: new.keys().filter(differs).cloned().collect(),
    }
}

fn texts(policy: &MeshPolicy) -> BTreeMap<String, String> {
    let ids = policy.policy_ids().into_iter();
    let texts = ids.filter_map(|id| Some((id.to_owned(), policy.compiled.policy(id)?.to_string())));
    texts.collect()
}

fn canonical(edge: &Edge) -> Edge {
    let mut edge = edge.clone();
    edge.ports.sort_unstable();
    edge.ports.dedup();
    edge
}

fn verdicts(old: &MeshPolicy, new: &MeshPolicy) -> Vec<VerdictChange> {
    let mut cases: Vec<&Example> = new.bundle.examples.iter().collect();
    let gone = old.bundle.examples.iter();
    cases.extend(gone.filter(|example| !new.bundle.examples.contains(example)));
    let changed = cases.into_iter().filter_map(|example| {
        let ((from, _), (to, reason)) = (old.run(example), new.run(example));
        (from != to).then(|| VerdictChange {
            example: example.name.clone(),
            from: Expect::of(from),
            to: Expect::of(to),
            reason,
        })
    });
    changed.collect()
}
