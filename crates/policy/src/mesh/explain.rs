//! Why a request was decided as it was.
//!
//! Owns: asking every policy by itself. Slow on purpose-built questions only; the data path does not come here.

use cedar_policy::{Authorizer, Policy, PolicySet};
use ringwall_identity::SpiffeId;
use serde::{Deserialize, Serialize};

use super::{Edge, MeshDecision, MeshOutcome, MeshPolicy, MeshRequest};

/// What a policy does when it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Permit,
    Forbid,
}

/// What became of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Applies,
    /// Principal, action or resource is another one.
    OtherScope,
    /// Its scope fits, its condition does not hold.
    ConditionFalse,
    Failed(String),
}

/// One policy that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    pub policy: String,
    pub file: String,
    pub line: usize,
    pub effect: Effect,
    pub dry_run: bool,
    pub verdict: Verdict,
}

/// The whole story of one decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub decision: MeshDecision,
    /// The declared edge that lets the caller connect.
    pub edge: Option<Edge>,
    /// Every policy, those that apply first.
    pub considered: Vec<Considered>,
}

impl MeshPolicy {
    /// Decides as [`MeshPolicy::decide`] does, and says what each policy had to do with it.
    #[must_use]
    pub fn explain(&self, request: &MeshRequest<'_>) -> Explanation {
        let mut considered: Vec<Considered> = self
            .compiled
            .facts
            .iter()
            .filter_map(|(id, facts)| {
                let policy = self.compiled.policy(id)?;
                Some(Considered {
                    policy: id.clone(),
                    file: facts.file.clone(),
                    line: facts.line,
                    effect: facts.effect,
                    dry_run: facts.dry_run,
                    verdict: self.alone(policy, request),
                })
            })
            .collect();
        considered.sort_by_key(|policy| match policy.verdict {
            Verdict::Applies => 0,
            Verdict::Failed(_) => 1,
            Verdict::ConditionFalse => 2,
            Verdict::OtherScope => 3,
        });
        Explanation {
            decision: self.decide(request),
            edge: self.edge_for(request.caller, request.callee, request.port),
            considered,
        }
    }

    /// Explains a connection without a request: the edges alone decide.
    #[must_use]
    pub fn explain_connection(&self, caller: &str, callee: &str, port: u16) -> Explanation {
        let allowed = self.allows_edge(caller, callee, port);
        let outcome = if allowed {
            MeshOutcome::Permitted
        } else {
            MeshOutcome::NoEdge
        };
        Explanation {
            decision: MeshDecision::plain(outcome),
            edge: self.declared(caller, callee, port),
            considered: Vec::new(),
        }
    }

    fn edge_for(&self, caller: &SpiffeId, callee: &str, port: u16) -> Option<Edge> {
        self.declared(caller.path(), callee, port)
    }

    fn declared(&self, caller: &str, callee: &str, port: u16) -> Option<Edge> {
        if !self.allows_edge(caller, callee, port) {
            return None;
        }
        let edges = self.bundle.edges.iter();
        edges
            .filter(|edge| edge.caller == caller && edge.callee == callee)
            .find(|edge| edge.ports.is_empty() || edge.ports.contains(&port))
            .cloned()
    }

    fn alone(&self, policy: &Policy, request: &MeshRequest<'_>) -> Verdict {
        let full = match self.ask(policy.clone(), request) {
            Ok(applies) => applies,
            Err(error) => return Verdict::Failed(error),
        };
        if full {
            return Verdict::Applies;
        }
        let scope = scope_of(policy).and_then(|scope| self.ask(scope, request).ok());
        if scope == Some(true) {
            Verdict::ConditionFalse
        } else {
            Verdict::OtherScope
        }
    }

    /// Whether one policy applies, permit or forbid.
    fn ask(&self, policy: Policy, request: &MeshRequest<'_>) -> Result<bool, String> {
        let mut alone = PolicySet::new();
        alone.add(policy).map_err(|error| error.to_string())?;
        let question = self.compiled.question(request, &self.compiled.reads)?;
        let entities = &self.compiled.vocabulary.entities;
        let response = Authorizer::new().is_authorized(&question, &alone, entities);
        let diagnostics = response.diagnostics();
        if let Some(error) = diagnostics.errors().next() {
            return Err(error.to_string());
        }
        Ok(diagnostics.reason().next().is_some())
    }
}

/// The same policy without its conditions.
fn scope_of(policy: &Policy) -> Option<Policy> {
    let mut json = policy.to_json().ok()?;
    let conditions = json.as_object_mut()?.get_mut("conditions")?;
    *conditions = serde_json::Value::Array(Vec::new());
    Policy::from_json(Some(policy.id().clone()), json).ok()
}
