//! The policy file: who may ask what of whom, with the cases that must hold.
//!
//! Owns: its compact form, and what becomes of it: the bundle that the control plane serves, with the
//! edges, ports and facts that the composition declares. Must not: decide; `ringwall-policy` does, and
//! nothing is started with a policy whose cases do not hold.

use std::collections::BTreeMap;

use ringwall_policy::mesh::{self, Bundle, Example, Expect, ServiceFacts, UserFacts};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::Composition;
use crate::config::Source;
use crate::error::CliError;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyFile {
    /// Cedar texts by name.
    pub(crate) policies: BTreeMap<String, String>,
    /// `@id`s of policies whose verdict is only logged.
    #[serde(default)]
    pub(crate) dry_run: Vec<String>,
    /// Cases by the service that is asked.
    pub(crate) cases: BTreeMap<String, Vec<Case>>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    from: Spanned<String>,
    /// `METHOD /path`; absent: a connection.
    #[serde(default)]
    ask: Option<String>,
    /// At the admin listener, and not where other services call.
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    user: Option<UserFacts>,
    expect: Expect,
}

/// Reads the file and makes a bundle of it and of the composition.
pub(crate) fn bundle(composition: &Composition, source: &Source) -> Result<Bundle, CliError> {
    let refused = |place: String, what: String, fix: &str| CliError::Composition {
        place,
        what,
        fix: fix.to_owned(),
    };
    let file: PolicyFile = serde_saphyr::from_str(&source.text).map_err(|error| {
        let place = error.location().map_or_else(
            || source.name.clone(),
            |at| format!("{}:{}:{}", source.name, at.line(), at.column()),
        );
        let what = error.without_snippet().to_string();
        refused(
            place,
            what,
            "the keys are explained at the top of deploy/mesh/policy.yaml",
        )
    })?;
    let mut examples = Vec::new();
    for (callee, cases) in &file.cases {
        for case in cases {
            let at = case.from.referenced;
            let example = case.example(composition, callee).map_err(|what| {
                let place = format!("{}:{}:{}", source.name, at.line(), at.column());
                refused(
                    place,
                    what,
                    "name a component with such a listener, and `METHOD /path`",
                )
            })?;
            examples.push(example);
        }
    }
    let bundle = Bundle {
        edges: edges(composition),
        policies: file.policies,
        dry_run: file.dry_run,
        examples,
        services: facts(composition),
    };
    Ok(bundle)
}

/// Refuses a policy that the control plane would refuse: with all faults, or all cases that fail.
pub(crate) fn check(composition: &Composition) -> Result<(), CliError> {
    let Some(source) = &composition.policy else {
        return Ok(());
    };
    match bundle(composition, source)?.check() {
        Ok(_) => Ok(()),
        Err(error) => Err(CliError::Composition {
            place: source.name.clone(),
            what: error.to_string(),
            fix: "correct the policy or the case: nothing is started with a policy whose cases do not hold".into(),
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

impl Case {
    fn example(&self, composition: &Composition, callee: &str) -> Result<Example, String> {
        let component = composition.component(callee);
        let component = component.ok_or_else(|| format!("`{callee}` is no component"))?;
        let port = if self.admin {
            component.admin.as_ref()
        } else {
            component.port.as_ref()
        };
        let port = port
            .ok_or_else(|| format!("`{callee}` has no such listener"))?
            .value;
        let (method, path) = match &self.ask {
            None => (None, None),
            Some(ask) => {
                let (method, path) = ask
                    .split_once(' ')
                    .filter(|(_, path)| path.starts_with('/'))
                    .ok_or_else(|| format!("`{ask}` is no `METHOD /path`"))?;
                (Some(method.to_owned()), Some(path.to_owned()))
            }
        };
        let from = &self.from.value;
        let what = self.ask.as_deref().unwrap_or("connect");
        let user = self
            .user
            .as_ref()
            .map_or(String::new(), |user| format!(" for {}", user.sub));
        Ok(Example {
            name: format!("{from} → {callee}:{port} {what}{user}"),
            caller: from.clone(),
            callee: callee.to_owned(),
            port,
            method,
            path,
            headers: self.headers.clone(),
            user: self.user.clone(),
            expect: self.expect,
        })
    }
}
