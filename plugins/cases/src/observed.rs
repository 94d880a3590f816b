//! What a runner has seen, and how it differs from what was expected.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::message::{Fields, Message};
use crate::suite::{Expectation, ExpectedCall, ExpectedMessage};
use crate::text::Text;

/// Bytes of a text that a difference shows.
const SHOWN: usize = 600;

/// What came of one step.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub client: Reply,
    /// What the upstream has received; none where the request did not arrive whole.
    pub upstream: Option<Message>,
    /// Calls of the step, in order.
    pub callouts: Vec<Called>,
    /// Lines that the plugin has logged since its case began.
    pub log: Vec<String>,
}

/// What the client got.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// 0 where the connection ended without an answer.
    pub status: u16,
    pub headers: Fields,
    pub body: Vec<u8>,
}

/// A callout as its cluster saw it. The body of a gRPC call is its message.
#[derive(Debug, Clone)]
pub struct Called {
    pub cluster: String,
    pub request: Message,
}

/// One thing that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `client.status`, `upstream.headers.x-a`.
    pub place: String,
    pub expected: String,
    pub seen: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            expected,
            seen,
        } = self;
        write!(
            formatter,
            "{place}\n    expected {expected}\n    seen     {seen}"
        )
    }
}

impl Expectation {
    /// Everything that differs; nothing where the step has passed.
    pub fn differences(&self, observed: &Observed) -> Vec<Difference> {
        let mut found = Vec::new();
        let client = Seen {
            status: Some(observed.client.status),
            request: None,
            headers: &observed.client.headers,
            body: &observed.client.body,
        };
        client.compare("client", &self.client, &mut found);
        self.compare_upstream(observed, &mut found);
        if let Some(expected) = &self.callouts {
            compare_calls(expected, &observed.callouts, &mut found);
        }
        for part in &self.log {
            if !observed.log.iter().any(|line| line.contains(part)) {
                found.push(Difference {
                    place: "log".to_owned(),
                    expected: format!("a line with {part:?}"),
                    seen: shown(observed.log.join(" | ").as_bytes()),
                });
            }
        }
        found
    }

    fn compare_upstream(&self, observed: &Observed, found: &mut Vec<Difference>) {
        match (&observed.upstream, self.upstream_reached) {
            (_, None) | (None, Some(false)) => {}
            (None, Some(true)) => found.push(Difference {
                place: "upstream".to_owned(),
                expected: "a request".to_owned(),
                seen: "none".to_owned(),
            }),
            (Some(request), Some(false)) => found.push(Difference {
                place: "upstream".to_owned(),
                expected: "no request".to_owned(),
                seen: format!("{} {}", request.method, request.path),
            }),
            (Some(request), Some(true)) => {
                if let Some(expected) = &self.upstream {
                    Seen::request(request).compare("upstream", expected, found);
                }
            }
        }
    }
}

fn compare_calls(expected: &[ExpectedCall], seen: &[Called], found: &mut Vec<Difference>) {
    let name = |call: &Called| {
        format!(
            "{}: {} {}",
            call.cluster, call.request.method, call.request.path
        )
    };
    let clusters = |names: Vec<&str>| format!("{} calls: {}", names.len(), names.join(", "));
    if expected.len() != seen.len() {
        found.push(Difference {
            place: "callouts".to_owned(),
            expected: clusters(expected.iter().map(|call| call.cluster.as_str()).collect()),
            seen: clusters(seen.iter().map(|call| call.cluster.as_str()).collect()),
        });
        return;
    }
    for (index, (expected, seen)) in expected.iter().zip(seen).enumerate() {
        let place = format!("callouts[{index}]");
        if expected.cluster != seen.cluster {
            found.push(Difference {
                place: format!("{place}.cluster"),
                expected: expected.cluster.clone(),
                seen: name(seen),
            });
        }
        Seen::request(&seen.request).compare(&place, &expected.message, found);
    }
}

impl ExpectedMessage {
    /// True when a request is as this says.
    pub fn fits_request(&self, request: &Message) -> bool {
        let mut found = Vec::new();
        Seen::request(request).compare("", self, &mut found);
        found.is_empty()
    }
}

/// A request or a reply, seen from the side of a comparison.
struct Seen<'a> {
    status: Option<u16>,
    request: Option<&'a Message>,
    headers: &'a Fields,
    body: &'a [u8],
}

impl<'a> Seen<'a> {
    fn request(request: &'a Message) -> Self {
        Self {
            status: None,
            request: Some(request),
            headers: &request.headers,
            body: &request.body,
        }
    }

