//! Changes of a JSON body, one after the other, each at its place: the rest stays byte by byte.

use ringwall_guest::json::{self, Kind, Node};
use serde::Deserialize;
use serde_json::Value;

/// A change. Places are JSON pointers (RFC 6901) to members of objects.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Change {
    Set(Set),
    Remove(Remove),
    Rename(Rename),
}

/// Sets a member, which is added where its object is there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    at: String,
    value: Value,
    /// Leaves a member that is there.
    #[serde(default)]
    if_absent: bool,
}

/// Removes a member, if it is there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    at: String,
}

/// Gives a member another name, if it is there and the name is free.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    at: String,
    to: String,
}

impl Change {
    /// # Errors
    /// Names the pointer that is none.
    pub fn check(&self) -> Result<(), String> {
        let at = match self {
            Self::Set(change) => &change.at,
            Self::Remove(change) => &change.at,
            Self::Rename(change) => &change.at,
        };
        if pointer(at).is_none() {
            return Err(format!("at {at:?} is no pointer to a member"));
        }
        Ok(())
    }

    /// The text after the change; none where there is nothing to change.
    ///
    /// # Errors
    /// Where the text is no JSON.
    pub fn apply(&self, text: &[u8]) -> Result<Option<Vec<u8>>, json::Malformed> {
        let root = json::parse(text)?;
        let changed = match self {
            Self::Set(change) => change.apply(text, &root),
            Self::Remove(change) => change.apply(text, &root),
            Self::Rename(change) => change.apply(text, &root),
        };
        Ok(changed)
    }
}

/// The names of a pointer: those of the objects, then that of the member.
fn pointer(at: &str) -> Option<(Vec<String>, String)> {
    let names = at.strip_prefix('/')?.split('/');
    let mut names: Vec<String> = names
        .map(|name| name.replace("~1", "/").replace("~0", "~"))
        .collect();
    let last = names.pop()?;
    Some((names, last))
}

fn object<'a>(root: &'a Node, names: &[String]) -> Option<&'a Node> {
    let mut node = root;
    for name in names {
        node = match &node.kind {
            Kind::Array(items) => items.get(name.parse::<usize>().ok()?)?,
            _ => &node.member(name)?.value,
        };
    }
    matches!(node.kind, Kind::Object(_)).then_some(node)
}

impl Set {
    fn apply(&self, text: &[u8], root: &Node) -> Option<Vec<u8>> {
        let (names, name) = pointer(&self.at)?;
        let object = object(root, &names)?;
        let value = self.value.to_string();
        if let Some(member) = object.member(&name) {
            let place = member.value.place.clone();
            return (!self.if_absent).then(|| json::replace(text, vec![(place, value)]));
        }
        let Kind::Object(members) = &object.kind else {
            return None;
        };
        let comma = if members.is_empty() { "" } else { "," };
        // Before the closing brace.
        let end = object.place.end.checked_sub(1)?;
        let added = format!("{comma}{}:{value}", json::quote(&name));
        Some(json::replace(text, vec![(end..end, added)]))
    }
}

impl Remove {
    fn apply(&self, text: &[u8], root: &Node) -> Option<Vec<u8>> {
        let (names, name) = pointer(&self.at)?;
        let object = object(root, &names)?;
        let Kind::Object(members) = &object.kind else {
            return None;
        };
        let index = members.iter().position(|member| member.name == name)?;
        let this = members.get(index)?;
        let before = index.checked_sub(1).and_then(|index| members.get(index));
        // With the comma behind it, or, of the last one, with that before it.
        let place = match (members.get(index + 1), before) {
            (Some(next), _) => this.name_place.start..next.name_place.start,
            (None, Some(before)) => before.value.place.end..this.value.place.end,
            (None, None) => this.name_place.start..this.value.place.end,
        };
        Some(json::replace(text, vec![(place, String::new())]))
    }
}

impl Rename {
    fn apply(&self, text: &[u8], root: &Node) -> Option<Vec<u8>> {
        let (names, name) = pointer(&self.at)?;
        let object = object(root, &names)?;
        let member = object.member(&name)?;
        if object.member(&self.to).is_some() {
            return None;
        }
        let place = member.name_place.clone();
        Some(json::replace(text, vec![(place, json::quote(&self.to))]))
    }
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn apply(change: &str, text: &str) -> Option<String> {
        let change: Change = parse(change.as_bytes()).unwrap();
        change.check().unwrap();
        let changed = change.apply(text.as_bytes()).unwrap();
        changed.map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn members_are_set_removed_and_renamed_in_place() {
        let text = r#"{ "a": 1.10, "b": {"c": [ {"d": 1} ]} }"#;
        for (change, changed) in [
            (
                r#"{"op":"set","at":"/a","value":"x"}"#,
                r#"{ "a": "x", "b": {"c": [ {"d": 1} ]} }"#,
            ),
            (
                r#"{"op":"set","at":"/b/e","value":null}"#,
                r#"{ "a": 1.10, "b": {"c": [ {"d": 1} ],"e":null} }"#,
            ),
            (
                r#"{"op":"set","at":"/b/c/0/d","value":{"x":1}}"#,
                r#"{ "a": 1.10, "b": {"c": [ {"d": {"x":1}} ]} }"#,
            ),
            (
                r#"{"op":"remove","at":"/a"}"#,
                r#"{ "b": {"c": [ {"d": 1} ]} }"#,
            ),
            (r#"{"op":"remove","at":"/b"}"#, r#"{ "a": 1.10 }"#),
            (
                r#"{"op":"remove","at":"/b/c/0/d"}"#,
                r#"{ "a": 1.10, "b": {"c": [ {} ]} }"#,
            ),
            (
                r#"{"op":"rename","at":"/a","to":"z/\""}"#,
                r#"{ "z/\"": 1.10, "b": {"c": [ {"d": 1} ]} }"#,
            ),
        ] {
            assert_eq!(apply(change, text).as_deref(), Some(changed), "{change}");
        }
    }

    #[test]
    fn what_is_not_there_is_left() {
        let text = r#"{"a":1,"b":2}"#;
        for change in [
            r#"{"op":"remove","at":"/x"}"#,
            r#"{"op":"rename","at":"/x","to":"y"}"#,
            r#"{"op":"rename","at":"/a","to":"b"}"#,
            r#"{"op":"set","at":"/a/b","value":1}"#,
            r#"{"op":"set","at":"/a","value":3,"if_absent":true}"#,
        ] {
            assert_eq!(apply(change, text), None, "{change}");
        }
        assert_eq!(
            apply(r#"{"op":"set","at":"/a","value":1}"#, "{}").as_deref(),
            Some(r#"{"a":1}"#)
        );
        assert_eq!(
            apply(r#"{"op":"set","at":"/a~1b","value":1}"#, "{}").as_deref(),
            Some(r#"{"a/b":1}"#)
        );
    }
}
