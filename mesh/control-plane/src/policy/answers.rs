//! What can be asked about the policy.
//!
//! Owns: versions, the history, checks and differences, explanations, which proxies have what, and the report of unused
//! grants (R51). Must not: change anything. Read next: `admin.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringwall_policy::mesh::administration::{
    Answer, CheckReport, Difference, Proxy, ProxyRefusal, Question, Spread, Unused, Version,
    VersionWithBundle,
};
use ringwall_policy::mesh::{
    Bundle, BundleDiff, Edge, MeshPolicy, PolicyUse, UnusedGrants, edge_use,
};

use super::admin::{Active, PolicyAdmin, blocking, compiled, difference, with_bundle};
use super::refusal::{Refusal, report};
use crate::config::policy::facts;
use crate::discovery::ProxyState;

/// Longest wait for proxies.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Versions in one answer.
const MAX_HISTORY: u32 = 100;

impl PolicyAdmin {
    /// The active version with its content.
    pub(crate) async fn get(&self) -> Result<VersionWithBundle, Refusal> {
        let stored = self.0.store.newest_version().await?;
        with_bundle(stored.ok_or(Refusal::NoVersion(0))?)
    }

    pub(crate) async fn version(&self, version: u64) -> Result<VersionWithBundle, Refusal> {
        let stored = self.0.store.version(version).await?;
        with_bundle(stored.ok_or(Refusal::NoVersion(version))?)
    }

    pub(crate) async fn history(
        &self,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> Result<Vec<Version>, Refusal> {
        let limit = limit.unwrap_or(MAX_HISTORY).min(MAX_HISTORY);
        Ok(self.0.store.versions(before, limit).await?)
    }

    /// What an apply of `bundle` would say, without doing it.
    pub(crate) async fn check(&self, mut bundle: Bundle) -> Result<CheckReport, Refusal> {
        bundle.services = facts(&self.0.declared.borrow().registry);
        let active = self.current().await?;
        let against = active.as_ref().map_or(0, |active| active.version.version);
        let checked = blocking(move || {
            let next = match MeshPolicy::compile(bundle) {
                Ok(next) => next,
                Err(error) => return report(&error),
            };
            CheckReport {
                failed_examples: next.failed_examples(),
                warnings: next.warnings().to_vec(),
                diff: Some(difference(active.as_deref(), &next)),
                ..CheckReport::default()
            }
        });
        let bundle_report = checked.await?;
        Ok(CheckReport {
            against,
            ..bundle_report
        })
    }

    /// From one version to another one, or to the active one.
    pub(crate) async fn difference(
        &self,
        from: u64,
        to: Option<u64>,
    ) -> Result<Difference, Refusal> {
        let from = self.compiled(Some(from)).await?;
        let to = self.compiled(to).await?;
        blocking(move || Difference {
            from: from.version.version,
            to: to.version.version,
            diff: BundleDiff::between(&from.policy, &to.policy),
        })
        .await
    }

    /// A version of the past, or the active one.
    async fn compiled(&self, version: Option<u64>) -> Result<Arc<Active>, Refusal> {
        let Some(version) = version else {
            return self.current().await?.ok_or(Refusal::NoVersion(0));
        };
        let stored = self.0.store.version(version).await?;
        Ok(Arc::new(
            compiled(stored.ok_or(Refusal::NoVersion(version))?).await?,
        ))
    }

    /// Every connected proxy. Only the leader has any.
    pub(crate) fn proxies(&self) -> Result<Vec<Proxy>, Refusal> {
        self.0.leadership.fence()?;
        Ok(self.0.hub.proxies().into_iter().map(proxy).collect())
    }

    /// Which proxies have `version`, now.
    pub(crate) fn spread(&self, version: u64) -> Spread {
        spread(version, self.0.hub.proxies())
    }

    /// The same when all connected proxies have answered, or after `wait`.
    pub(crate) async fn spread_after(&self, version: u64, wait: Duration) -> Spread {
        let proxies = self
            .0
            .hub
            .wait_for_policy(version, wait.min(MAX_WAIT))
            .await;
        spread(version, proxies)
    }

    pub(crate) async fn explain(&self, question: Question) -> Result<Answer, Refusal> {
        let active = self.compiled(question.version).await?;
        blocking(move || {
            let explanation = active.policy.explain_example(&question.request);
            Ok(Answer {
                version: active.version.version,
                explanation: explanation.map_err(Refusal::Invalid)?,
            })
        })
        .await?
    }

    /// Grants of the active version that nothing has used (R51).
    pub(crate) async fn unused(&self) -> Result<Unused, Refusal> {
        let active = self.current().await?.ok_or(Refusal::NoVersion(0))?;
        self.flush_uses().await;
        let counted = self.0.store.uses().await?;
        let since = counted.values().map(|(_, since)| *since).min();
        let uses: BTreeMap<String, PolicyUse> = counted
            .into_iter()
            .map(|(name, (used, _))| (name, used))
            .collect();
        let bundle = active.policy.bundle();
        let counts_edges = |edge: &Edge| {
            let used = uses.get(&edge_use(&edge.caller, &edge.callee));
            used.is_some_and(|used| used.permitted > 0)
        };
        let edges_counted = bundle.edges.iter().any(counts_edges);
        let grants = active.policy.unused_grants(&uses);
        Ok(Unused {
            version: active.version.version,
            since,
            edges_counted,
            grants: match edges_counted {
                true => grants,
                false => UnusedGrants {
                    edges: Vec::new(),
                    ..grants
                },
            },
        })
    }
}

fn spread(version: u64, proxies: Vec<ProxyState>) -> Spread {
    let mut spread = Spread {
        version,
        ..Spread::default()
    };
    for state in proxies {
        let refused = state.nack.as_ref().and_then(|nack| nack.policy);
        if state.policy >= version {
            spread.applied += 1;
        } else if refused.is_some_and(|refused| refused >= version) {
            spread.refused.push(proxy(state));
        } else {
            spread.pending.push(proxy(state));
        }
    }
    spread
}

/// What is told of a proxy.
fn proxy(state: ProxyState) -> Proxy {
    Proxy {
        workload: state.workload,
        instance: state.instance,
        node: state.node,
        zone: state.zone,
        version: state.policy,
        refused: state.nack.map(|nack| ProxyRefusal {
            version: nack.policy,
            resources: nack.resources,
            reason: nack.reason,
        }),
    }
}
