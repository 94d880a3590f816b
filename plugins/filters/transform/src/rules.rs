//! Which changes are made to which side.

use std::collections::BTreeMap;

use ringwall_guest::configuration::{header_name, header_value, in_range};
use serde::Deserialize;

use crate::body::Change;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub request: RequestChanges,
    #[serde(default)]
    pub response: SideChanges,
    #[serde(default = "default_body_bytes")]
    max_body_bytes: usize,
}

const fn default_body_bytes() -> usize {
    256 * 1024
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestChanges {
    path_prefix: Option<PathPrefix>,
    headers: Headers,
    body: Vec<Change>,
}

/// Replaces the beginning of the path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathPrefix {
    from: String,
    to: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SideChanges {
    pub headers: Headers,
    pub body: Vec<Change>,
}

/// In this order: removed, renamed, set, added.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    pub remove: Vec<String>,
    pub rename: BTreeMap<String, String>,
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
}

/// Checked.
#[derive(Debug)]
pub struct Rules {
    pub request: SideChanges,
    pub response: SideChanges,
    path_prefix: Option<(String, String)>,
    max_body_bytes: usize,
}

impl Rules {
    /// # Errors
    /// Names what is wrong.
    pub fn new(config: Config) -> Result<Self, String> {
        in_range("max_body_bytes", &config.max_body_bytes, &(1..=1_048_576))?;
        let RequestChanges {
            path_prefix,
            headers,
            body,
        } = config.request;
        let request = SideChanges { headers, body };
        for (side, name) in [(&request, "request"), (&config.response, "response")] {
            side.headers.check(name)?;
            for change in &side.body {
                change.check()?;
            }
        }
        let path_prefix = match path_prefix {
            Some(PathPrefix { from, to }) => {
                for prefix in [&from, &to] {
                    let plain = prefix
                        .bytes()
                        .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
                    if !prefix.starts_with('/') || !plain {
                        return Err(format!("path_prefix: {prefix:?} is no path"));
                    }
                }
                Some((from, to))
            }
            None => None,
        };
        Ok(Self {
            request,
            response: config.response,
            path_prefix,
            max_body_bytes: config.max_body_bytes,
        })
    }

    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    /// The new target; none where it stays.
    #[must_use]
    pub fn target(&self, target: &[u8]) -> Option<Vec<u8>> {
        let (from, to) = self.path_prefix.as_ref()?;
        let rest = target.strip_prefix(from.as_bytes())?;
        // A whole segment: `/api` is no beginning of `/apis`.
        let whole = from.ends_with('/') || matches!(rest.first(), None | Some(b'/' | b'?'));
        let mut target = to.clone().into_bytes();
        // No two slashes, and none missing.
        let rest = match (target.last(), rest.strip_prefix(b"/")) {
            (Some(b'/'), Some(rest)) => rest,
            _ => rest,
        };
        if target.last() != Some(&b'/') && !matches!(rest.first(), None | Some(b'/' | b'?')) {
            target.push(b'/');
        }
        target.extend_from_slice(rest);
        whole.then_some(target)
    }
}

impl SideChanges {
    /// The body after all changes; none where it stays.
    ///
    /// # Errors
    /// Where it is no JSON.
    pub fn apply(&self, body: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
        let mut changed: Option<Vec<u8>> = None;
        for change in &self.body {
            let text = changed.as_deref().unwrap_or(body);
            if let Some(next) = change.apply(text).map_err(|wrong| wrong.why)? {
                changed = Some(next);
            }
        }
        Ok(changed)
    }
}

impl Headers {
    fn check(&self, side: &str) -> Result<(), String> {
        let names = self
            .remove
            .iter()
            .chain(self.rename.keys())
            .chain(self.rename.values());
        for name in names.chain(self.set.keys()).chain(self.add.keys()) {
            header_name(side, name)?;
        }
        for value in self.set.values().chain(self.add.values()) {
            header_value(side, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.as_bytes()).and_then(Rules::new)
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        let target = |from: &str, to: &str, target: &str| {
            let json =
                format!(r#"{{"request":{{"path_prefix":{{"from":"{from}","to":"{to}"}}}}}}"#);
            let target = rules(&json).unwrap().target(target.as_bytes());
            target.map(|target| String::from_utf8(target).unwrap())
        };
        for (from, to, before, after) in [
            ("/api", "/v2", "/api/x?y", Some("/v2/x?y")),
            ("/api", "/v2", "/api", Some("/v2")),
            ("/api", "/v2", "/apis", None),
            ("/api/", "/", "/api/x", Some("/x")),
            ("/api", "/", "/api/x", Some("/x")),
            ("/api/", "/v2", "/api/x", Some("/v2/x")),
            ("/", "/v2", "/x", Some("/v2/x")),
            ("/api", "/", "/api?y", Some("/?y")),
        ] {
            assert_eq!(
                target(from, to, before).as_deref(),
                after,
                "{from} {to} {before}"
            );
        }
    }

    #[test]
    fn changes_follow_each_other() {
        let rules = rules(
            r#"{"response":{"body":[{"op":"rename","at":"/a","to":"b"},{"op":"set","at":"/b","value":2}]}}"#,
        )
        .unwrap();
        assert_eq!(
            rules.response.apply(br#"{"a":1}"#),
            Ok(Some(br#"{"b":2}"#.to_vec()))
        );
        assert!(rules.response.apply(b"{").is_err());
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            r#"{"request":{"headers":{"set":{"X":"1"}}}}"#,
            r#"{"request":{"headers":{"set":{"x":"\n"}}}}"#,
            r#"{"request":{"headers":{"remove":["host"]}}}"#,
            r#"{"request":{"path_prefix":{"from":"a","to":"/"}}}"#,
            r#"{"request":{"path_prefix":{"from":"/a","to":"/?x"}}}"#,
            r#"{"response":{"path_prefix":{"from":"/a","to":"/"}}}"#,
            r#"{"response":{"body":[{"op":"set","at":"a","value":1}]}}"#,
            r#"{"response":{"body":[{"op":"move","at":"/a"}]}}"#,
            r#"{"response":{"body":[{"op":"remove","at":"/a","value":1}]}}"#,
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }
}
