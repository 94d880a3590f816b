//! The policy file of a composition: who may ask what of whom, with the cases that must hold.
//!
//! Owns: what the composition adds to it (connections, ports and facts), which makes the bundle that the control plane
//! serves. Must not: decide; `ringwall-policy` does, and nothing is started with a policy whose cases do not hold.
//! Read next: `policy_file.rs` (the file itself).

use std::collections::BTreeMap;

use ringwall_policy::mesh::{self, Bundle, ServiceFacts};

use super::Composition;
use crate::config::Source;
use crate::error::CliError;
use crate::policy_file::{PolicyFile, Surroundings};

/// Reads the file and makes a bundle of it and of the composition.
pub(crate) fn bundle(composition: &Composition, source: &Source) -> Result<Bundle, CliError> {
    Ok(read(composition, source)?.bundle)
}

fn read(composition: &Composition, source: &Source) -> Result<PolicyFile, CliError> {
    let around = Surroundings {
        edges: edges(composition),
        services: facts(composition),
    };
    PolicyFile::short(source, around)
}

/// Refuses a policy that the control plane would refuse: with all faults, or all cases that fail.
pub(crate) fn check(composition: &Composition) -> Result<(), CliError> {
    let Some(source) = &composition.policy else {
        return Ok(());
    };
    let file = read(composition, source)?;
    match file.bundle.check() {
        Ok(_) => Ok(()),
        Err(error) => Err(CliError::PolicyRefused {
            lines: file.places.error(&error),
            fix: "correct the policy or the case: nothing is started with a policy whose cases do not hold",
        }),
    }
}

fn edges(composition: &Composition) -> Vec<mesh::Edge> {
    let edges = composition.edges().into_iter();
    edges
        .map(|edge| mesh::Edge {
            caller: edge.caller,
            callee: edge.callee,
            ports: vec![edge.port],
        })
        .collect()
}

fn facts(composition: &Composition) -> BTreeMap<String, ServiceFacts> {
    let components = composition.components.iter();
    components
        .filter(|component| component.port.is_some())
        .map(|component| {
            let ports = component.port.iter().chain(&component.admin);
            let facts = ServiceFacts {
                owner: component.owner.clone(),
                tier: component.tier.clone(),
                ports: ports.map(|port| port.value).collect(),
            };
            (component.name.value.clone(), facts)
        })
        .collect()
}
