//! Answers of the policy API as text for people.
//!
//! Owns: the words. Must not: let anything through to a terminal that it could take for a command ([`clean`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ringwall_policy::mesh::administration::{
    Answer, Applied, CheckReport, Proxy, Spread, Unused, Version, VersionWithBundle,
};
use ringwall_policy::mesh::{
    BundleDiff, Considered, Edge, Effect, Example, Explanation, MeshOutcome, Verdict,
};
use serde::Serialize;
use serde_saphyr::LitStr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::CliError;
use crate::output::table;
use crate::policy_file::Places;

/// Without control characters but line ends.
pub(super) fn clean(text: &str) -> String {
    let kept = |c: &char| !c.is_control() || *c == '\n' || *c == '\t';
    text.chars().filter(kept).collect()
}

/// The whole form of a policy file.
#[derive(Serialize)]
struct File<'a> {
    version: u64,
    edges: &'a [Edge],
    policies: BTreeMap<&'a str, LitStr<'a>>,
    dry_run: &'a [String],
    examples: Vec<Case<'a>>,
}

/// An example without what it does not say.
#[derive(Serialize)]
struct Case<'a> {
    name: &'a str,
    caller: &'a str,
    callee: &'a str,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a ringwall_policy::mesh::UserFacts>,
    expect: ringwall_policy::mesh::Expect,
}

/// A version as a file that can be applied.
pub(super) fn yaml(found: &VersionWithBundle) -> Result<String, CliError> {
    let bundle = &found.bundle;
    let examples = bundle.examples.iter().map(|example| Case {
        name: &example.name,
        caller: &example.caller,
        callee: &example.callee,
        port: example.port,
        method: example.method.as_deref(),
        path: example.path.as_deref(),
        headers: &example.headers,
        user: example.user.as_ref(),
        expect: example.expect,
    });
    let policies = bundle.policies.iter();
    let file = File {
        version: found.version.version,
        edges: &bundle.edges,
        policies: policies
            .map(|(name, text)| (name.as_str(), LitStr(text)))
            .collect(),
        dry_run: &bundle.dry_run,
        examples: examples.collect(),
    };
    let text = serde_saphyr::to_string(&file);
    let text = text.map_err(|error| CliError::internal("writing YAML", error))?;
    let version = &found.version;
    let note = match version.note.as_str() {
        "" => String::new(),
        note => format!(": {note}"),
    };
    let (by, at) = (by(version), time_text(version.at));
    Ok(format!("# {by}, {at}{note}\n{text}"))
}

fn by(version: &Version) -> String {
    if version.author == version.identity {
        version.author.clone()
    } else {
        format!("{} (as {})", version.author, version.identity)
    }
}