    fn compare(&self, place: &str, expected: &ExpectedMessage, found: &mut Vec<Difference>) {
        let mut differs = |part: &str, expected: String, seen: String| {
            found.push(Difference {
                place: format!("{place}.{part}"),
                expected,
                seen,
            });
        };
        if let (Some(expected), Some(status)) = (expected.status, self.status)
            && expected != status
        {
            // The body most often says why.
            let seen = format!("{status} {}", shown(self.body));
            differs("status", expected.to_string(), seen);
        }
        if let Some(request) = self.request {
            if let Some(method) = &expected.method
                && *method != request.method
            {
                differs("method", method.clone(), request.method.clone());
            }
            if let Some(path) = &expected.path
                && !path.matches(&request.path)
            {
                differs("path", path.to_string(), format!("{:?}", request.path));
            }
        }
        for (name, value) in &expected.headers {
            let seen = self.header(name);
            if !seen.as_deref().is_some_and(|seen| value.matches(seen)) {
                let seen = seen.map_or("absent".to_owned(), |seen| format!("{seen:?}"));
                differs(&format!("headers.{name}"), value.to_string(), seen);
            }
        }
        for name in &expected.absent {
            if let Some(seen) = self.header(name) {
                differs(
                    &format!("headers.{name}"),
                    "absent".to_owned(),
                    format!("{seen:?}"),
                );
            }
        }
        for (part, expected) in self.body_complaints(expected) {
            differs(part, expected, shown(self.body));
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        match (name, self.request) {
            (":authority" | "host", Some(request)) => Some(request.authority.clone()),
            _ => self.headers.value(&name.to_ascii_lowercase()),
        }
    }

    fn body_complaints(&self, expected: &ExpectedMessage) -> Vec<(&'static str, String)> {
        let mut complaints = Vec::new();
        let text = String::from_utf8_lossy(self.body);
        let matches = |expected: &Text| expected.matches(&text);
        if let Some(expected) = expected.body.as_ref().filter(|body| !matches(body)) {
            complaints.push(("body", expected.to_string()));
        }
        if let Some(bytes) = expected.bytes.as_ref().filter(|bytes| *bytes != self.body) {
            complaints.push(("body", shown(bytes)));
        }
        if let Some(json) = &expected.json {
            let seen = serde_json::from_slice::<Value>(self.body);
            if !seen.is_ok_and(|seen| seen == *json) {
                complaints.push(("json", json.to_string()));
            }
        }
        if let Some(length) = expected.length.filter(|length| *length != self.body.len()) {
            complaints.push(("length", format!("{length} (seen {})", self.body.len())));
        }
        complaints
    }
}

/// A text as it is, other bytes in base64; cut where it is long.
fn shown(bytes: &[u8]) -> String {
    let mut text = match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("base64 {}", STANDARD.encode(bytes)),
    };
    if text.len() > SHOWN {
        let end = (0..=SHOWN).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str(&format!("… ({} bytes)", bytes.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Kind, Suite};

    fn expectation(yaml: &str) -> Expectation {
        let text = format!("cases:\n  - name: a\n    request: {{}}\n    expect: {yaml}");
        let suite = Suite::parse(&text).unwrap();
        match &suite.cases[0].kind {
            Kind::Exchanges(steps) => steps[0].expect.clone(),
            Kind::Refused(_) => panic!("exchanges"),
        }
    }

    fn observed() -> Observed {
        let headers = Fields::new([("server".to_owned(), "x".to_owned())]);
        Observed {
            client: Reply {
                status: 403,
                headers: headers.clone(),
                body: b"{\"a\": [1, 2]}".to_vec(),
            },
            upstream: None,
            callouts: vec![Called {
                cluster: "keys".to_owned(),
                request: Message {
                    method: "GET".to_owned(),
                    path: "/k".to_owned(),
                    headers,
                    ..Message::default()
                },
            }],
            log: vec!["blocked by rule 7".to_owned()],
        }
    }

    #[test]
    fn what_is_as_expected_has_no_difference() {
        let expected = expectation(
            "{client: {status: 403, headers: {server: x}, absent: [x-b], json: {a: [1, 2]}, length: 13}, \
              upstream: {reached: false}, callouts: [{cluster: keys, path: /k}], log: [rule 7]}",
        );
        assert_eq!(expected.differences(&observed()), []);
    }

    #[test]
    fn each_difference_is_named() {
        for (yaml, place) in [
            ("{client: {status: 200}}", "client.status"),
            (
                "{client: {status: 403, headers: {server: z}}}",
                "client.headers.server",
            ),
            (
                "{client: {status: 403, headers: {x-b: z}}}",
                "client.headers.x-b",
            ),
            (
                "{client: {status: 403, absent: [server]}}",
                "client.headers.server",
            ),
            ("{client: {status: 403, body: b}}", "client.body"),
            ("{client: {status: 403, body_base64: AAA=}}", "client.body"),
            ("{client: {status: 403, json: {a: [2, 1]}}}", "client.json"),
            ("{client: {status: 403, length: 3}}", "client.length"),
            ("{client: {status: 403}, upstream: {}}", "upstream"),
            ("{client: {status: 403}, callouts: []}", "callouts"),
            (
                "{client: {status: 403}, callouts: [{cluster: other}]}",
                "callouts[0].cluster",
            ),
            (
                "{client: {status: 403}, callouts: [{cluster: keys, path: /}]}",
                "callouts[0].path",
            ),
            ("{client: {status: 403}, log: [rule 8]}", "log"),
        ] {
            let found = expectation(yaml).differences(&observed());
            let places: Vec<&str> = found.iter().map(|found| found.place.as_str()).collect();
            assert_eq!(places, [place], "{yaml}");
        }
    }

    #[test]
    fn a_difference_reads_well() {
        let found = expectation("{client: {status: 200}}").differences(&observed());
        let text = found[0].to_string();
        assert_eq!(
            text,
            "client.status\n    expected 200\n    seen     403 \"{\\\"a\\\": [1, 2]}\""
        );
    }

    #[test]
    fn an_upstream_that_was_reached_is_told() {
        let mut seen = observed();
        seen.upstream = Some(seen.callouts[0].request.clone());
        let expected = expectation("{client: {status: 403}, upstream: {reached: false}}");
        assert_eq!(expected.differences(&seen)[0].place, "upstream");
        let expected = expectation("{client: {status: 403}, upstream: {method: POST}}");
        assert_eq!(expected.differences(&seen)[0].place, "upstream.method");
    }
}
