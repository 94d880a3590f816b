//! The names that a bundle uses: well formed, known, used once.
//!
//! Owns: every fault that is not Cedar's own. Must not: stop at the first one.

use std::collections::{BTreeMap, HashSet};

use cedar_policy::{EntityUid, PolicyId, PrincipalConstraint, ResourceConstraint};
use ringwall_identity::{SpiffeId, TrustDomain};

use super::{EdgeTable, id_of, limits};
use crate::compile::{Named, PolicySource};
use crate::error::Fault;
use crate::mesh::check::Case;
use crate::mesh::reads::Mentions;
use crate::mesh::usage::EDGE_PREFIX;
use crate::mesh::{Bundle, Example};

/// Lists of a bundle, which faults name like files.
const LISTS: [&str; 4] = ["edges", "examples", "services", "dry_run"];

fn entry(list: &str, index: usize, message: impl Into<String>) -> Fault {
    Fault {
        file: list.to_owned(),
        line: index + 1,
        message: message.into(),
    }
}

/// What is too large to be looked at.
pub(super) fn sizes(bundle: &Bundle) -> Vec<Fault> {
    let lengths = [
        ("edges", bundle.edges.len(), limits::EDGES),
        ("services", bundle.services.len(), limits::SERVICES),
        ("examples", bundle.examples.len(), limits::EXAMPLES),
        ("dry_run", bundle.dry_run.len(), limits::POLICIES),
        ("policies", bundle.policies.len(), limits::TEXTS),
    ];
    let too_many = lengths
        .into_iter()
        .filter(|(_, length, limit)| length > limit)
        .map(|(list, length, limit)| {
            entry(
                list,
                limit,
                format!("{length} entries, of which at most {limit} are read"),
            )
        });
    let too_long = bundle
        .policies
        .iter()
        .filter(|(_, text)| text.len() > limits::TEXT_BYTES)
        .map(|(name, text)| {
            let limit = limits::TEXT_BYTES;
            entry(
                name,
                0,
                format!("{} bytes, of which at most {limit} are read", text.len()),
            )
        });
    too_many.chain(too_long).collect()
}

/// Services, edges, dry runs and examples by themselves.
pub(super) fn check(bundle: &Bundle) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, name) in bundle.services.keys().enumerate() {
        if let Err(rule) = workload_name(name) {
            faults.push(entry("services", index, format!("{name:?}: {rule}")));
        }
    }
    for name in bundle.policies.keys() {
        if name.is_empty() || name.len() > limits::NAME_BYTES || name.contains(char::is_control) {
            faults.push(entry(
                name,
                0,
                "the name of a policy text has 1 to 128 printable characters",
            ));
        }
        if LISTS.contains(&name.as_str()) {
            faults.push(entry(
                name,
                0,
                "a policy text may not have the name of a list; rename it",
            ));
        }
    }
    for (index, edge) in bundle.edges.iter().enumerate() {
        let shown = format!("{} -> {}", edge.caller, edge.callee);
        if let Err(rule) = workload_name(&edge.caller) {
            faults.push(entry(
                "edges",
                index,
                format!("{shown}: the caller's name: {rule}"),
            ));
        }
        let Some(callee) = bundle.services.get(&edge.callee) else {
            let known = unknown_service(bundle, &edge.callee);
            faults.push(entry("edges", index, format!("{shown}: {known}")));
            continue;
        };
        for port in edge
            .ports
            .iter()
            .filter(|port| !callee.ports.contains(port))
        {
            let message = format!(
                "{shown}: {} declares no port {port}, it has {:?}",
                edge.callee, callee.ports
            );
            faults.push(entry("edges", index, message));
        }
    }
    faults.extend(examples(bundle));
    faults
}

fn examples(bundle: &Bundle) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut names = HashSet::new();
    for (index, example) in bundle.examples.iter().enumerate() {
        let Example {
            name,
            callee,
            method,
            path,
            ..
        } = example;
        let mut refuse = |message: String| faults.push(entry("examples", index, message));
        if name.is_empty() || name.len() > limits::NAME_BYTES {
            refuse("a name of 1 to 128 bytes is missing".to_owned());
        }
        if !names.insert(name) {
            refuse(format!("{name:?} is the name of an earlier example"));
        }
        if !bundle.services.contains_key(callee) {
            refuse(format!("{name:?}: {}", unknown_service(bundle, callee)));
        }
        if let Err(error) = Case::of(example) {
            refuse(format!("{name:?}: {error}"));
        }
        if method.as_ref().is_some_and(|method| !is_token(method)) {
            refuse(format!("{name:?}: the method is no token (RFC 9110 §9.1)"));
        }
        if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            refuse(format!("{name:?}: the path must begin with /"));
        }
        if method.is_none()
            && (path.is_some() || example.user.is_some() || !example.headers.is_empty())
        {
            refuse(format!(
                "{name:?}: a request needs a method; without one only the edge is asked"
            ));
        }
    }
    faults
}