fn time_text(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

pub(super) fn history(versions: &[Version]) -> String {
    let rows: Vec<[String; 4]> = versions
        .iter()
        .map(|version| {
            let what = match version.rollback_of {
                Some(of) if version.note.is_empty() => format!("version {of} again"),
                Some(of) => format!("version {of} again: {}", version.note),
                None => version.note.clone(),
            };
            [
                version.version.to_string(),
                time_text(version.at),
                by(version),
                what,
            ]
        })
        .collect();
    table(["version", "since", "author", "why"], &rows)
}

pub(super) fn report(report: &CheckReport, places: &Places) -> String {
    let mut lines = places.lines(&report.faults, &report.failed_examples);
    let warnings = report.warnings.iter();
    lines.extend(warnings.map(|warning| format!("warning: {}", places.fault(warning))));
    if report.is_good() {
        lines.push("good: every case holds".to_owned());
    }
    if let Some(difference) = &report.diff {
        lines.push(format!("against version {}:", report.against));
        lines.push(diff(difference));
    }
    lines.join("\n")
}

pub(super) fn diff(diff: &BundleDiff) -> String {
    let mut lines = Vec::new();
    let mut all = |sign: char, what: &str, names: &[String]| {
        lines.extend(names.iter().map(|name| format!("{sign} {what} {name}")));
    };
    let edges = |edges: &[Edge]| -> Vec<String> { edges.iter().map(edge).collect() };
    all('-', "edge", &edges(&diff.edges_removed));
    all('+', "edge", &edges(&diff.edges_added));
    all('-', "policy", &diff.policies_removed);
    all('+', "policy", &diff.policies_added);
    all('~', "policy", &diff.policies_changed);
    all('~', "only logged from now on:", &diff.now_dry_run);
    all('~', "enforced from now on:", &diff.now_enforced);
    all('-', "service", &diff.services_removed);
    all('+', "service", &diff.services_added);
    all('~', "service", &diff.services_changed);
    all('-', "case", &diff.examples_removed);
    all('+', "case", &diff.examples_added);
    for verdict in &diff.verdicts {
        let (from, to) = (verdict.from.as_str(), verdict.to.as_str());
        lines.push(format!(
            "! {}: {from} → {to} ({})",
            verdict.example, verdict.reason
        ));
    }
    if lines.is_empty() {
        return "nothing differs".to_owned();
    }
    lines.join("\n")
}

fn edge(edge: &Edge) -> String {
    let ports: Vec<String> = edge.ports.iter().map(ToString::to_string).collect();
    let ports = match ports.as_slice() {
        [] => "every port".to_owned(),
        ports => ports.join(", "),
    };
    format!("{} → {}: {ports}", edge.caller, edge.callee)
}

pub(super) fn applied(applied: &Applied) -> String {
    let version = applied.version.version;
    let mut text = match (applied.changed, applied.version.rollback_of) {
        (false, _) => format!("version {version} has this content already"),
        (true, None) => format!("version {version} is active"),
        (true, Some(of)) => {
            format!("version {version} is active, with the content of version {of}")
        }
    };
    if applied.changed {
        let _ = write!(text, "\n{}", diff(&applied.diff));
    }
    let _ = write!(text, "\n{}", spread(&applied.proxies));
    text
}

fn spread(spread: &Spread) -> String {
    let all = spread.applied + spread.pending.len() + spread.refused.len();
    let mut lines = vec![format!(
        "{} of {all} connected proxies apply it",
        spread.applied
    )];
    let pending = spread.pending.iter();
    lines.extend(pending.map(|proxy| format!("  {} has not answered", named(proxy))));
    lines.extend(spread.refused.iter().map(|proxy| {
        let reason = proxy.refused.as_ref().map_or("", |refused| &refused.reason);
        let (proxy, serves) = (named(proxy), proxy.version);
        format!("  {proxy} refuses it and stays with version {serves}: {reason}")
    }));
    lines.join("\n")
}

fn named(proxy: &Proxy) -> String {
    format!("{} at {}", proxy.workload, proxy.node)
}

pub(super) fn proxies(proxies: &[Proxy]) -> String {
    let rows: Vec<[String; 5]> = proxies
        .iter()
        .map(|proxy| {
            let refused = proxy.refused.as_ref().map(|refused| {
                let what = refused.resources.join(", ");
                format!("{what}: {}", refused.reason)
            });
            [
                proxy.workload.clone(),
                proxy.node.clone(),
                proxy.instance.clone(),
                proxy.version.to_string(),
                refused.unwrap_or_default(),
            ]
        })
        .collect();
    table(
        ["workload", "node", "instance", "version", "refuses"],
        &rows,
    )
}

pub(super) fn unused(unused: &Unused) -> String {
    let since = unused.since.map_or_else(|| "never".to_owned(), time_text);
    let mut lines = vec![format!(
        "version {}, uses counted since {since}",
        unused.version
    )];
    if !unused.edges_counted {
        lines.push("no proxy has counted a connection: nothing is said of edges".to_owned());
    }
    let edges = unused.grants.edges.iter();
    lines.extend(edges.map(|unused| format!("edge {}", edge(unused))));
    lines.extend(unused.grants.policies.iter().map(|unused| {
        let dry = if unused.dry_run { " (only logged)" } else { "" };
        format!(
            "policy {} ({}:{}){dry}",
            unused.policy, unused.file, unused.line
        )
    }));
    let none = unused.grants.edges.is_empty() && unused.grants.policies.is_empty();
    if none {
        lines.push("everything is used".to_owned());
    }
    lines.join("\n")
}

pub(super) fn answer(asked: &Example, answer: &Answer) -> String {
    let Explanation {
        decision,
        edge: declared,
        considered,
    } = &answer.explanation;
    let verdict = if decision.allowed {
        "allowed"
    } else {
        "denied"
    };
    let what = match (&asked.method, &asked.path) {
        (Some(method), Some(path)) => format!("{method} {path}"),
        _ => "connection".to_owned(),
    };
    let (from, to, port) = (&asked.caller, &asked.callee, asked.port);
    let mut lines = vec![format!(
        "{verdict} by version {}: {from} → {to}:{port} {what}",
        answer.version
    )];
    lines.push(match declared {
        Some(declared) => format!("  edge {}", edge(declared)),
        None => format!("  no edge lets {from} connect to {to} at port {port}"),
    });
    lines.extend(
        decision
            .errors
            .iter()
            .map(|error| format!("  error: {error}")),
    );
    if decision.outcome == MeshOutcome::NoPermit {
        lines.push("  no policy permits it".to_owned());
    }
    if let Some(would) = decision.dry_run {
        let would = if would { "allow" } else { "deny" };
        let by = decision.dry_run_reasons.join(", ");
        lines.push(format!(
            "  if all policies were enforced, it would {would} ({by})"
        ));
    }
    // Those of another scope say nothing; they are in the JSON form.
    let near = considered
        .iter()
        .filter(|seen| seen.verdict != Verdict::OtherScope);
    lines.extend(near.map(policy));
    lines.join("\n")
}

fn policy(seen: &Considered) -> String {
    let Considered {
        policy,
        file,
        line,
        effect,
        dry_run,
        verdict,
    } = seen;
    let effect = match effect {
        Effect::Permit => "permits",
        Effect::Forbid => "forbids",
    };
    let dry = if *dry_run { ", only logged" } else { "" };
    let verdict = match verdict {
        Verdict::Applies => effect.to_owned(),
        Verdict::ConditionFalse => "its condition does not hold".to_owned(),
        Verdict::OtherScope => "is about something else".to_owned(),
        Verdict::Failed(error) => format!("failed: {error}"),
    };
    format!("  {policy} ({file}:{line}{dry}): {verdict}")
}

#[cfg(test)]
mod tests;
