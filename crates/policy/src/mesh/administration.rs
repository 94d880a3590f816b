//! What the control plane's policy API says (`/v1/policy`), for both of its ends.
//!
//! Owns: the messages. Must not: do anything. Versions are counted from 1; 0 is "none yet". A change names the version
//! that it replaces in `If-Match` (RFC 9110 §13.1.1), quoted.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Bundle, BundleDiff, Example, Explanation, FailedExample, UnusedGrants};
use crate::error::Fault;

pub const PATH: &str = "/v1/policy";
pub const VERSIONS_PATH: &str = "/v1/policy/versions";
pub const CHECK_PATH: &str = "/v1/policy/check";
pub const DIFF_PATH: &str = "/v1/policy/diff";
pub const ROLLBACK_PATH: &str = "/v1/policy/rollback";
pub const EXPLAIN_PATH: &str = "/v1/policy/explain";
pub const PROXIES_PATH: &str = "/v1/policy/proxies";
pub const UNUSED_PATH: &str = "/v1/policy/unused";

/// Bytes of a note or an author.
pub const MAX_NOTE: usize = 500;
pub const MAX_AUTHOR: usize = 64;

/// One version, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: u64,
    /// SHA-256 of the bundle's JSON form, hex.
    pub digest: String,
    /// Who, by their own word.
    pub author: String,
    /// The workload identity that applied it.
    pub identity: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub note: String,
    /// The version that it replaced; 0 for the first.
    pub previous: u64,
    /// Whose content it has again, when it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<u64>,
}

/// One version with its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionWithBundle {
    #[serde(flatten)]
    pub version: Version,
    pub bundle: Bundle,
}

/// `POST /v1/policy/check`, and the content of an apply. `services` of the bundle are not read: the registry knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    pub bundle: Bundle,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub author: String,
}

/// What is to be said of a proposal. It is good when it has neither faults nor failed examples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    pub faults: Vec<Fault>,
    pub failed_examples: Vec<FailedExample>,
    pub warnings: Vec<Fault>,
    /// Against the active version; absent for a bundle that does not compile.
    pub diff: Option<BundleDiff>,
    /// Version that the difference is against.
    pub against: u64,
}

impl CheckReport {
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty() && self.failed_examples.is_empty()
    }
}

/// `GET /v1/policy/diff?from=N`, and `&to=M` for another one than the active version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub from: u64,
    pub to: u64,
    pub diff: BundleDiff,
}

/// `POST /v1/policy/rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    pub to: u64,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub author: String,
}

/// What an apply or a rollback did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub version: Version,
    /// False when the active version had this content already.
    pub changed: bool,
    pub diff: BundleDiff,
    pub warnings: Vec<Fault>,
    /// Which proxies have it, after the wait that was asked for.
    pub proxies: Spread,
}

/// How far a version has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    pub version: u64,
    /// Connected proxies that apply it.
    pub applied: usize,
    /// Connected proxies that have not answered yet.
    pub pending: Vec<Proxy>,
    /// Connected proxies that refuse it; their last good version serves.
    pub refused: Vec<Proxy>,
}

/// A connected proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    pub workload: String,
    pub instance: String,
    pub node: String,
    pub zone: String,
    /// Version that it applies; 0 for none that we know of.
    pub version: u64,
    /// Its last refusal, until it applies something in place of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ProxyRefusal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRefusal {
    /// Of the policy, when that is what was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    pub resources: Vec<String>,
    pub reason: String,
}

/// `POST /v1/policy/explain`: a request (or a connection, without a method), in the words of an example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub request: Example,
    /// Absent: the active version.
    #[serde(default)]
    pub version: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub version: u64,
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// `GET /v1/policy/unused` (R51).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    pub version: u64,
    /// Since when uses are counted: a grant that is younger is counted since it stands in the bundle.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// False when no proxy counts connections: then nothing is said of edges.
    pub edges_counted: bool,
    #[serde(flatten)]
    pub grants: UnusedGrants,
}
