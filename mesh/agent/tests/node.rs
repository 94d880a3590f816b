//! The agent as a process, with the real control plane, real processes in real cgroups, and the
//! clients that others use.
//!
//! With `--client …` this binary is a process that calls the agent; without, it is the tests, which
//! place such processes. Needs root, to make cgroups. Read next: `node/stack.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test; the lint's own exception knows `#[test]` only"
)]

#[path = "node/attestation.rs"]
mod attestation;
#[path = "node/cgroup.rs"]
mod cgroup;
#[path = "node/client.rs"]
mod client;
#[path = "node/clients.rs"]
mod clients;
#[path = "node/envoy.rs"]
mod envoy;
#[path = "node/life.rs"]
mod life;
#[path = "node/privileges.rs"]
mod privileges;
#[path = "node/python.rs"]
mod python;
#[path = "node/stack.rs"]
mod stack;
#[path = "node/tools.rs"]
mod tools;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    ringwall_tls::install_crypto_provider();
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--client") {
        return client::main(&arguments[at + 1..]);
    }
    let tests = [
        life::TESTS,
        attestation::TESTS,
        clients::TESTS,
        privileges::TESTS,
        python::TESTS,
        envoy::TESTS,
    ];
    // A failed test panics, as everywhere.
    let trials = tests.concat().into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// A test by its name.
pub(crate) type Test = (&'static str, fn());
