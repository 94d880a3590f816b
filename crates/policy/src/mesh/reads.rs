//! What a policy looks at, read from its syntax tree.
//!
//! Owns: the analysis that lets a decision be built, and cached, from what policies read alone.
//! Must not: guess. Attribute names of a record are literals in Cedar, so the tree names all of them; where a policy uses
//! `context` as a whole, everything counts as read.

use std::collections::BTreeSet;

use serde_json::Value;

/// Parts of a request that decide, beside caller, callee and action.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    pub method: bool,
    pub path: bool,
    pub port: bool,
    pub user: bool,
    /// Header fields, lower case, sorted.
    pub headers: Vec<String>,
}

impl Reads {
    /// What either reads.
    pub(super) fn union(&self, other: &Self) -> Self {
        let headers: BTreeSet<String> =
            self.headers.iter().chain(&other.headers).cloned().collect();
        Self {
            method: self.method || other.method,
            path: self.path || other.path,
            port: self.port || other.port,
            user: self.user || other.user,
            headers: headers.into_iter().collect(),
        }
    }

    fn mark(&mut self, attribute: &str) {
        match attribute {
            "method" => self.method = true,
            "path" => self.path = true,
            "port" => self.port = true,
            "user" => self.user = true,
            // `headers` by its fields; anything else is not in the schema.
            _ => {}
        }
    }

    fn mark_all(&mut self) {
        for attribute in ["method", "path", "port", "user"] {
            self.mark(attribute);
        }
    }
}

/// What stands in one policy.
#[derive(Debug, Default)]
pub(super) struct Mentions {
    pub(super) reads: Reads,
    /// Type and id of every entity that is named.
    pub(super) entities: Vec<(String, String)>,
}

impl Mentions {
    /// Reads the JSON form of a policy.
    pub(super) fn of(policy: &Value) -> Self {
        let mut found = Self::default();
        found.visit(policy);
        found.reads.headers.sort();
        found.reads.headers.dedup();
        found
    }

    fn visit(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Object(map) => {
                if let Some(path) = access(value) {
                    self.context(&path);
                    return;
                }
                if map.get("Var").and_then(Value::as_str) == Some("context") {
                    self.reads.mark_all();
                }
                if let (2, Some(Value::String(kind)), Some(Value::String(id))) =
                    (map.len(), map.get("type"), map.get("id"))
                {
                    self.entities.push((kind.clone(), id.clone()));
                }
                map.values().for_each(|inner| self.visit(inner));
            }
            _ => {}
        }
    }

    fn context(&mut self, path: &[&str]) {
        match path {
            [] => self.reads.mark_all(),
            ["headers", name, ..] => self.reads.headers.push((*name).to_owned()),
            [attribute, ..] => self.reads.mark(attribute),
        }
    }
}

/// The attributes of `context.a.b` or `context.a has b` (which may name several); `None` for any other expression.
fn access(value: &Value) -> Option<Vec<&str>> {
    let (operation, operands) = value.as_object()?.iter().next()?;
    if !matches!(operation.as_str(), "." | "has") || value.as_object()?.len() != 1 {
        return None;
    }
    let left = operands.get("left")?;
    let is_context = left.get("Var").and_then(Value::as_str) == Some("context");
    let mut path = if is_context {
        Vec::new()
    } else {
        access(left)?
    };
    match operands.get("attr")? {
        Value::String(attribute) => path.push(attribute),
        Value::Array(attributes) => path.extend(attributes.iter().filter_map(Value::as_str)),
        _ => return None,
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use cedar_policy::Policy;

    use super::*;

    fn mentions(condition: &str) -> Mentions {
        let text = format!(
            r#"permit (principal == Workload::"a", action in Action::"read", resource) when {{ {condition} }};"#
        );
        Mentions::of(&Policy::from_str(&text).unwrap().to_json().unwrap())
    }

    #[test]
    fn every_way_to_name_a_header_is_found() {
        let found = mentions(
            r#"context.headers has "x-a" && context.headers["x-b"] == "1" && context["headers"].c == "2"
               && context has headers.d && (if context.headers has e then true else [context.headers.f].contains("x"))"#,
        );
        assert_eq!(found.reads.headers, ["c", "d", "e", "f", "x-a", "x-b"]);
        let reads = found.reads;
        assert!(!reads.path && !reads.user && !reads.method && !reads.port);
    }

    #[test]
    fn attributes_count_one_by_one_and_the_whole_context_as_all() {
        let one = mentions(r#"context.path like "/v1/*" && context has user"#).reads;
        assert!(one.path && one.user && !one.method && !one.port);
        let all = mentions("[context].contains(context)").reads;
        assert!(all.path && all.user && all.method && all.port);
    }

    #[test]
    fn entities_are_found_in_scope_and_conditions() {
        let mut found =
            mentions(r#"resource == Service::"b" || principal in [Workload::"c"]"#).entities;
        found.sort();
        let names: Vec<_> = found
            .iter()
            .map(|(kind, id)| format!("{kind} {id}"))
            .collect();
        assert_eq!(
            names,
            ["Action read", "Service b", "Workload a", "Workload c"]
        );
    }
}
