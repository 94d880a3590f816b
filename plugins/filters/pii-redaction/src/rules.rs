//! Which bodies are looked into, and what takes the place of what is found.

use std::collections::BTreeSet;
use std::ops::Range;

use ringwall_guest::configuration::in_range;
use ringwall_guest::json::{self, Kind as Json, Node};
use ringwall_guest::media::Media;
use ringwall_guest::target;
use serde::Deserialize;

use crate::detect::{self, Kind};

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default = "default_kinds")]
    kinds: Vec<Kind>,
    /// Members of JSON objects and fields of forms whose whole value goes, at any depth.
    #[serde(default)]
    fields: BTreeSet<String>,
    #[serde(default)]
    pub request: bool,
    #[serde(default = "yes")]
    pub response: bool,
    #[serde(default = "default_body_bytes")]
    max_body_bytes: usize,
}

fn default_kinds() -> Vec<Kind> {
    Kind::ALL.to_vec()
}

const fn yes() -> bool {
    true
}

const fn default_body_bytes() -> usize {
    256 * 1024
}

/// Checked.
#[derive(Debug)]
pub struct Rules {
    pub config: Config,
}

/// What a field is replaced by.
const FIELD: &str = "[redacted]";

impl Rules {
    /// # Errors
    /// Names what is wrong.
    pub fn new(config: Config) -> Result<Self, String> {
        in_range("max_body_bytes", &config.max_body_bytes, &(1..=1_048_576))?;
        if config.kinds.is_empty() && config.fields.is_empty() {
            return Err("neither kinds nor fields: nothing would be redacted".to_owned());
        }
        if !config.request && !config.response {
            return Err("neither request nor response: nothing would be redacted".to_owned());
        }
        Ok(Self { config })
    }

    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.config.max_body_bytes
    }

    /// The body without personal data; none where there is none in it.
    ///
    /// # Errors
    /// Where the body is not what its type says, and so cannot be looked into.
    pub fn redact(&self, media: Media, body: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
        match media {
            Media::Json if body.trim_ascii().is_empty() => Ok(None),
            Media::Json => {
                let node = json::parse(body).map_err(|wrong| wrong.why)?;
                let mut changes = Vec::new();
                self.walk(&node, &mut changes);
                Ok((!changes.is_empty()).then(|| json::replace(body, changes)))
            }
            Media::Form => Ok(self.form(body)),
            Media::Text => {
                let text = std::str::from_utf8(body).map_err(|_| "not UTF-8")?;
                Ok(self.text(text).map(String::into_bytes))
            }
            Media::Other => Ok(None),
        }
    }

    fn text(&self, text: &str) -> Option<String> {
        let found = detect::find(text, &self.config.kinds);
        if found.is_empty() {
            return None;
        }
        let mut changed = String::with_capacity(text.len());
        let mut at = 0;
        for (place, kind) in found {
            changed.push_str(text.get(at..place.start).unwrap_or_default());
            changed.push_str("[redacted ");
            changed.push_str(kind.name());
            changed.push(']');
            at = place.end;
        }
        changed.push_str(text.get(at..).unwrap_or_default());
        Some(changed)
    }

    fn walk(&self, node: &Node, changes: &mut Vec<(Range<usize>, String)>) {
        match &node.kind {
            Json::Object(members) => {
                for member in members {
                    if let Some(name) = self.text(&member.name) {
                        changes.push((member.name_place.clone(), json::quote(&name)));
                    }
                    if self.config.fields.contains(&member.name) {
                        if member.value.kind != Json::Null {
                            changes.push((member.value.place.clone(), json::quote(FIELD)));
                        }
                    } else {
                        self.walk(&member.value, changes);
                    }
                }
            }
            Json::Array(items) => items.iter().for_each(|item| self.walk(item, changes)),
            // A number becomes a text: there is no number that says what it was.
            Json::Text(text) | Json::Number(text) => {
                if let Some(text) = self.text(text) {
                    changes.push((node.place.clone(), json::quote(&text)));
                }
            }
            Json::Bool(_) | Json::Null => {}
        }
    }

    fn form(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut changed = false;
        let pairs = body.split(|byte| *byte == b'&').map(|pair| {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let name = parts.next().unwrap_or_default();
            let Some(value) = parts.next() else {
                return pair.to_vec();
            };
            let decoded_name = target::decode_form(name);
            let is_field = std::str::from_utf8(&decoded_name)
                .is_ok_and(|name| self.config.fields.contains(name));
            let redacted = if is_field {
                Some(FIELD.to_owned())
            } else {
                self.text(&String::from_utf8_lossy(&target::decode_form(value)))
            };
            match redacted {
                None => pair.to_vec(),
                Some(text) => {
                    changed = true;
                    let mut pair = name.to_vec();
                    pair.push(b'=');
                    pair.extend(encode_form(text.as_bytes()));
                    pair
                }
            }
        });
        let body = pairs.collect::<Vec<_>>().join(&b'&');
        changed.then_some(body)
    }
}

fn encode_form(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b' ' => encoded.push(b'+'),
            plain if plain.is_ascii_alphanumeric() || b"-._*".contains(plain) => {
                encoded.push(*plain)
            }
            other => encoded.extend(format!("%{other:02X}").into_bytes()),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.as_bytes()).and_then(Rules::new)
    }

    fn redacted(media: Media, body: &str) -> String {
        let rules = rules(r#"{"fields":["password"]}"#).unwrap();
        let changed = rules.redact(media, body.as_bytes()).unwrap();
        changed.map_or_else(
            || "unchanged".to_owned(),
            |body| String::from_utf8(body).unwrap(),
        )
    }

    #[test]
    fn json_changes_only_where_something_was_found() {
        assert_eq!(
            redacted(
                Media::Json,
                r#"{ "mail":"a@b.de", "n": 1.10, "card": 4111111111111111, "list":["\u002b4917012345678"], "a@b.de": 1}"#
            ),
            r#"{ "mail":"[redacted email]", "n": 1.10, "card": "[redacted card]", "list":["[redacted phone]"], "[redacted email]": 1}"#
        );
        assert_eq!(redacted(Media::Json, r#"{"n": 1.10}"#), "unchanged");
        assert_eq!(
            redacted(
                Media::Json,
                r#"{"a":{"password":{"x":[1]}},"password":null}"#
            ),
            r#"{"a":{"password":"[redacted]"},"password":null}"#
        );
    }

    #[test]
    fn forms_are_decoded_first() {
        assert_eq!(
            redacted(Media::Form, "m=a%40b.de&x=1+2&password=s%26t&flag"),
            "m=%5Bredacted+email%5D&x=1+2&password=%5Bredacted%5D&flag"
        );
        assert_eq!(redacted(Media::Form, "x=1+2"), "unchanged");
    }

    #[test]
    fn what_cannot_be_looked_into_is_told() {
        let rules = rules("").unwrap();
        assert!(rules.redact(Media::Json, b"{").is_err());
        assert!(rules.redact(Media::Text, b"\xff").is_err());
        assert_eq!(rules.redact(Media::Json, b" "), Ok(None));
        assert_eq!(rules.redact(Media::Other, b"a@b.de"), Ok(None));
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            r#"{"kinds":[]}"#,
            r#"{"kinds":["passport"]}"#,
            r#"{"response":false}"#,
            r#"{"max_body_bytes":0}"#,
            r#"{"mask":"x"}"#,
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }
}
