//! Which requests are let through: a route for each path, with what may come to it.

use std::collections::{BTreeMap, BTreeSet};

use ringwall_guest::configuration::in_range;
use ringwall_guest::json;
use ringwall_guest::media::{self, Media};
use ringwall_guest::target::{self, Target};
use serde::Deserialize;

use crate::schema::{Format, Schema};

/// Headers that clients, HTTP and proxies add by themselves: with an allow-list of headers these pass as well.
const ORDINARY: [&str; 26] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "keep-alive",
    "origin",
    "pragma",
    "referer",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade-insecure-requests",
    "user-agent",
    "x-envoy-external-address",
    "x-forwarded-*",
    "x-request-id",
];

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    routes: Vec<Route>,
    #[serde(default)]
    headers: Option<Vec<String>>,
    #[serde(default = "default_target_bytes")]
    max_target_bytes: usize,
    #[serde(default = "default_body_bytes")]
    max_body_bytes: usize,
}

const fn default_target_bytes() -> usize {
    2048
}

const fn default_body_bytes() -> usize {
    64 * 1024
}

/// What may come to a path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `*` is one segment, `**` at the end any number of them.
    path: String,
    methods: BTreeSet<String>,
    #[serde(default)]
    query: BTreeMap<String, Parameter>,
    /// Media types of bodies; none: no body. With a schema, JSON unless said otherwise.
    #[serde(default)]
    content_types: Vec<String>,
    #[serde(default)]
    body: Option<Schema>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameter {
    required: bool,
    max_length: Option<usize>,
    one_of: Option<Vec<String>>,
    format: Option<Format>,
}

/// Characters of a parameter, unless said otherwise.
const MAX_PARAMETER: usize = 256;

/// Why a request does not pass. The detail is for the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u32,
    pub title: &'static str,
    pub detail: String,
}

fn refuse<T>(status: u32, title: &'static str, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        status,
        title,
        detail: detail.into(),
    })
}

/// Checked.
#[derive(Debug)]
pub struct Rules {
    routes: Vec<Route>,
    headers: Option<Vec<String>>,
    max_target_bytes: usize,
    max_body_bytes: usize,
}

impl Rules {
    /// # Errors
    /// Names what is wrong in which route.
    pub fn new(config: Config) -> Result<Self, String> {
        in_range("max_target_bytes", &config.max_target_bytes, &(1..=16_384))?;
        in_range("max_body_bytes", &config.max_body_bytes, &(1..=1_048_576))?;
        if config.routes.is_empty() {
            return Err("routes is empty: nothing would be let through".to_owned());
        }
        let mut routes = config.routes;
        for route in &mut routes {
            route.check()?;
        }
        Ok(Self {
            routes,
            headers: config.headers,
            max_target_bytes: config.max_target_bytes,
            max_body_bytes: config.max_body_bytes,
        })
    }

    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    /// Finds the route of a request and judges its target. Also gives the target in its normal form, which is what has
    /// to be sent: what was checked is what the upstream sees.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge_target(&self, method: &str, target: &[u8]) -> Result<(&Route, String), Refusal> {
        if target.len() > self.max_target_bytes {
            return refuse(414, "The target is too long", "target");
        }
        let parts = Target::new(target);
        let path = match target::normalise(parts.path) {
            Ok(path) => path,
            Err(why) => return refuse(400, "The path is malformed", format!("{why:?}")),
        };
        let mut on_path = self
            .routes
            .iter()
            .filter(|route| route.fits(&path))
            .peekable();
        if on_path.peek().is_none() {
            return refuse(404, "The path is not on the list", "path");
        }
        let Some(route) = on_path.find(|route| route.methods.contains(method)) else {
            return refuse(405, "The method is not on the list", "method");
        };
        route.judge_query(&parts)?;
        let mut normal = path;
        if let Some(query) = parts.query {
            normal.push('?');
            normal.push_str(&String::from_utf8_lossy(query));
        }
        Ok((route, normal))
    }

    /// Judges the names of the headers.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge_headers<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
        let Some(allowed) = &self.headers else {
            return Ok(());
        };
        let fits = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        for name in names.filter(|name| !name.starts_with(':')) {
            let ordinary = ORDINARY.iter().any(|pattern| fits(pattern, name));
            if !ordinary && !allowed.iter().any(|pattern| fits(pattern, name)) {
                return refuse(400, "A header is not on the list", name);
            }
        }
        Ok(())
    }
}

