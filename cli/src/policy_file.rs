//! A file with a policy, as `ringwall.yaml` names one and as `ringwall policy` takes one.
//!
//! Owns: its two forms, and the places (line and column) in it at which something is wrong. Must not: decide;
//! `ringwall-policy` does.
//!
//! The short form is `deploy/mesh/policy.yaml`: policies, and cases by the service that is asked; connections and ports
//! come from elsewhere (the composition, or the running platform). The whole form is what `ringwall policy get` prints: it
//! has the connections as well, and the version that it was made from.

mod places;

use std::collections::BTreeMap;

use ringwall_policy::mesh::{Bundle, Edge, Example, Expect, ServiceFacts, UserFacts};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Location, Spanned};

use crate::config::Source;
use crate::error::CliError;
pub(crate) use places::{Place, Places};

const HELP: &str = "the keys are explained at the top of deploy/mesh/policy.yaml";

/// What the short form does not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) edges: Vec<Edge>,
    /// Ports in this order: where other services call, then the admin listener.
    pub(crate) services: BTreeMap<String, ServiceFacts>,
}

/// What stands in a file.
#[derive(Clone, Debug)]
pub(crate) struct PolicyFile {
    pub(crate) bundle: Bundle,
    pub(crate) places: Places,
    /// The version that it was made from, if it says so.
    pub(crate) version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Short {
    /// Cedar texts by name.
    policies: BTreeMap<String, Spanned<String>>,
    /// `@id`s of policies whose verdict is only logged.
    #[serde(default)]
    dry_run: Vec<Spanned<String>>,
    /// Cases by the service that is asked.
    cases: BTreeMap<String, Vec<Case>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    #[serde(default)]
    version: Option<u64>,
    edges: Vec<Spanned<Edge>>,
    policies: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    dry_run: Vec<Spanned<String>>,
    #[serde(default)]
    examples: Vec<Spanned<Example>>,
}

impl PolicyFile {
    /// Reads the short form.
    pub(crate) fn short(source: &Source, around: Surroundings) -> Result<Self, CliError> {
        let short: Short = parse(source)?;
        let mut places = Places::new(source, &short.policies, &short.dry_run);
        let mut examples = Vec::new();
        for (callee, cases) in short.cases {
            for case in cases {
                let at = case.from.referenced;
                let example = case.example(&around.services, &callee);
                let help = "name a component with such a listener, and `METHOD /path`";
                examples.push(example.map_err(|what| refused(source, Some(at), what, help))?);
                places.examples.push(at.into());
            }
        }
        Ok(Self {
            bundle: Bundle {
                edges: around.edges,
                policies: values(short.policies),
                dry_run: short.dry_run.into_iter().map(|id| id.value).collect(),
                examples,
                services: around.services,
            },
            places,
            version: None,
        })
    }

    /// Reads either form.
    pub(crate) fn any(source: &Source, around: Surroundings) -> Result<Self, CliError> {
        let keys: BTreeMap<String, IgnoredAny> = parse(source)?;
        if keys.contains_key("cases") || !keys.contains_key("edges") {
            return Self::short(source, around);
        }
        let whole: Whole = parse(source)?;
        let mut places = Places::new(source, &whole.policies, &whole.dry_run);
        places.edges = whole
            .edges
            .iter()
            .map(|edge| edge.referenced.into())
            .collect();
        let examples = whole.examples.iter();
        places.examples = examples.map(|example| example.referenced.into()).collect();
        Ok(Self {
            bundle: Bundle {
                edges: whole.edges.into_iter().map(|edge| edge.value).collect(),
                policies: values(whole.policies),
                dry_run: whole.dry_run.into_iter().map(|id| id.value).collect(),
                examples: whole
                    .examples
                    .into_iter()
                    .map(|example| example.value)
                    .collect(),
                services: around.services,
            },
            places,
            version: whole.version,
        })
    }
}

fn values(texts: BTreeMap<String, Spanned<String>>) -> BTreeMap<String, String> {
    let texts = texts.into_iter();
    texts.map(|(name, text)| (name, text.value)).collect()
}

fn parse<T: for<'a> Deserialize<'a>>(source: &Source) -> Result<T, CliError> {
    serde_saphyr::from_str(&source.text).map_err(|error| {
        let what = error.without_snippet().to_string();
        refused(source, error.location(), what, HELP)
    })
}

fn refused(source: &Source, at: Option<Location>, what: String, fix: &str) -> CliError {
    CliError::Composition {
        place: at.map_or_else(
            || source.name.clone(),
            |at| Place::from(at).shown(&source.name),
        ),
        what,
        fix: fix.to_owned(),
    }
}

/// The port of a service at which others call, or that of its admin listener.
pub(crate) fn port(
    services: &BTreeMap<String, ServiceFacts>,
    service: &str,
    admin: bool,
) -> Result<u16, String> {
    let facts = services.get(service);
    let facts = facts.ok_or_else(|| format!("`{service}` is no component"))?;
    let port = facts.ports.get(usize::from(admin)).copied();
    port.ok_or_else(|| format!("`{service}` has no such listener"))
}

/// `METHOD /path`, parted.
pub(crate) fn ask(ask: &str) -> Result<(String, String), String> {
    let parted = ask
        .split_once(' ')
        .filter(|(_, path)| path.starts_with('/'));
    let (method, path) = parted.ok_or_else(|| format!("`{ask}` is no `METHOD /path`"))?;
    Ok((method.to_owned(), path.to_owned()))
}

impl Case {
    fn example(
        &self,
        services: &BTreeMap<String, ServiceFacts>,
        callee: &str,
    ) -> Result<Example, String> {
        let port = port(services, callee, self.admin)?;
        let (method, path) = self.ask.as_deref().map(ask).transpose()?.unzip();
        let from = &self.from.value;
        let what = self.ask.as_deref().unwrap_or("connect");
        let user = self.user.as_ref();
        let user = user.map_or(String::new(), |user| format!(" for {}", user.sub));
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

#[cfg(test)]
mod tests;
