//! Why policies were not loaded.
//!
//! Owns: the error type. Read next: `compile.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::mesh::FailedExample;

/// Policies are loaded whole or not at all.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// One or more policies are wrong; all faults that were found.
    #[error("{}", lines(.0))]
    Policies(Vec<Fault>),
    /// A declared action has a name that Ringwall does not accept.
    #[error("action {name:?} is refused: {rule}")]
    Action {
        /// The declared name.
        name: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The schema with the declared actions could not be built.
    #[error("the policy schema is not usable: {0}")]
    Schema(String),
    /// Cases that a mesh bundle carries do not hold; all of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Examples(Vec<FailedExample>),
}

impl PolicyError {
    /// The faults by file and line; empty when the fault is not in a policy.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Policies(faults) => faults,
            Self::Action { .. } | Self::Schema(_) | Self::Examples(_) => &[],
        }
    }
}

/// One fault of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Name of the [`crate::PolicySource`].
    pub file: String,
    /// Line in its text, from 1.
    pub line: usize,
    /// What is wrong and, where known, the fix.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

fn lines(faults: &[Fault]) -> String {
    faults
        .iter()
        .map(Fault::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