impl Route {
    fn check(&mut self) -> Result<(), String> {
        let path = &self.path;
        if !path.starts_with('/') {
            return Err(format!("path {path:?} does not start with /"));
        }
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            if segment.contains('*') && segment != "*" && !(segment == "**" && last) {
                return Err(format!(
                    "path {path:?}: * is a whole segment, ** the last one"
                ));
            }
        }
        let is_method = |method: &String| {
            !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase())
        };
        if self.methods.is_empty() || !self.methods.iter().all(is_method) {
            return Err(format!("methods of {path:?}: at least one, in upper case"));
        }
        if let Some(schema) = &self.body {
            schema.check("body")?;
            if self.content_types.is_empty() {
                self.content_types.push("application/json".to_owned());
            }
            if !self
                .content_types
                .iter()
                .all(|kind| Media::of(kind) == Media::Json)
            {
                return Err(format!("{path:?}: a schema is for content types of JSON"));
            }
        }
        Ok(())
    }

    /// True when the pattern fits the normal form of a path.
    fn fits(&self, path: &str) -> bool {
        let mut wanted = self.path.split('/');
        let mut seen = path.split('/');
        loop {
            match (wanted.next(), seen.next()) {
                (Some("**"), _) | (None, None) => return true,
                (Some("*"), Some(segment)) if !segment.is_empty() => {}
                (Some(wanted), Some(segment)) if wanted == segment => {}
                _ => return false,
            }
        }
    }

    fn judge_query(&self, target: &Target<'_>) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        for (name, value) in target.parameters() {
            let (Ok(name), Ok(value)) = (String::from_utf8(name), String::from_utf8(value)) else {
                return refuse(400, "The query is malformed", "not UTF-8");
            };
            let Some(parameter) = self.query.get(&name) else {
                return refuse(400, "A parameter is not on the list", "query");
            };
            if !parameter.fits(&value) {
                return refuse(400, "A parameter does not fit", name);
            }
            // Servers differ in which of two they take.
            if !seen.insert(name.clone()) {
                return refuse(400, "A parameter comes twice", name);
            }
        }
        let mut required = self
            .query
            .iter()
            .filter(|(_, parameter)| parameter.required);
        match required.find(|(name, _)| !seen.contains(*name)) {
            Some((name, _)) => refuse(400, "A parameter is missing", name.as_str()),
            None => Ok(()),
        }
    }

    /// Judges what the headers say of the body, if there is one.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge_content(
        &self,
        content_type: Option<&str>,
        content_encoding: Option<&str>,
    ) -> Result<(), Refusal> {
        if self.content_types.is_empty() {
            return refuse(400, "No body is expected", "body");
        }
        let kind = media::essence(content_type.unwrap_or_default());
        let mut listed = self.content_types.iter();
        if !listed.any(|other| media::essence(other) == kind) {
            return refuse(415, "The content type is not on the list", "content-type");
        }
        if !media::is_plain(content_encoding) {
            return refuse(415, "The body is encoded", "content-encoding");
        }
        Ok(())
    }

    /// Judges a body.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge_body(&self, body: &[u8]) -> Result<(), Refusal> {
        let Some(schema) = &self.body else {
            return Ok(());
        };
        let node = match json::parse(body) {
            Ok(node) => node,
            Err(wrong) => {
                let detail = format!("byte {}: {}", wrong.at, wrong.why);
                return refuse(400, "The body is no JSON", detail);
            }
        };
        match schema.judge(&node, "body") {
            Ok(()) => Ok(()),
            Err(detail) => refuse(400, "The body does not fit", detail),
        }
    }

    #[must_use]
    pub fn has_schema(&self) -> bool {
        self.body.is_some()
    }

    /// True when bodies may come.
    #[must_use]
    pub fn takes_bodies(&self) -> bool {
        !self.content_types.is_empty()
    }
}

