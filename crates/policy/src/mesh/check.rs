//! The cases that a bundle carries.
//!
//! Owns: running them. Must not: decide in any other way than a proxy does.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use ringwall_identity::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use super::{Example, Expect, MeshDecision, MeshPolicy, MeshRequest};

/// A case that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedExample {
    /// Its number in the bundle, from 1.
    pub number: usize,
    pub name: String,
    pub expected: Expect,
    /// What was decided, and by what.
    pub decided: String,
}

impl fmt::Display for FailedExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "examples:{}: {:?} expects {}, but {}",
            self.number,
            self.name,
            self.expected.as_str(),
            self.decided
        )
    }
}

/// An example in the form of a request. Its names are valid, since they were checked when the bundle was compiled.
pub(super) struct Case {
    caller: SpiffeId,
    headers: HeaderMap,
}

impl Case {
    /// # Errors
    /// The rule that a name breaks.
    pub(super) fn of(example: &Example) -> Result<Self, String> {
        let domain = TrustDomain::parse("example").map_err(|error| error.to_string())?;
        let caller = SpiffeId::workload(&domain, &example.caller);
        let caller = caller.map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        for (name, value) in &example.headers {
            let field = HeaderName::from_bytes(name.as_bytes());
            let field = field.map_err(|_| format!("{name:?} is no name of a header field"))?;
            let value = HeaderValue::from_str(value);
            headers.insert(
                field,
                value.map_err(|_| format!("the value of {name} cannot be sent"))?,
            );
        }
        Ok(Self { caller, headers })
    }

    fn request<'a>(&'a self, example: &'a Example, method: &'a str) -> MeshRequest<'a> {
        MeshRequest {
            caller: &self.caller,
            callee: &example.callee,
            port: example.port,
            method,
            path: example.path.as_deref().unwrap_or("/"),
            headers: &self.headers,
            user: example.user.as_ref(),
        }
    }
}

impl MeshPolicy {
    /// The examples of the own bundle that do not hold.
    #[must_use]
    pub fn failed_examples(&self) -> Vec<FailedExample> {
        let examples = self.bundle.examples.iter().enumerate();
        let failed = examples.filter_map(|(index, example)| {
            let (allowed, decided) = self.run(example);
            (Expect::of(allowed) != example.expect).then(|| FailedExample {
                number: index + 1,
                name: example.name.clone(),
                expected: example.expect,
                decided,
            })
        });
        failed.collect()
    }

    /// The verdict on an example, which may be another bundle's, and its reason in words.
    #[must_use]
    pub fn run(&self, example: &Example) -> (bool, String) {
        let Example {
            caller,
            callee,
            port,
            ..
        } = example;
        let case = match Case::of(example) {
            Ok(case) => case,
            Err(error) => return (false, format!("it is denied: {error}")),
        };
        let Some(method) = example.method.as_deref() else {
            let allowed = self.allows_edge(caller, callee, *port);
            let decided = if allowed {
                "the edge is declared".to_owned()
            } else {
                no_edge(example)
            };
            return (allowed, decided);
        };
        let decision = self.decide(&case.request(example, method));
        (decision.allowed, in_words(&decision, example))
    }

    /// [`MeshPolicy::explain`] of an example.
    ///
    /// # Errors
    /// The rule that a name breaks.
    pub fn explain_example(&self, example: &Example) -> Result<super::Explanation, String> {
        let case = Case::of(example)?;
        let method = example.method.as_deref();
        Ok(match method {
            Some(method) => self.explain(&case.request(example, method)),
            None => self.explain_connection(&example.caller, &example.callee, example.port),
        })
    }
}

fn no_edge(example: &Example) -> String {
    let Example {
        caller,
        callee,
        port,
        ..
    } = example;
    format!("no edge lets {caller} connect to {callee} at port {port}")
}

fn in_words(decision: &MeshDecision, example: &Example) -> String {
    use super::MeshOutcome::{Error, Forbidden, NoEdge, NoPermit, Permitted};
    let reasons = decision.reasons.join(", ");
    match decision.outcome {
        NoEdge => no_edge(example),
        Permitted => format!("{reasons} permits it"),
        Forbidden => format!("{reasons} forbids it"),
        NoPermit => "no policy permits it".to_owned(),
        Error => format!("it is denied: {}", decision.errors.join("; ")),
    }
}
