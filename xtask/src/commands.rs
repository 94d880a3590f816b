//! The command line of `cargo xtask` and the dispatch to the module of each command.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::{bench, build, layers, lint, setup, test};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Set up, build, test and measure Ringwall",
    version
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing (system packages through apt) and build the web application
    Setup(SetupArgs),
    /// Set up, build in release mode and start the platform; further arguments go to `ringwall up`
    Up(PassedOn),
    /// Stop the platform; further arguments go to `ringwall down`
    Down(PassedOn),
    /// Everything that CI runs: format, lints, layers, licences, all tests, the end-to-end suite
    Test,
    /// Format Rust sources
    Fmt {
        /// Only say what is not formatted
        #[arg(long)]
        check: bool,
    },
    /// clippy, layers, licences and bans, unused dependencies
    Lint,
    /// Check the dependency rules of ARCHITECTURE.md and the size ceilings
    CheckLayers,
    /// The end-to-end suite, or the scenarios whose name contains SCENARIO
    E2e {
        /// Part of a scenario's name
        scenario: Option<String>,
    },
    /// Measure: prints subject × case with median and spread
    Bench(bench::BenchArgs),
}

/// Which parts of the setup to make sure of.
#[derive(Args, Clone, Copy)]
pub(crate) struct SetupArgs {
    /// What the machine is to be able to do afterwards
    #[arg(long = "for", value_enum, default_value_t = Purpose::Run)]
    pub(crate) purpose: Purpose,
}

/// What a machine is set up for; each includes the ones before it, but for `Bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Build and start the platform
    Run,
    /// Also run the tests (a browser and its driver)
    Test,
    /// Also measure against other proxies
    Bench,
}

#[derive(Args)]
struct PassedOn {
    /// Arguments for `ringwall`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the command and gives the exit code of the process.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let config = Config::from_environment()?;
    match cli.command {
        Command::Setup(args) => setup::run(&config, args.purpose).map(|()| ExitCode::SUCCESS),
        Command::Up(passed) => {
            setup::run(&config, Purpose::Run)?;
            build::up(&config, &passed.arguments)
        }
        Command::Down(passed) => build::down(&config, &passed.arguments),
        Command::Test => test::run(&config),
        Command::Fmt { check } => lint::fmt(&config, check).map(|()| ExitCode::SUCCESS),
        Command::Lint => Ok(lint::run_lint(&config)),
        Command::CheckLayers => layers::run(&config),
        Command::E2e { scenario } => test::e2e(&config, scenario.as_deref()),
        Command::Bench(args) => bench::run(&config, &args),
    }
}
