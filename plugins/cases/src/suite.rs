//! A suite as a runner gets it: parsed, complete, every case with all that it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::capabilities::Capabilities;
use crate::file::{CaseForm, ClusterForm, FileForm, StepForm};
use crate::message::{Answer, Message};
use crate::text::Text;

/// Where requests come from unless a case says otherwise: a documentation address (RFC 5737).
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// A plugin's cases are written by hand: more is a mistake.
const LIMIT_BYTES: usize = 1024 * 1024;
/// No case waits longer.
const LIMIT_AFTER: Duration = Duration::from_secs(10);
/// No body is larger.
const LIMIT_BODY: usize = 8 * 1024 * 1024;

/// Why a file holds no cases.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {file}: {source}")]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    /// `line` is 0 where the place is not known.
    #[error("line {line}: {what}")]
    Parse { line: u64, what: String },
}

/// All cases of one plugin.
#[derive(Debug, Clone)]
pub struct Suite {
    pub capabilities: Capabilities,
    pub cases: Vec<Case>,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    /// Where it stands in the file.
    pub line: u64,
    /// What `proxy_on_configure` reads.
    pub configuration: Vec<u8>,
    pub clusters: BTreeMap<String, Cluster>,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub enum Kind {
    /// The plugin does not take the configuration, and a line of its log has this part.
    Refused(String),
    /// One request after another, to one instance of the plugin.
    Exchanges(Vec<Step>),
}

#[derive(Debug, Clone)]
pub struct Step {
    /// How long to wait before the request, for timers.
    pub after: Duration,
    pub source: IpAddr,
    pub request: Message,
    pub upstream: Answer,
    pub expect: Expectation,
}

/// A cluster that answers callouts.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Nothing listens there.
    pub unreachable: bool,
    pub scripts: Vec<Script>,
}

/// An answer, and which requests get it.
#[derive(Debug, Clone)]
pub struct Script {
    pub when: ExpectedMessage,
    pub answer: Answer,
}

impl Cluster {
    /// What is said to the request: the first answer that fits, else 404.
    pub fn answer(&self, request: &Message) -> Answer {
        let fitting = self
            .scripts
            .iter()
            .find(|script| script.when.fits_request(request));
        fitting.map_or_else(
            || Answer {
                status: 404,
                ..Answer::default()
            },
            |script| script.answer.clone(),
        )
    }
}

