//! Reading a YAML file into a type, with errors that name file, line and column.

use std::{fs, path::Path};

use serde::de::DeserializeOwned;
use serde_saphyr::Error as YamlError;

use super::error::{ConfigError, Wrong};

/// Largest configuration file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads and parses `path`. [`ConfigError::invalid`] of later checks gets its line by [`locate`].
pub fn load_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse_yaml(&read(path)?, path)
}

/// Parses `text`, which came from `path`.
pub fn parse_yaml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map(|at| (at.line(), at.column()));
        let (seen, expected, fix) = explain(error.without_snippet());
        let file = Some(path.to_owned());
        ConfigError::Wrong(Box::new(Wrong {
            file,
            line,
            key: None,
            seen,
            expected,
            fix,
        }))
    })
}

/// The text of a configuration file of at most 1 MiB.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        return Err(failed(std::io::Error::other(format!(
            "larger than {MAX_BYTES} bytes"
        ))));
    }
    fs::read_to_string(path).map_err(failed)
}

/// Adds file and line to an error of a later check.
pub fn place(error: ConfigError, path: &Path, text: &str) -> ConfigError {
    match error {
        ConfigError::Wrong(mut wrong) => {
            if wrong.file.is_none() {
                wrong.file = Some(path.to_owned());
                wrong.line = wrong.key.as_deref().and_then(|key| locate(text, key));
            }
            ConfigError::Wrong(wrong)
        }
        other => other,
    }
}

/// Line and column of the deepest part of a dotted key that block style spells out. A part may name a
/// member of a list: `hosts[api.localhost]` is the item of `hosts` whose first value is `api.localhost`,
/// `listeners[0]` the first item.
fn locate(text: &str, key: &str) -> Option<(u64, u64)> {
    let mut found = None;
    let mut lines = text.lines().enumerate().peekable();
    let mut inside: Option<usize> = None;
    for part in parts(key) {
        let mut hit = None;
        let mut items = 0;
        while let Some((number, line)) = lines.peek().copied() {
            let body = line.trim_start();
            let indent = line.len() - body.len();
            let blank = body.is_empty() || body.starts_with('#');
            // A list may stand at its key's own indent.
            let ends = |outer| {
                indent < outer || (indent == outer && !(part.is_item() && body.starts_with('-')))
            };
            if !blank && inside.is_some_and(ends) {
                break;
            }
            lines.next();
            if !blank && part.is_in(body, &mut items) {
                hit = Some((number, indent));
                break;
            }
        }
        let Some((number, indent)) = hit else { break };
        found = Some((number as u64 + 1, indent as u64 + 1));
        inside = Some(indent);
    }
    found
}

/// One step into a document.
#[derive(Clone, Copy)]
enum Part<'key> {
    Key(&'key str),
    Item(&'key str),
}

impl Part<'_> {
    fn is_item(self) -> bool {
        matches!(self, Self::Item(_))
    }

    /// Whether this is the part's line; `items` counts the list items seen so far.
    fn is_in(self, body: &str, items: &mut usize) -> bool {
        match self {
            Self::Key(name) => body
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(':')),
            Self::Item(name) => {
                let Some(item) = body.strip_prefix("- ") else {
                    return false;
                };
                *items += 1;
                let value = item.split_once(": ").map_or("", |(_, value)| value);
                let value = value.split([',', '}', '#']).next().unwrap_or_default();
                value.trim().trim_matches(['"', '\'']) == name
                    || name.parse() == Ok(items.saturating_sub(1))
            }
        }
    }
}

/// Splits `hosts[api.localhost].routes[x].policy` at the dots and brackets that structure it.
fn parts(key: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = key;
    while !rest.is_empty() {
        let (part, next) = match rest.strip_prefix('[').and_then(|open| open.split_once(']')) {
            Some((name, next)) => (Part::Item(name), next),
            None => {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (name, next) = rest.split_at(end);
                (Part::Key(name), next)
            }
        };
        parts.push(part);
        rest = next.strip_prefix('.').unwrap_or(next);
    }
    parts
}

