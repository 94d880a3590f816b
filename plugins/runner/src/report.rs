//! What came of a case, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ringwall_plugin_cases::Difference;
use serde::{Serialize, Serializer};

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    pub name: String,
    /// Where it stands in `cases.yaml`.
    pub line: u64,
    pub passed: bool,
    /// Everything that was not as expected.
    pub problems: Vec<Problem>,
    pub measured: Measured,
    /// What the plugin has logged.
    pub log: Vec<String>,
}

/// Something that was not as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Of the steps, from 1.
    pub step: Option<usize>,
    /// Such as `client.status`.
    pub place: String,
    pub expected: String,
    pub seen: String,
}

/// What a case has cost.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measured {
    pub callbacks: u64,
    /// Of all callbacks.
    #[serde(rename = "processor_time_us", serialize_with = "microseconds")]
    pub processor_time: Duration,
    /// Of the one that took the most.
    #[serde(rename = "longest_callback_us", serialize_with = "microseconds")]
    pub longest_callback: Duration,
    /// From each request to its answer, without what the case waits between them.
    #[serde(rename = "wall_us", serialize_with = "microseconds")]
    pub wall: Duration,
    /// The most that an instance had, in bytes.
    #[serde(rename = "memory_bytes")]
    pub memory: u64,
    /// By name.
    pub host_calls: BTreeMap<&'static str, Calls>,
    /// How the plugin has failed, where it has: a trap, out of time, too many host calls.
    pub failures: Vec<String>,
    /// What was asked for and is not declared, or beyond a limit.
    pub refusals: BTreeMap<String, u64>,
}

/// The calls of one host function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    pub count: u64,
    pub refused: u64,
}

impl Problem {
    pub(crate) fn of(step: usize, difference: Difference) -> Self {
        Self {
            step: Some(step),
            place: difference.place,
            expected: difference.expected,
            seen: difference.seen,
        }
    }

    pub(crate) fn new(place: &str, expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            step: None,
            place: place.to_owned(),
            expected: expected.into(),
            seen: seen.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step) = self.step {
            write!(formatter, "step {step}: ")?;
        }
        let Self {
            place,
            expected,
            seen,
            ..
        } = self;
        write!(
            formatter,
            "{place}\n    expected {expected}\n    seen     {seen}"
        )
    }
}

fn microseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
