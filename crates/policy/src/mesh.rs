//! Policy between workloads: L4 edges and Cedar rules for requests, in one signed bundle.
//!
//! Owns: the bundle ([`Bundle`]), its validation with the cases that it carries, and the decision of a service proxy.
//! Must not: sign, fetch or store bundles. Read next: `mesh.cedarschema` (what policies can say), `mesh/compile.rs` (what
//! is refused), `mesh/decide.rs`.
//!
//! An edge lets a workload connect to a port of a service; it alone decides for opaque TCP. A request passes when its edge
//! is declared, a policy permits it, none forbids it and no policy failed while it was evaluated.

pub mod administration;
mod check;
mod compile;
mod decide;
mod diff;
mod explain;
mod reads;
mod usage;

use std::collections::BTreeMap;

use http::HeaderMap;
use ringwall_identity::SpiffeId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::FailedExample;
pub use compile::limits;
pub use diff::{BundleDiff, VerdictChange};
pub use explain::{Considered, Effect, Explanation, Verdict};
pub use reads::Reads;
pub use usage::{PolicyUse, UnusedGrants, UnusedPolicy, edge_use};

use crate::error::{Fault, PolicyError};
use compile::Compiled;

/// Media type in the `typ` header of a signed bundle (RFC 7515 §4.1.9).
pub const JWS_TYPE: &str = "ringwall-policy";

/// What is signed. The version is inside: beside the signature it could be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBundle {
    pub version: u64,
    pub bundle: Bundle,
}

/// What is administered, versioned and pushed as one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Who may connect to whom; anything else is refused in the handshake.
    pub edges: Vec<Edge>,
    /// Cedar policy texts by name.
    pub policies: BTreeMap<String, String>,
    /// `@id`s of policies whose verdict is only logged.
    #[serde(default)]
    pub dry_run: Vec<String>,
    /// Cases that must hold, or the bundle is not activated.
    #[serde(default)]
    pub examples: Vec<Example>,
    /// What policies may know of each service.
    pub services: BTreeMap<String, ServiceFacts>,
}

/// One allowed connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    pub caller: String,
    pub callee: String,
    /// Empty: every declared port.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Attributes of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceFacts {
    #[serde(default)]
    pub owner: String,
    #[serde(default)]
    pub tier: String,
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// An allow or deny case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Example {
    pub name: String,
    pub caller: String,
    pub callee: String,
    pub port: u16,
    /// Absent: a connection, which the edges alone decide.
    #[serde(default)]
    pub method: Option<String>,
    /// Absent: `/`.
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub user: Option<UserFacts>,
    pub expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    Allow,
    Deny,
}

impl Expect {
    /// The verdict by its word.
    #[must_use]
    pub fn of(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What the gateway's user-context token says, after its verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserFacts {
    pub sub: String,
    #[serde(default)]
    pub client: String,
    #[serde(default)]
    pub roles: Vec<String>,
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// One request, as the callee's proxy sees it.
#[derive(Debug, Clone, Copy)]
pub struct MeshRequest<'a> {
    /// A verified id of the own trust domain; other domains are refused in the handshake.
    pub caller: &'a SpiffeId,
    pub callee: &'a str,
    pub port: u16,
    pub method: &'a str,
    /// Without the query, in the one form in which the request is forwarded.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub user: Option<&'a UserFacts>,
}

/// How a decision came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeshOutcome {
    /// No edge lets this caller connect.
    NoEdge,
    /// At least one policy permits and none forbids.
    Permitted,
    /// A policy forbids.
    Forbidden,
    /// No policy permits: the default.
    NoPermit,
    /// A policy failed, or the request is not one that can be asked about.
    Error,
}

/// The answer, with the `@id`s of the policies that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshDecision {
    pub allowed: bool,
    pub outcome: MeshOutcome,
    /// Policies that decided; empty where none permits.
    pub reasons: Vec<String>,
    /// What the policies in `dry_run` would have changed: `Some(false)` would have denied, `Some(true)` allowed.
    pub dry_run: Option<bool>,
    pub dry_run_reasons: Vec<String>,
    pub errors: Vec<String>,
}

/// A compiled bundle. Immutable; denies whatever it does not permit.
#[derive(Debug)]
pub struct MeshPolicy {
    bundle: Bundle,
    compiled: Compiled,
}

impl Bundle {
    /// Validates, compiles and runs the examples.
    ///
    /// # Errors
    /// [`PolicyError`] with all faults, or with all examples that do not hold.
    pub fn check(&self) -> Result<MeshPolicy, PolicyError> {
        let policy = MeshPolicy::compile(self.clone())?;
        let failed = policy.failed_examples();
        if failed.is_empty() {
            Ok(policy)
        } else {
            Err(PolicyError::Examples(failed))
        }
    }
}

impl MeshPolicy {
    /// Validates and compiles, without running the examples.
    ///
    /// # Errors
    /// [`PolicyError`] with all faults. A fault of a policy names its text and line; one of an edge, an example or a
    /// dry-run entry names that list (`edges`) and, as its line, the number of the entry.
    pub fn compile(bundle: Bundle) -> Result<Self, PolicyError> {
        let compiled = with_deep_stack(|| compile::compile(&bundle))??;
        Ok(Self { bundle, compiled })
    }

    /// Whether `caller` may connect to `callee` at `port`. Callers are names of workloads of the own trust domain.
    #[must_use]
    pub fn allows_edge(&self, caller: &str, callee: &str, port: u16) -> bool {
        self.compiled.edges.allows(caller, callee, port)
    }

    /// Decides one request. Never fails: whatever is wrong is a denial with its reason.
    #[must_use]
    pub fn decide(&self, request: &MeshRequest<'_>) -> MeshDecision {
        self.compiled.decide(request)
    }

    /// What of a request the policies look at: what they do not read cannot change a decision, and need not stand in the
    /// key of a cache.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.compiled.reads
    }

    /// What was compiled.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Rules that are valid but can never apply, or look like a mistake.
    #[must_use]
    pub fn warnings(&self) -> &[Fault] {
        &self.compiled.warnings
    }

    /// `@id`s of all policies, sorted.
    #[must_use]
    pub fn policy_ids(&self) -> Vec<&str> {
        self.compiled.policy_ids()
    }
}

/// Cedar recurses over the tree of a policy; `nesting.rs` bounds its depth, and this is room for it on any thread.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Runs slow work on a stack of its own. Its pages are only taken when they are used.
fn with_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, PolicyError> {
    let failed =
        |why: &dyn std::fmt::Display| PolicyError::Schema(format!("no thread for it: {why}"));
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = builder
            .spawn_scoped(scope, work)
            .map_err(|error| failed(&error))?;
        thread.join().map_err(|_| failed(&"it panicked"))
    })
}

#[cfg(test)]
mod tests;
