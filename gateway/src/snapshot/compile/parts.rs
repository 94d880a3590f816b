//! Clusters and policies in their resolved form, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringwall_identity::SpiffeId;
use ringwall_policy::{ActionDecl, PolicyEngine, PolicySource};

use super::{list, quoted};
use crate::config::{ActionClass, Config};
use crate::error::Fault;
use crate::snapshot::{Cluster, Target};

pub(super) fn clusters(config: &Config) -> Result<BTreeMap<&str, Arc<Cluster>>, Fault> {
    let identity_of = |key: &str, name: &str| {
        SpiffeId::workload(&config.service.trust_domain, name).map_err(|error| {
            Fault::new(
                key,
                quoted(name),
                "the name of a workload",
                error.to_string(),
            )
        })
    };
    let mut clusters = BTreeMap::new();
    for (name, cluster) in &config.clusters {
        let key = format!("clusters.{name}");
        let (target, audience) = match (&cluster.upstream, cluster.plain) {
            (Some(upstream), None) => {
                let declared = config.service.upstreams.get(upstream).ok_or_else(|| {
                    Fault::new(
                        format!("{key}.upstream"),
                        quoted(upstream),
                        list(config.service.upstreams.keys()),
                        "declare it under `service.upstreams`",
                    )
                })?;
                let peer = identity_of(&key, &declared.identity)?;
                (
                    Target::Mesh {
                        address: declared.address.clone(),
                        peer: peer.clone(),
                    },
                    peer,
                )
            }
            (None, Some(address)) => (
                Target::Plain {
                    address: address.into(),
                },
                identity_of(&key, name)?,
            ),
            _ => {
                return Err(Fault::new(
                    key,
                    "both or neither of `upstream` and `plain`",
                    "exactly one",
                    "name a declared upstream",
                ));
            }
        };
        let compiled = Cluster {
            name: name.as_str().into(),
            pool_key: pool_key(&target),
            target,
            audience,
            pool: cluster.pool.clone(),
        };
        clusters.insert(name.as_str(), Arc::new(compiled));
    }
    Ok(clusters)
}

fn pool_key(target: &Target) -> Box<str> {
    match target {
        Target::Mesh { address, peer } => format!("{address} {peer}").into(),
        Target::Plain { address } => format!("{address} plain").into(),
    }
}

pub(super) fn policies(config: &Config) -> Result<BTreeMap<&str, Arc<PolicyEngine>>, Fault> {
    let actions: Vec<ActionDecl> = config
        .actions
        .iter()
        .map(|(name, class)| ActionDecl {
            name: name.clone(),
            class: policy_class(*class),
        })
        .collect();
    let mut engines = BTreeMap::new();
    for (name, text) in &config.policies {
        let source = PolicySource::new(name.as_str(), text.as_str());
        let engine = PolicyEngine::compile_with_actions(&[source], &actions).map_err(|error| {
            Fault::new(
                format!("policies.{name}"),
                error.to_string(),
                "Cedar that the schema accepts",
                "see docs of the policy schema",
            )
        })?;
        engines.insert(name.as_str(), Arc::new(engine));
    }
    Ok(engines)
}

const fn policy_class(class: ActionClass) -> ringwall_policy::ActionClass {
    match class {
        ActionClass::Read => ringwall_policy::ActionClass::Read,
        ActionClass::Write => ringwall_policy::ActionClass::Write,
        ActionClass::Admin => ringwall_policy::ActionClass::Admin,
    }
}