/// What has to be seen after a step.
#[derive(Debug, Clone)]
pub struct Expectation {
    pub client: ExpectedMessage,
    pub upstream: Option<ExpectedMessage>,
    /// None where the case does not care.
    pub upstream_reached: Option<bool>,
    /// Every call of the step, in order.
    pub callouts: Option<Vec<ExpectedCall>>,
    /// Parts of lines that the plugin has logged since the case began.
    pub log: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct ExpectedCall {
    pub cluster: String,
    pub message: ExpectedMessage,
}

/// Only what is named is looked at.
#[derive(Debug, Clone, Default)]
pub struct ExpectedMessage {
    pub status: Option<u16>,
    pub method: Option<String>,
    pub path: Option<Text>,
    pub headers: BTreeMap<String, Text>,
    pub absent: Vec<String>,
    pub body: Option<Text>,
    pub bytes: Option<Vec<u8>>,
    /// Compared as a value: order and white space do not count.
    pub json: Option<Value>,
    pub length: Option<usize>,
}

impl Suite {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Read`], or as [`Suite::parse`].
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::Read {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// # Errors
    /// [`Error::Parse`] with the line of what is unknown, missing or contradictory.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > LIMIT_BYTES {
            return Err(wrong(
                0,
                format!("the file is larger than {LIMIT_BYTES} bytes"),
            ));
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let file: FileForm =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                let line = error.location().map_or(0, |at| at.line());
                wrong(line, error.without_snippet().to_string())
            })?;
        let mut names = BTreeSet::new();
        let mut cases = Vec::new();
        for case in &file.cases {
            let line = case.referenced.line();
            let resolved = resolve(&file, &case.value, line)?;
            if !names.insert(resolved.name.clone()) {
                return Err(wrong(line, format!("a second case {:?}", resolved.name)));
            }
            cases.push(resolved);
        }
        if cases.is_empty() {
            return Err(wrong(0, "there are no cases".to_owned()));
        }
        Ok(Self {
            capabilities: file.capabilities,
            cases,
        })
    }

    /// Every cluster that any case names.
    pub fn clusters(&self) -> BTreeSet<&str> {
        let clusters = self.cases.iter().flat_map(|case| case.clusters.keys());
        clusters.map(String::as_str).collect()
    }
}

fn wrong(line: u64, what: String) -> Error {
    Error::Parse { line, what }
}

fn resolve(file: &FileForm, case: &CaseForm, line: u64) -> Result<Case, Error> {
    let failed = |what: String| wrong(line, format!("case {:?}: {what}", case.name));
    let configuration = match (&case.configuration, &case.configuration_text) {
        (Some(_), Some(_)) => {
            return Err(failed("configuration or configuration_text".to_owned()));
        }
        (_, Some(text)) => text.clone().into_bytes(),
        (Some(json), None) => json.to_string().into_bytes(),
        (None, None) => {
            let json = file.configuration.as_ref();
            json.map_or_else(Vec::new, |json| json.to_string().into_bytes())
        }
    };
    let mut clusters = BTreeMap::new();
    for (name, cluster) in file.clusters.iter().chain(&case.clusters) {
        clusters.insert(name.clone(), cluster.resolve().map_err(failed)?);
    }
    let kind = match (&case.refused, steps(case).map_err(failed)?) {
        (Some(reason), steps) if steps.is_empty() => Kind::Refused(reason.clone()),
        (Some(_), _) => return Err(failed("what is refused gets no requests".to_owned())),
        (None, steps) if steps.is_empty() => {
            return Err(failed("it has no request, steps or refused".to_owned()));
        }
        (None, forms) => {
            let mut steps = Vec::new();
            for (at, form) in forms {
                let step = form.resolve();
                steps.push(step.map_err(|what| {
                    wrong(at.unwrap_or(line), format!("case {:?}: {what}", case.name))
                })?);
            }
            Kind::Exchanges(steps)
        }
    };
    Ok(Case {
        name: case.name.clone(),
        line,
        configuration,
        clusters,
        kind,
    })
}

/// The steps with their lines: those listed, or the one that the case itself is.
fn steps(case: &CaseForm) -> Result<Vec<(Option<u64>, StepForm)>, String> {
    match (&case.request, &case.expect, case.steps.is_empty()) {
        (None, None, _) if case.upstream.is_none() => {
            let steps = case.steps.iter();
            Ok(steps
                .map(|step| (Some(step.referenced.line()), step.value.clone()))
                .collect())
        }
        (Some(request), Some(expect), true) => {
            let step = StepForm {
                after_ms: 0,
                request: request.clone(),
                upstream: case.upstream.clone().unwrap_or_default(),
                expect: expect.clone(),
            };
            Ok(vec![(None, step)])
        }
        (_, _, true) => Err("a request needs an expect, and the other way round".to_owned()),
        (_, _, false) => Err("either steps, or request and expect".to_owned()),
    }
}

impl StepForm {
    fn resolve(&self) -> Result<Step, String> {
        let source = match &self.request.source {
            None => SOURCE,
            Some(text) => text
                .parse()
                .map_err(|_| format!("source: {text:?} is no IP address"))?,
        };
        let after = Duration::from_millis(self.after_ms);
        if after > LIMIT_AFTER {
            return Err(format!("after_ms is over {}", LIMIT_AFTER.as_millis()));
        }
        let request = self.request.resolve()?;
        let upstream = self.upstream.resolve()?;
        if request.body.len().max(upstream.body.len()) > LIMIT_BODY {
            return Err(format!("a body is larger than {LIMIT_BODY} bytes"));
        }
        if !request.path.starts_with('/') {
            return Err(format!("path {:?} does not start with /", request.path));
        }
        Ok(Step {
            after,
            source,
            request,
            upstream,
            expect: self.expect.resolve()?,
        })
    }
}

impl ClusterForm {
    fn resolve(&self) -> Result<Cluster, String> {
        let scripts = self.answers.iter().map(|script| script.resolve());
        Ok(Cluster {
            unreachable: self.unreachable,
            scripts: scripts.collect::<Result<_, String>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "
configuration: {a: 1}
clusters:
  keys:
    answers:
      - {path: /k/1, answer: {status: 204}}
      - {headers: {x-key: {starts_with: b}}, answer: {json: {ok: true}}}
cases:
  - name: first
    request: {method: POST, path: /a?b, headers: {X-A: [1, two]}, body: ab, repeat: 2, source: '2001:db8::1'}
    upstream: {status: 201}
    expect:
      client: {status: 201}
      callouts: [{cluster: keys, path: /k/1}]
  - name: second
    configuration: {a: 2}
    refused: unknown
";

    fn complaint(text: &str) -> String {
        Suite::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_suite_is_read_and_completed() {
        let suite = Suite::parse(ONE).unwrap();
        let [first, second] = &suite.cases[..] else {
            panic!("two cases")
        };
        assert_eq!(first.configuration, b"{\"a\":1}");
        assert_eq!(second.configuration, b"{\"a\":2}");
        assert!(matches!(&second.kind, Kind::Refused(reason) if reason == "unknown"));
        let Kind::Exchanges(steps) = &first.kind else {
            panic!("exchanges")
        };
        assert_eq!(steps[0].request.body, b"abab");
        assert_eq!(steps[0].request.headers.value("x-a").unwrap(), "1, two");
        assert_eq!(steps[0].source.to_string(), "2001:db8::1");
        assert_eq!(suite.clusters().into_iter().collect::<Vec<_>>(), ["keys"]);
    }

    #[test]
    fn a_cluster_gives_the_first_answer_that_fits() {
        let suite = Suite::parse(ONE).unwrap();
        let keys = &suite.cases[0].clusters["keys"];
        let mut request = Message {
            path: "/k/1".to_owned(),
            ..Message::default()
        };
        assert_eq!(keys.answer(&request).status, 204);
        request.path = "/k/2".to_owned();
        assert_eq!(keys.answer(&request).status, 404);
        request.headers = crate::Fields::new([("x-key".to_owned(), "bcd".to_owned())]);
        assert_eq!(keys.answer(&request).body, b"{\"ok\":true}");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let request = "request: {}\n    expect: {client: {status: 200}}";
        for (text, line, part) in [
            ("cases:\n  - nmae: a", 2, "nmae"),
            ("cases:\n  - name: a", 2, "no request"),
            ("cases: []", 0, "no cases"),
            (
                "\ncases:\n  - name: a\n    request: {}",
                3,
                "needs an expect",
            ),
            (
                "cases:\n  - name: a\n    request: {source: x}\n    expect: {client: {status: 200}}",
                2,
                "no IP address",
            ),
            (
                "cases:\n  - name: a\n    request: {}\n    expect: {client: {}}",
                2,
                "no status",
            ),
            (
                "cases:\n  - name: a\n    request: {headrs: {}}\n    expect: {client: {status: 200}}",
                3,
                "headrs",
            ),
            (
                "cases:\n  - name: a\n    request: {body: x, json: 1}\n    expect: {client: {status: 200}}",
                2,
                "only one",
            ),
            (
                "cases:\n  - name: a\n    request: {path: a}\n    expect: {client: {status: 200}}",
                2,
                "start with /",
            ),
            (
                &format!("cases:\n  - name: a\n    {request}\n  - name: a\n    {request}"),
                5,
                "second case",
            ),
            (
                &format!("cases:\n  - name: a\n    refused: x\n    {request}"),
                2,
                "no requests",
            ),
            (
                "cases:\n  - name: a\n    request: {}\n    expect: {client: {status: 200, body: {start: x}}}",
                4,
                "start",
            ),
        ] {
            let found = complaint(text);
            assert!(
                found.starts_with(&format!("line {line}:")),
                "{found}\n{text}"
            );
            assert!(found.contains(part), "{found}\n{text}");
        }
    }
}