/// Names inside and around policies.
pub(super) fn policies(
    bundle: &Bundle,
    sources: &[PolicySource],
    named: &Named,
    mentions: &BTreeMap<String, Mentions>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let callers: HashSet<&str> = bundle
        .edges
        .iter()
        .map(|edge| edge.caller.as_str())
        .collect();
    if mentions.len() > limits::POLICIES {
        let message = format!("more than {} policies", limits::POLICIES);
        faults.push(entry("policies", limits::POLICIES, message));
    }
    let mut headers = HashSet::new();
    for policy in named.policies.policies() {
        let id = id_of(policy);
        let mut refuse = |message: String| faults.push(named.fault_of(sources, policy, message));
        if id.len() > limits::NAME_BYTES
            || id.contains(char::is_control)
            || id.starts_with(EDGE_PREFIX)
        {
            refuse(format!(
                "@id: use at most 128 printable characters, not beginning with {EDGE_PREFIX}"
            ));
        }
        let Some(found) = mentions.get(&id) else {
            continue;
        };
        for name in &found.reads.headers {
            headers.insert(name);
            if !is_field_name(name) {
                refuse(format!(
                    "header field {name:?}: write 1 to 64 of a-z, 0-9 and '-' or '_'"
                ));
            }
        }
        for (kind, name) in &found.entities {
            let known = bundle.services.contains_key(name);
            match kind.as_str() {
                "Service" if !known => refuse(unknown_service(bundle, name)),
                "Workload" if !known && !callers.contains(name.as_str()) => {
                    refuse(format!(
                        "{}, and no edge has a caller {name}",
                        unknown_service(bundle, name)
                    ));
                }
                _ => {}
            }
        }
    }
    if headers.len() > limits::HEADERS {
        let message = format!(
            "policies read {} header fields, at most {} may be",
            headers.len(),
            limits::HEADERS
        );
        faults.push(entry("policies", 0, message));
    }
    faults.extend(dry_run(bundle, named));
    faults
}

fn dry_run(bundle: &Bundle, named: &Named) -> Vec<Fault> {
    let mut seen = HashSet::new();
    let entries = bundle.dry_run.iter().enumerate();
    let faults = entries.filter_map(|(index, id)| {
        if named.policies.policy(&PolicyId::new(id)).is_none() {
            return Some(entry(
                "dry_run",
                index,
                format!("no policy has the @id {id:?}"),
            ));
        }
        let again = !seen.insert(id);
        again.then(|| entry("dry_run", index, format!("{id:?} stands here already")))
    });
    faults.collect()
}

/// What is allowed and yet looks like a mistake.
pub(super) fn warnings(
    bundle: &Bundle,
    sources: &[PolicySource],
    named: &Named,
    edges: &EdgeTable,
) -> Vec<Fault> {
    let name = |uid: &EntityUid| uid.id().unescaped().to_owned();
    let mut warnings = Vec::new();
    for policy in named.policies.policies() {
        let (PrincipalConstraint::Eq(caller), ResourceConstraint::Eq(callee)) =
            (policy.principal_constraint(), policy.resource_constraint())
        else {
            continue;
        };
        let (caller, callee) = (name(&caller), name(&callee));
        if !edges.connects(&caller, &callee) {
            let message = format!("it never applies: no edge lets {caller} connect to {callee}");
            warnings.push(named.fault_of(sources, policy, message));
        }
    }
    for (index, edge) in bundle.edges.iter().enumerate() {
        let callee = bundle.services.get(&edge.callee);
        if edge.ports.is_empty() && callee.is_some_and(|facts| facts.ports.is_empty()) {
            let message = format!("it lets nobody connect: {} declares no port", edge.callee);
            warnings.push(entry("edges", index, message));
        }
    }
    warnings
}

fn workload_name(name: &str) -> Result<(), String> {
    if name.len() > limits::NAME_BYTES {
        return Err("longer than 128 bytes".to_owned());
    }
    let domain = TrustDomain::parse("example").map_err(|error| error.to_string())?;
    let id = SpiffeId::workload(&domain, name);
    id.map(|_| ()).map_err(|error| error.to_string())
}

fn unknown_service(bundle: &Bundle, name: &str) -> String {
    let near = bundle
        .services
        .keys()
        .find(|known| distance(known, name) <= 2);
    let hint = near.map(|known| format!("; did you mean {known}?"));
    format!("no service is called {name:?}{}", hint.unwrap_or_default())
}

/// Insertions, deletions and replacements between two short names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (line, x) in a.chars().enumerate() {
        let mut before = line;
        let mut left = line + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            let best = (before + usize::from(x != y)).min(left + 1).min(above + 1);
            (before, left, *cell) = (above, best, best);
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.len() <= 32 && text.bytes().all(allowed)
}

/// Goes into the schema's text, so that its alphabet must not be able to leave a string.
fn is_field_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("orders", "orders", 0),
            ("orders", "ordres", 2),
            ("inventory", "inventroy", 2),
            ("a", "", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
