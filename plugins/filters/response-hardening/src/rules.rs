//! Which headers a response gets and loses.

use std::collections::BTreeMap;

use ringwall_guest::configuration::{header_name, header_value};
use serde::Deserialize;

/// What a response of an ordinary application may always have. A policy for content is each application's own: there is
/// no default for `content-security-policy`.
const DEFAULTS: [(&str, &str); 6] = [
    (
        "strict-transport-security",
        "max-age=31536000; includeSubDomains",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=()",
    ),
];

/// Headers that name software and versions.
const REVEALING: [&str; 6] = [
    "server",
    "x-powered-by",
    "x-aspnet-version",
    "x-aspnetmvc-version",
    "x-generator",
    "x-runtime",
];

/// The configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// More headers, or other values for those set by default; `null` leaves a default out.
    #[serde(default)]
    set: BTreeMap<String, Option<String>>,
    /// More headers to remove.
    #[serde(default)]
    remove: Vec<String>,
    /// Keep a value that the upstream has set itself.
    #[serde(default)]
    keep_existing: bool,
}

/// Checked and complete.
#[derive(Debug)]
pub struct Rules {
    set: Vec<(String, String)>,
    remove: Vec<String>,
    keep_existing: bool,
}

/// One change of a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a> {
    Set(&'a str, &'a str),
    Remove(&'a str),
}

impl Rules {
    /// # Errors
    /// Names the header that cannot be set or removed.
    pub fn new(config: Config) -> Result<Self, String> {
        let mut set: BTreeMap<String, Option<String>> = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
            .collect();
        for (name, value) in &config.set {
            header_name("set", name)?;
            header_value("set", value.as_deref().unwrap_or_default())?;
        }
        for name in &config.remove {
            header_name("remove", name)?;
            if config.set.get(name).is_some_and(Option::is_some) {
                return Err(format!("{name} is both set and removed"));
            }
        }
        set.extend(config.set);
        for name in &config.remove {
            set.remove(name);
        }
        let set: Vec<(String, String)> = set
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let revealing = REVEALING.iter().map(|name| (*name).to_owned());
        let remove = revealing
            .chain(config.remove)
            .filter(|name| set.iter().all(|(other, _)| other != name))
            .collect();
        Ok(Self {
            set,
            remove,
            keep_existing: config.keep_existing,
        })
    }

    /// What is to be done, given which headers are there.
    pub fn changes(&self, is_there: impl Fn(&str) -> bool) -> Vec<Change<'_>> {
        let removed = self.remove.iter().filter(|name| is_there(name));
        let mut changes: Vec<Change<'_>> = removed.map(|name| Change::Remove(name)).collect();
        for (name, value) in &self.set {
            if !(self.keep_existing && is_there(name)) {
                changes.push(Change::Set(name, value));
            }
        }
        changes
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
    fn revealing_headers_go_and_defaults_come() {
        let rules = rules("").unwrap();
        let changes = rules.changes(|name| name == "server");
        assert_eq!(changes[0], Change::Remove("server"));
        assert_eq!(changes.len(), 1 + DEFAULTS.len());
    }

    #[test]
    fn null_leaves_a_default_out() {
        let rules = rules(r#"{"set":{"x-frame-options":null,"server":"edge"}}"#).unwrap();
        let changes = rules.changes(|_| true);
        assert!(changes.contains(&Change::Set("server", "edge")));
        assert!(!changes.contains(&Change::Remove("server")));
        let frames = |change: &&Change<'_>| matches!(change, Change::Set("x-frame-options", _));
        assert_eq!(changes.iter().find(frames), None);
    }

    #[test]
    fn what_is_there_is_kept_where_that_is_asked_for() {
        let rules = rules(r#"{"keep_existing":true,"remove":["x-debug"]}"#).unwrap();
        let changes = rules.changes(|name| name == "x-frame-options" || name == "x-debug");
        assert!(!changes.contains(&Change::Set("x-frame-options", "DENY")));
        assert!(changes.contains(&Change::Remove("x-debug")));
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            r#"{"sets":{}}"#,
            r#"{"set":{"Server":"x"}}"#,
            r#"{"set":{"x-a":"b\r\nc: d"}}"#,
            r#"{"set":{"content-length":"1"}}"#,
            r#"{"set":{"x-a":"b"},"remove":["x-a"]}"#,
            "[]",
            "{",
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }
}
