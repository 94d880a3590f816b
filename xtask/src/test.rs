//! `cargo xtask test`: every check and every test, one summary.
//!
//! Each step runs even when an earlier one has failed. The table of steps goes to stderr; the last
//! line on stdout is `N passed, N failed`: tests as counted by their `test result:` lines, and each
//! other step as one.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::build::{self, Profile};
use crate::commands::{E2eArgs, Purpose, Stack};
use crate::config::Config;
use crate::engine::Engine;
use crate::images::{self, Component};
use crate::plan::{Plan, Step};
use crate::process::print;
use crate::{ebpf, lint, setup, wasm};

/// Runs everything.
pub(crate) fn run(config: &Config) -> Result<ExitCode> {
    let mut plan = Plan::default();
    plan.step(Step::check("setup", || {
        setup::run(config, Purpose::Test)?;
        Ok(Vec::new())
    }));
    lint::run_all(config, &mut plan);
    plan.step(Step::command("web application", || {
        setup::check_web(config)
    }));
    // Before the tests: those of the loader take the object from the build output.
    plan.step(Step::check("kernel programs", || {
        ebpf::build(config).map(|_| Vec::new())
    }));
    // Likewise: those of the plugins take the modules from there.
    plan.step(Step::check("wasm filters", || {
        wasm::build(config).map(|_| Vec::new())
    }));
    plan.step(Step::tests("wasm filters, natively", || {
        Ok(wasm::native_tests(config))
    }));
    let built = plan.step(Step::command("build", || Ok(build::workspace(config))));
    plan.step(Step::tests("tests", || {
        Ok(cargo(
            config,
            &["test", "--workspace", "--no-fail-fast", "--locked"],
        ))
    }));
    if built {
        plan.step(Step::tests("end to end", || {
            Ok(e2e_command(config, Stack::Native, None))
        }));
        containers(config, &mut plan);
    } else {
        plan.failed_without_running("end to end");
        plan.failed_without_running("end to end, containers");
    }
    let code = plan.summary();
    let (passed, failed) = plan.totals();
    print(&format!("{passed} passed, {failed} failed"))?;
    Ok(code)
}

/// Everything that needs a container engine: one for all of it.
fn containers(config: &Config, plan: &mut Plan) {
    let mut engine = None;
    let mut components = Vec::new();
    plan.step(Step::check("engine", || {
        components = Component::all(config)?;
        engine = Some(Engine::ensure(config)?);
        Ok(Vec::new())
    }));
    let Some(engine) = engine else {
        plan.failed_without_running("end to end, containers");
        return;
    };
    plan.step(Step::check("base images", || {
        images::base::ensure(config, &engine).map(|()| Vec::new())
    }));
    lint::compose(config, &engine, plan);
    let packed = plan.step(Step::check("images", || {
        images::make(config, &engine, &components, Profile::Dev, images::TEST_TAG)?;
        images::check::packing(config, &engine, &components, Profile::Dev)
    }));
    plan.step(Step::check("bills of materials", || {
        images::sbom::write(config, &components)
    }));
    if packed {
        plan.step(Step::tests("end to end, containers", || {
            Ok(on(&engine, e2e_command(config, Stack::Containers, None)))
        }));
    } else {
        plan.failed_without_running("end to end, containers");
    }
    plan.step(Step::check("end of the engine", || {
        engine.end().map(|()| Vec::new())
    }));
}

/// Builds, then runs the end-to-end suite or a part of it, with its output shown.
pub(crate) fn e2e(config: &Config, args: &E2eArgs) -> Result<ExitCode> {
    setup::run(config, Purpose::Test)?;
    ebpf::build(config)?;
    wasm::build(config)?;
    crate::process::run(&mut build::workspace(config))?;
    let command = e2e_command(config, args.stack, args.scenario.as_deref());
    let success = match args.stack {
        Stack::Native => shown(command)?,
        Stack::Containers => {
            let engine = Engine::ensure(config)?;
            let done = e2e_in_containers(config, &engine, command);
            engine.end()?;
            done?
        }
    };
    Ok(if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn e2e_in_containers(config: &Config, engine: &Engine, command: Command) -> Result<bool> {
    images::base::ensure(config, engine)?;
    let components = Component::all(config)?;
    images::make(config, engine, &components, Profile::Dev, images::TEST_TAG)?;
    shown(on(engine, command))
}

fn shown(mut command: Command) -> Result<bool> {
    Ok(command.status()?.success())
}

/// The engine and the images under test, in the command's environment.
fn on(engine: &Engine, mut command: Command) -> Command {
    command
        .envs(engine.environment())
        .env("RINGWALL_TAG", images::TEST_TAG);
    command
}

/// The whole workspace is named, as in the other steps: with another selection of packages cargo
/// would build the heavy dependencies once more, with other features.
fn e2e_command(config: &Config, stack: Stack, scenario: Option<&str>) -> Command {
    let mut command = cargo(
        config,
        &["test", "--workspace", "--test", "e2e", "--locked", "--"],
    );
    command.args(["--stack", stack.name()]).args(scenario);
    command
}

fn cargo(config: &Config, arguments: &[&str]) -> Command {
    let mut command = Command::new(&config.cargo);
    command.current_dir(&config.root).args(arguments);
    command
}
