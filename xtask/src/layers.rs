//! `cargo xtask check-layers`: the dependency rules of the workspace and the size ceilings.
//!
//! `metadata.rs` reads what cargo knows, `rules.rs` judges the dependency graph, `sources.rs` the
//! files. Every violation is one line that names the place, the rule and the way out.

pub(crate) mod metadata;
mod rules;
mod sources;

use std::process::ExitCode;

use anyhow::Result;

use crate::config::Config;
use crate::process::say;
use metadata::Metadata;

/// Runs every rule, prints the violations and fails when there are any.
pub(crate) fn run(config: &Config) -> Result<ExitCode> {
    let violations = check(config)?;
    for violation in &violations {
        say(violation);
    }
    if violations.is_empty() {
        say("layers: every rule holds");
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("layers: {} violations", violations.len()));
    Ok(ExitCode::FAILURE)
}

/// Every violation of every rule.
pub(crate) fn check(config: &Config) -> Result<Vec<String>> {
    let metadata = Metadata::load(config)?;
    let mut violations = rules::check(&metadata);
    violations.extend(sources::check(&config.root, &metadata)?);
    Ok(violations)
}
