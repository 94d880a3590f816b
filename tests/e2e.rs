//! The end-to-end scenarios: ONE binary that starts the platform once, attacks it, and stops it.
//!
//! Read [`scenarios::all`] for what is proven, and `harness/` for the clients. A scenario that stops
//! or kills a component declares itself `Alone`; all others run beside each other. In containers, where
//! much of such a scenario is waiting, these have platforms of their own and several run at once.
//! `--stack native|containers` chooses the platform; `cargo xtask e2e NAME` runs the scenarios whose
//! name contains NAME. In containers only the components that the chosen scenarios need are started.

#![allow(
    clippy::indexing_slicing,
    reason = "serde_json answers null to an unknown key; it does not panic"
)]

mod floor;
mod scenarios;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use e2e::stack::{Kind, StackInfo, cleanup};
use e2e::{journal, options};
use futures_util::FutureExt as _;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::floor::Floor;
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
    let floor = Arc::new(Floor::start(kind, &chosen)?);
    let trials = floor.order(chosen).into_iter().map(|scenario| {
        let floor = Arc::clone(&floor);
        Trial::test(scenario.name, move || play(&scenario, &floor))
    });
    let mut arguments = arguments.clone();
    arguments.test_threads = arguments.test_threads.or_else(|| floor.threads());
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    cleanup::yield_to_interrupt();
    let floor = Arc::into_inner(floor).context("a scenario has outlived the run")?;
    floor.stop(conclusion.has_failed())?;
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
fn play(scenario: &Scenario, floor: &Floor) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let on = |stack: Arc<StackInfo>| runtime.block_on(story(scenario, stack));
    let outcome = match scenario.company {
        Company::Others => floor.with_company(on),
        Company::Alone => floor.alone(on),
        Company::Userspace => Floor::in_userspace(on),
        Company::Shielded => Floor::behind_a_shield(on),
        Company::OwnStack => floor.on_a_fresh_one(scenario.needs, on),
    };
    outcome.inspect_err(|failed| floor.note(scenario.name, failed))
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
