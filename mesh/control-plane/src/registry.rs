//! Who exists: services, their names, and the nodes on which they may run (R53).
//!
//! Owns: the lookup from a workload and a node to what may be certified for it. An immutable value:
//! a changed configuration makes a new one.
//! Must not: issue anything. Read next: `registry/reload.rs` (how a new one comes in),
//! `config/services.rs` (what an entry must be).

pub(crate) mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_mesh_api::v1;
use ringwall_service::ConfigError;

use crate::config::{Config, ServiceEntry};

/// All services, by name.
#[derive(Debug)]
pub(crate) struct Registry {
    trust_domain: TrustDomain,
    nodes: BTreeSet<String>,
    services: BTreeMap<String, Arc<Service>>,
}

/// One service.
#[derive(Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) id: SpiffeId,
    pub(crate) entry: ServiceEntry,
}

impl Registry {
    /// The registry that a validated configuration declares.
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let mut services = BTreeMap::new();
        for entry in &config.services {
            let service = Service {
                id: config.service.workload(entry.name.as_str())?,
                entry: entry.clone(),
            };
            services.insert(entry.name.to_string(), Arc::new(service));
        }
        Ok(Self {
            trust_domain: config.service.trust_domain.clone(),
            nodes: config.nodes.iter().map(ToString::to_string).collect(),
            services,
        })
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn has_node(&self, node: &str) -> bool {
        self.nodes.contains(node)
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The service of this name, if it may run on that node.
    pub(crate) fn on_node(&self, name: &str, node: &str) -> Option<&Arc<Service>> {
        self.service(name)
            .filter(|service| service.entry.nodes.iter().any(|on| on.as_str() == node))
    }

    /// What an agent is told about the workloads of its node.
    pub(crate) fn registrations(&self, node: &str) -> Vec<v1::Registration> {
        let on_node = |service: &&Arc<Service>| {
            let nodes = &service.entry.nodes;
            nodes.iter().any(|on| on.as_str() == node)
        };
        self.services()
            .filter(on_node)
            .map(|service| service.registration())
            .collect()
    }
}

impl Service {
    fn registration(&self) -> v1::Registration {
        v1::Registration {
            workload: self.entry.name.to_string(),
            spiffe_id: self.id.to_string(),
            dns_names: self.entry.dns.clone(),
            database_roles: self.entry.database_roles.clone(),
            server_names: self.entry.server_names.clone(),
            owner: self.entry.owner.clone(),
        }
    }
}
