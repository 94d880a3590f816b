//! Format and lints: rustfmt, clippy, layers, licences and bans, unused dependencies, image definitions.

mod manifests;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::config::Config;
use crate::engine::Engine;
use crate::plan::{Plan, Step};
use crate::process::{output, run, say};
use crate::setup::tools::{self, Tool};
use crate::setup::wheels;
use crate::wasm;

/// What is compiled for other machines than this one, or with other flags, has lock files, thus workspaces, of its own.
const OWN_WORKSPACES: [&str; 4] = [
    "ebpf/programs",
    FUZZ,
    wasm::WORKSPACES[0],
    wasm::WORKSPACES[1],
];

const FUZZ: &str = "plugins/host/fuzz";

/// Formats the sources, or only checks them.
pub(crate) fn fmt(config: &Config, check: bool) -> Result<()> {
    run(&mut fmt_command(config, check))?;
    for folder in OWN_WORKSPACES {
        run(&mut fmt_of(config, folder, check))?;
    }
    Ok(())
}

/// Runs every lint, even after one has failed, and says which did.
pub(crate) fn run_all(config: &Config, plan: &mut Plan) {
    plan.step(Step::command("format", || Ok(fmt_command(config, true))));
    plan.step(Step::check("format, own workspaces", || {
        let formatted = OWN_WORKSPACES
            .iter()
            .map(|folder| run(&mut fmt_of(config, folder, true)));
        let complaints = formatted.filter_map(Result::err);
        Ok(complaints.map(|error| format!("{error:#}")).collect())
    }));
    plan.step(Step::check("lock files, own workspaces", || {
        let looked = OWN_WORKSPACES
            .iter()
            .map(|folder| output(&mut locked(config, folder)));
        let complaints = looked.filter_map(Result::err);
        Ok(complaints.map(|error| format!("{error:#}")).collect())
    }));
    // The scenarios are no target of `--all-targets`: they need a built platform.
    let everything = ["--all-targets", "--test", "e2e"];
    plan.step(Step::command("clippy", move || {
        Ok(clippy(config, &everything))
    }));
    plan.step(Step::check("clippy, wasm filters", || {
        let linted = wasm::WORKSPACES
            .iter()
            .map(|folder| run(&mut clippy_of(config, folder)));
        let complaints = linted.filter_map(Result::err);
        Ok(complaints.map(|error| format!("{error:#}")).collect())
    }));
    plan.step(Step::command("clippy, fuzz targets", || {
        Ok(clippy_of_fuzz(config))
    }));
    plan.step(Step::check("layers", || crate::layers::check(config)));
    plan.step(Step::command("licences and bans", || {
        deny(config, &["bans", "licenses", "sources"])
    }));
    advisories(config, plan);
    plan.step(Step::command("unused dependencies", || machete(config)));
    plan.step(Step::command("image lint", || hadolint(config)));
}

/// `cargo xtask lint-images`.
pub(crate) fn run_lint_images(config: &Config) -> Result<ExitCode> {
    run(&mut hadolint(config)?).map(|()| ExitCode::SUCCESS)
}

/// `cargo xtask check-compose`.
pub(crate) fn run_check_compose(config: &Config) -> Result<ExitCode> {
    let engine = Engine::ensure(config)?;
    let mut plan = Plan::default();
    plan.step(Step::check("base images", || {
        crate::images::base::ensure(config, &engine).map(|()| Vec::new())
    }));
    compose(config, &engine, &mut plan);
    engine.end()?;
    Ok(plan.summary())
}

/// What only an engine or its compose plugin can check.
pub(crate) fn compose(config: &Config, engine: &Engine, plan: &mut Plan) {
    for check in manifests::CHECKS {
        plan.step(Step::command(check.name, || {
            Ok(check.command(config, engine))
        }));
    }
}

/// Every Dockerfile that git knows of or is about to.
fn hadolint(config: &Config) -> Result<Command> {
    let mut list = Command::new("git");
    list.current_dir(&config.root);
    list.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*Dockerfile*",
    ]);
    let files = output(&mut list)?;
    let mut command = Command::new(wheels::HADOLINT.ensure(config)?);
    command.current_dir(&config.root).args(files.lines());
    Ok(command)
}

/// `cargo xtask lint`.
pub(crate) fn run_lint(config: &Config) -> ExitCode {
    let mut plan = Plan::default();
    run_all(config, &mut plan);
    plan.summary()
}

fn fmt_command(config: &Config, check: bool) -> Command {
    let mut command = cargo(config, &["fmt", "--all"]);
    if check {
        command.arg("--check");
    }
    command
}

fn fmt_of(config: &Config, folder: &str, check: bool) -> Command {
    let mut command = fmt_command(config, check);
    command.current_dir(config.root.join(folder));
    command
}

/// What fails where a lock file lags behind its manifests: a change in this workspace is seen in the others only when they are
/// built.
fn locked(config: &Config, folder: &str) -> Command {
    let mut command = cargo(config, &["metadata", "--locked", "--format-version=1"]);
    command.current_dir(config.root.join(folder));
    command
}

/// For this machine, with the sources that are for guests alone left out by the compiler.
fn clippy_of(config: &Config, folder: &str) -> Command {
    let mut command = clippy(config, &["--all-targets"]);
    command
        .current_dir(config.root.join(folder))
        .env("CARGO_TARGET_DIR", wasm::target(config));
    command
}

/// Without the fuzzer's instrumentation: what the other lints have checked of the same crates is found there.
fn clippy_of_fuzz(config: &Config) -> Command {
    let mut command = clippy(config, &["--bins"]);
    command
        .current_dir(config.root.join(FUZZ))
        .env("CARGO_TARGET_DIR", &config.target);
    command
}

fn clippy(config: &Config, targets: &[&str]) -> Command {
    let before = ["clippy", "--workspace", "--locked"];
    let after = ["--", "-D", "warnings"];
    cargo(config, &[&before[..], targets, &after].concat())
}

fn deny(config: &Config, checks: &[&str]) -> Result<Command> {
    let binary = tools::ensure(config, Tool::Deny)?;
    let mut command = Command::new(binary);
    command
        .current_dir(&config.root)
        .args(["--locked", "check", "--hide-inclusion-graph"]);
    command.args(checks);
    Ok(command)
}

/// Advisories need the advisory database, thus the network: without it the step is told as skipped.
fn advisories(config: &Config, plan: &mut Plan) {
    if !tools::reachable("github.com", 443) {
        say("  advisories: skipped, the advisory database (github.com) is not reachable");
        return;
    }
    plan.step(Step::command("advisories", || {
        deny(config, &["advisories"])
    }));
}

fn machete(config: &Config) -> Result<Command> {
    let binary = tools::ensure(config, Tool::Machete)?;
    let mut command = Command::new(binary);
    command.current_dir(&config.root);
    Ok(command)
}

fn cargo(config: &Config, arguments: &[&str]) -> Command {
    let mut command = Command::new(&config.cargo);
    command.current_dir(&config.root).args(arguments);
    command
}
