//! The policy that the configuration brings: a first version, and another one whenever it changes here.
//!
//! Owns: its shape. Must not: judge it; `ringwall-policy` does, with the registry's services beside it.

use std::collections::BTreeMap;

use ringwall_policy::mesh::{Bundle, Edge, Example, ServiceFacts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry::Registry;

/// Who may speak to whom, and about what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PolicyConfig {
    /// Who may connect to whom; `ports` empty: every declared one.
    pub(crate) edges: Vec<Edge>,
    /// Cedar policy texts by name.
    pub(crate) policies: BTreeMap<String, String>,
    /// `@id`s of policies whose verdict is only logged.
    pub(crate) dry_run: Vec<String>,
    /// Cases that must hold.
    pub(crate) examples: Vec<Example>,
}

impl PolicyConfig {
    /// The same as a bundle, with what the registry knows of services.
    pub(crate) fn bundle(&self, registry: &Registry) -> Bundle {
        Bundle {
            edges: self.edges.clone(),
            policies: self.policies.clone(),
            dry_run: self.dry_run.clone(),
            examples: self.examples.clone(),
            services: facts(registry),
        }
    }
}

/// What policies may know of the registry.
pub(crate) fn facts(registry: &Registry) -> BTreeMap<String, ServiceFacts> {
    let services = registry.services().map(|service| {
        let entry = &service.entry;
        let facts = ServiceFacts {
            owner: entry.owner.clone(),
            tier: entry.tier.clone(),
            ports: entry.ports.iter().map(|port| port.number).collect(),
        };
        (entry.name.to_string(), facts)
    });
    services.collect()
}