impl Parameter {
    fn fits(&self, value: &str) -> bool {
        value.chars().count() <= self.max_length.unwrap_or(MAX_PARAMETER)
            && self
                .one_of
                .as_ref()
                .is_none_or(|texts| texts.iter().any(|other| other == value))
            && self.format.is_none_or(|format| format.fits(value))
    }
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.as_bytes()).and_then(Rules::new)
    }

    fn shop() -> Rules {
        rules(
            r#"{"headers":["authorization","x-app-*"],"max_target_bytes":60,"routes":[
                {"path":"/orders","methods":["GET"],"query":{"page":{"format":"integer"},"sort":{"one_of":["up","down"]}}},
                {"path":"/orders","methods":["POST"],"body":{"type":"object","fields":{}}},
                {"path":"/orders/*","methods":["GET","DELETE"],"query":{"key":{"required":true,"max_length":3}}},
                {"path":"/static/**","methods":["GET"]}]}"#,
        )
        .unwrap()
    }

    fn status(method: &str, target: &str) -> u32 {
        let rules = shop();
        rules
            .judge_target(method, target.as_bytes())
            .map_or_else(|refusal| refusal.status, |_| 200)
    }

    #[test]
    fn methods_and_paths_are_those_listed() {
        for (method, target, expected) in [
            ("GET", "/orders", 200),
            ("GET", "/./orders", 200),
            ("POST", "/orders", 200),
            ("PUT", "/orders", 405),
            ("get", "/orders", 405),
            ("GET", "/orders/", 404),
            ("GET", "/orders/7?key=a", 200),
            ("GET", "/orders/7/8?key=a", 404),
            ("GET", "/static/a/b/c", 200),
            ("GET", "/static/../admin", 404),
            ("GET", "/static/%2e%2e/admin", 404),
            ("GET", "/static/..%2fadmin", 400),
            ("GET", "/../orders", 400),
            ("GET", "/admin", 404),
            ("GET", "*", 400),
        ] {
            assert_eq!(status(method, target), expected, "{method} {target}");
        }
        assert_eq!(status("GET", &format!("/static/{}", "a".repeat(60))), 414);
    }

    #[test]
    fn parameters_are_those_listed_and_fit() {
        for (target, expected) in [
            ("/orders?page=3&sort=up", 200),
            ("/orders?page=x", 400),
            ("/orders?sort=sideways", 400),
            ("/orders?page=1&page=2", 400),
            ("/orders?page=1&%70age=2", 400),
            ("/orders?debug=1", 400),
            ("/orders?page=%ff", 400),
            ("/orders/7", 400),
            ("/orders/7?key=abcd", 400),
        ] {
            assert_eq!(status("GET", target), expected, "{target}");
        }
    }

    #[test]
    fn the_target_that_is_sent_is_the_one_that_was_judged() {
        let rules = shop();
        let (_, target) = rules.judge_target("GET", b"/a/..//orders?page=1").unwrap();
        assert_eq!(target, "/orders?page=1");
    }

    #[test]
    fn headers_are_those_listed_or_ordinary() {
        let rules = shop();
        let judge = |names: &[&str]| rules.judge_headers(names.iter().copied()).is_ok();
        assert!(judge(&[
            ":path",
            "host",
            "authorization",
            "x-app-a",
            "x-forwarded-for"
        ]));
        assert!(!judge(&["host", "x-debug"]));
    }

    #[test]
    fn bodies_come_where_they_are_expected() {
        let rules = shop();
        let (get, _) = rules.judge_target("GET", b"/orders").unwrap();
        assert_eq!(
            get.judge_content(Some("application/json"), None)
                .unwrap_err()
                .status,
            400
        );
        let (post, _) = rules.judge_target("POST", b"/orders").unwrap();
        assert!(
            post.judge_content(Some("application/json; charset=utf-8"), None)
                .is_ok()
        );
        for (kind, encoding) in [
            (Some("text/plain"), None),
            (None, None),
            (Some("application/json"), Some("gzip")),
        ] {
            assert_eq!(post.judge_content(kind, encoding).unwrap_err().status, 415);
        }
        assert!(post.judge_body(b"{}").is_ok());
        assert_eq!(
            post.judge_body(b"{").unwrap_err().title,
            "The body is no JSON"
        );
        assert_eq!(
            post.judge_body(b"[]").unwrap_err().title,
            "The body does not fit"
        );
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            "",
            r#"{"routes":[]}"#,
            r#"{"routes":[{"path":"orders","methods":["GET"]}]}"#,
            r#"{"routes":[{"path":"/","methods":[]}]}"#,
            r#"{"routes":[{"path":"/","methods":["get"]}]}"#,
            r#"{"routes":[{"path":"/a*","methods":["GET"]}]}"#,
            r#"{"routes":[{"path":"/**/a","methods":["GET"]}]}"#,
            r#"{"routes":[{"path":"/","methods":["GET"],"verbs":[]}]}"#,
            r#"{"routes":[{"path":"/","methods":["POST"],"content_types":["text/plain"],"body":{"type":"boolean"}}]}"#,
            r#"{"max_body_bytes":0,"routes":[{"path":"/","methods":["GET"]}]}"#,
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }
}