/// What was seen, what was expected, and the fix.
fn explain(error: &YamlError) -> (String, String, String) {
    let texts = |seen: String, expected: String, fix: &str| (seen, expected, fix.to_owned());
    match error {
        YamlError::SerdeUnknownField {
            field, expected, ..
        } => {
            let fix = nearest(field, expected).map_or_else(
                || format!("remove `{field}`"),
                |near| format!("write `{near}`, or remove `{field}`"),
            );
            (format!("the unknown key `{field}`"), one_of(expected), fix)
        }
        YamlError::SerdeMissingField { field, .. } => (
            "a section that ends without it".to_owned(),
            format!("the key `{field}`"),
            format!("add `{field}: …`"),
        ),
        YamlError::SerdeUnknownVariant {
            variant, expected, ..
        } => {
            let fix = nearest(variant, expected)
                .or_else(|| expected.first().copied())
                .map_or_else(
                    || "use an expected value".to_owned(),
                    |near| format!("write `{near}`"),
                );
            (format!("`{variant}`"), one_of(expected), fix)
        }
        YamlError::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | YamlError::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => texts(
            unexpected.clone(),
            expected.clone(),
            "write a value of the expected kind",
        ),
        YamlError::InvalidScalar { ty, .. } => texts(
            "a value that does not read as one".to_owned(),
            (*ty).to_owned(),
            "write a value of the expected kind",
        ),
        YamlError::DuplicateMappingKey { key, .. } => texts(
            format!("the key `{}` a second time", key.as_deref().unwrap_or("?")),
            "each key once".to_owned(),
            "remove one of the two",
        ),
        YamlError::Eof { .. } => texts(
            "an empty file".to_owned(),
            "a mapping with the key `service`".to_owned(),
            "start from the example that `--schema` describes",
        ),
        YamlError::Message { msg, .. } => texts(
            msg.clone(),
            "a value that the schema allows".to_owned(),
            "compare with the output of `--schema`",
        ),
        other => texts(
            strip_location(&other.to_string()),
            "valid YAML of the documented shape".to_owned(),
            "check indentation and quoting on this line",
        ),
    }
}

fn strip_location(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let end = first.find(" at line ").unwrap_or(first.len());
    first.get(..end).unwrap_or(first).to_owned()
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "no key here".to_owned(),
        [one] => format!("`{one}`"),
        many => format!("one of `{}`", many.join("`, `")),
    }
}

/// The expected name that differs least, when it is close enough to be meant.
fn nearest<'a>(seen: &str, expected: &[&'a str]) -> Option<&'a str> {
    expected
        .iter()
        .map(|name| (distance(seen, name), *name))
        .min()
        .filter(|(edits, name)| *edits <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let cost = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = cost.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("listn", "listen", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn keys_are_located_in_block_style() {
        let text = "# top\nservice:\n  name: x\n  logs:\n    level: info\nother:\n  level: 1\n";
        assert_eq!(locate(text, "service.logs.level"), Some((5, 5)));
        assert_eq!(locate(text, "other.level"), Some((7, 3)));
        assert_eq!(locate(text, "service.missing"), Some((2, 1)));
        assert_eq!(locate(text, "absent"), None);
    }

    #[test]
    fn members_of_lists_are_located_by_name_and_by_number() {
        let text = "hosts:\n  - host: a.b\n    routes:\n      - id: x\n        auth: none\n      - { id: y, auth: none }\n  - host: c.d\n    routes:\n      - id: x\n        auth: none\nlist:\n- 1\n- n: 2\n";
        assert_eq!(locate(text, "hosts[a.b].routes[x].auth"), Some((5, 9)));
        assert_eq!(locate(text, "hosts[a.b].routes[y].auth"), Some((6, 7)));
        assert_eq!(locate(text, "hosts[c.d].routes[x].auth"), Some((10, 9)));
        assert_eq!(locate(text, "hosts[c.d].routes[y]"), Some((8, 5)));
        assert_eq!(locate(text, "list[1]"), Some((13, 1)));
    }
}
