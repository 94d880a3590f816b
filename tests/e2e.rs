//! The end-to-end scenarios: ONE binary that starts the platform once, attacks it, and stops it.
//!
//! Read [`scenarios::all`] for what is proven, and `harness/` for the clients. A scenario that stops
//! or kills a component declares itself `alone`; all others run beside each other.
//! `cargo xtask e2e NAME` runs those whose name contains NAME.

#![allow(
    clippy::indexing_slicing,
    reason = "serde_json answers null to an unknown key; it does not panic"
)]

mod scenarios;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use e2e::stack::{Stack, StackInfo};
use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::RwLock;

use crate::scenarios::{Company, Scenario};

fn main() -> ExitCode {
    ringwall_tls::install_crypto_provider();
    let arguments = Arguments::from_args();
    let scenarios = scenarios::all();
    if arguments.list {
        let trials = scenarios
            .into_iter()
            .map(|scenario| Trial::test(scenario.name, || Ok(())));
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    match run(&arguments, scenarios) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, scenarios: Vec<Scenario>) -> Result<ExitCode> {
    eprintln!("starting the platform under test");
    let mut stack = Stack::start()?;
    let info = Arc::new(stack.info.clone());
    let gate = Arc::new(RwLock::new(()));
    let trials = scenarios.into_iter().map(|scenario| {
        let (info, gate) = (Arc::clone(&info), Arc::clone(&gate));
        Trial::test(scenario.name, move || play(&scenario, info, &gate))
    });
    let conclusion = libtest_mimic::run(arguments, trials.collect());
    if conclusion.has_failed() {
        eprintln!(
            "the platform's state and logs are kept in {}",
            stack.keep_state().display()
        );
    }
    stack.stop()?;
    Ok(conclusion.exit_code())
}

/// Runs one scenario, with company or alone as it declares.
fn play(scenario: &Scenario, stack: Arc<StackInfo>, gate: &RwLock<()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = match scenario.company {
        Company::Others => {
            let _others = gate.read();
            runtime.block_on((scenario.play)(stack))
        }
        Company::Alone => {
            let _alone = gate.write();
            runtime.block_on((scenario.play)(stack))
        }
    };
    outcome.map_err(|error| Failed::from(format!("{error:#}")))
}
