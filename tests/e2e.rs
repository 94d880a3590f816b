//! The end-to-end scenarios: ONE binary that starts the platform once, attacks it, and stops it.
//!
//! Read [`scenarios::all`] for what is proven, and `harness/` for the clients. A scenario that stops
//! or kills a component declares itself `Alone`; all others run beside each other.
//! `--stack native|containers` chooses the platform; `cargo xtask e2e NAME` runs the scenarios whose
//! name contains NAME. In containers only the components that the chosen scenarios need are started.

#![allow(
    clippy::indexing_slicing,
    reason = "serde_json answers null to an unknown key; it does not panic"
)]

mod scenarios;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use e2e::stack::{Kind, Stack, StackInfo, cleanup};
use e2e::{journal, options};
use futures_util::FutureExt as _;
use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::RwLock;

use crate::scenarios::{Company, Scenario};

fn main() -> ExitCode {
    ringwall_tls::install_crypto_provider();
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode> {
    let (kind, rest) = options::stack_and_rest(std::env::args())?;
    let arguments = Arguments::from_iter(rest);
    let scenarios = scenarios::all();
    if arguments.list {
        let trials = scenarios
            .into_iter()
            .map(|scenario| Trial::test(scenario.name, || Ok(())));
        return Ok(libtest_mimic::run(&arguments, trials.collect()).exit_code());
    }
    cleanup::on_signals()?;
    run(kind, &arguments, scenarios)
}

fn run(kind: Kind, arguments: &Arguments, scenarios: Vec<Scenario>) -> Result<ExitCode> {
    let (chosen, others): (Vec<_>, Vec<_>) = scenarios
        .into_iter()
        .filter(|scenario| is_chosen(arguments, scenario.name))
        .partition(|scenario| scenario.stacks.include(kind));
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|scenario| scenario.name).collect();
        eprintln!("not for this stack: {}", names.join(", "));
    }
    ensure!(
        !chosen.is_empty(),
        "no scenario of this stack has such a name"
    );
    let needs: BTreeSet<&str> = chosen
        .iter()
        .filter(|scenario| !matches!(scenario.company, Company::OwnStack))
        .flat_map(|scenario| scenario.needs.iter().copied())
        .collect();
    let needs: Vec<&str> = needs.into_iter().collect();
    let mut stack = None;
    if !needs.is_empty() {
        eprintln!("starting the platform under test");
        stack = Some(Stack::start(kind, &needs)?);
    }
    let shared = stack.as_ref().map(|stack| Arc::new(stack.info.clone()));
    let gate = Arc::new(RwLock::new(()));
    let trials = chosen.into_iter().map(|scenario| {
        let (shared, gate) = (shared.clone(), Arc::clone(&gate));
        Trial::test(scenario.name, move || play(kind, &scenario, shared, &gate))
    });
    let conclusion = libtest_mimic::run(arguments, trials.collect());
    cleanup::yield_to_interrupt();
    if let Some(mut stack) = stack {
        if conclusion.has_failed() {
            eprintln!(
                "the platform's state is kept in {}",
                stack.keep_state().display()
            );
        }
        stack.stop()?;
    }
    cleanup::remove_labelled(std::process::id());
    Ok(conclusion.exit_code())
}

/// As libtest-mimic chooses, so that only what is needed is started.
fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| {
        if arguments.exact {
            name == filter
        } else {
            name.contains(filter.as_str())
        }
    };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

/// Runs one scenario, with company, alone, or on a platform of its own, as it declares.
fn play(
    kind: Kind,
    scenario: &Scenario,
    shared: Option<Arc<StackInfo>>,
    gate: &RwLock<()>,
) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let missing = "the shared platform was not started";
    match scenario.company {
        Company::Others => {
            let _others = gate.read();
            runtime.block_on(story(scenario, shared.ok_or(missing)?))
        }
        Company::Alone => {
            let _alone = gate.write();
            runtime.block_on(story(scenario, shared.ok_or(missing)?))
        }
        Company::OwnStack => {
            let _alone = gate.write();
            let stack = Stack::start(kind, scenario.needs)
                .map_err(|error| Failed::from(format!("{error:#}")))?;
            let outcome = runtime.block_on(story(scenario, Arc::new(stack.info.clone())));
            let stopped = stack
                .stop()
                .map_err(|error| Failed::from(format!("{error:#}")));
            outcome.and(stopped)
        }
    }
}

/// Plays it; a failure brings the trace and the logs of the components that it needs.
async fn story(scenario: &Scenario, stack: Arc<StackInfo>) -> Result<(), Failed> {
    journal::forget();
    let since = stack.log_mark();
    let playing = AssertUnwindSafe((scenario.play)(Arc::clone(&stack))).catch_unwind();
    let complaint = match playing.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_else(|| "panicked".to_owned()),
    };
    // The whole report comes at the end of the run, which may be minutes away.
    eprintln!("{}: {complaint}", scenario.name);
    let report = journal::of_failure(&stack, scenario.needs, &since).await;
    Err(Failed::from(format!("{complaint}\n{report}")))
}
