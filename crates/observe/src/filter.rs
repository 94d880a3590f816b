//! Which flows a reader wants to see.
//!
//! Owns: the query parameters of `/observe` and `/tap` and what they mean. An unknown one is refused, since a filter
//! that is silently ignored shows what was not asked for.

use serde::Deserialize;

use crate::flow::{Flow, Verdict};

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    pub(crate) verdict: Option<Verdict>,
    /// Caller or callee.
    pub(crate) service: Option<String>,
    pub(crate) caller: Option<String>,
    pub(crate) callee: Option<String>,
    pub(crate) method: Option<String>,
    /// Prefix of the path.
    pub(crate) path: Option<String>,
    /// `404`, or a class such as `5xx`.
    pub(crate) status: Option<StatusFilter>,
    /// `/observe`: go on with what happens from now on.
    pub(crate) follow: bool,
    /// `/tap`: requests at most.
    pub(crate) max: Option<u32>,
    /// `/tap`: seconds at most.
    pub(crate) seconds: Option<u64>,
}

/// One status or a class of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum StatusFilter {
    Exact(u16),
    Class(u16),
}

impl TryFrom<String> for StatusFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a status such as 404 nor a class such as 5xx");
        let (class, digits) = match text.strip_suffix("xx") {
            Some(digits) => (true, digits),
            None => (false, text.as_str()),
        };
        match digits.parse::<u16>().map_err(|_| wrong())? {
            class_of @ 1..=5 if class => Ok(Self::Class(class_of)),
            status @ 100..=599 if !class => Ok(Self::Exact(status)),
            _ => Err(wrong()),
        }
    }
}

/// The ends and the first line of a request, as far as filters ask for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) caller: &'a str,
    pub(crate) callee: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
}

impl Filter {
    pub(crate) fn matches(&self, flow: &Flow) -> bool {
        self.verdict.is_none_or(|verdict| verdict == flow.verdict)
            && self.status.is_none_or(|status| status.matches(flow.status))
            && self.matches_request(Facts {
                caller: &flow.caller,
                callee: &flow.callee,
                method: &flow.method,
                path: &flow.path,
            })
    }

    pub(crate) fn matches_request(&self, facts: Facts<'_>) -> bool {
        let equal = |wanted: &Option<String>, seen: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == seen)
        };
        let either = self
            .service
            .as_deref()
            .is_none_or(|service| service == facts.caller || service == facts.callee);
        let path = self.path.as_deref();
        either
            && equal(&self.caller, facts.caller)
            && equal(&self.callee, facts.callee)
            && equal(&self.method, facts.method)
            && path.is_none_or(|prefix| facts.path.starts_with(prefix))
    }
}

impl StatusFilter {
    const fn matches(self, status: u16) -> bool {
        match self {
            Self::Exact(wanted) => wanted == status,
            Self::Class(class) => status / 100 == class,
        }
    }
}
