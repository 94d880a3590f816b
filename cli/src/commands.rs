//! The command line of `ringwall`.
//!
//! Exit codes: 0 done (a second `up` included, which only says so) · 1 nothing runs, a check or a case
//! did not pass, or a plugin does not compile · 69 a component or a tool is missing or does not get
//! ready · 71 a port is taken · 73 something is there that would be overwritten · 74 a file cannot be
//! used · 75 somebody else has changed it meanwhile · 77 a privilege is missing · 78 a configuration, a
//! policy or a plugin is refused · 130 stopped before the platform was up.

mod cert;
mod check;
mod detach;
mod down;
mod hold;
mod launch;
mod logs;
mod observe;
mod plugin;
mod policy;
mod provision;
mod shield;
mod status;
mod tap;
mod token;
mod up;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::CliError;
use crate::state::StateDir;
use crate::{composition, config, output, ports};

#[derive(Parser)]
#[command(
    name = "ringwall",
    about = "Run and watch the Ringwall platform",
    version
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the platform and keep it running; Ctrl-C stops it
    Up(up::UpArgs),
    /// Stop the platform
    Down(StateArgs),
    /// Components with their health, or the demo's credentials
    Status(status::StatusArgs),
    /// What components print
    Logs(logs::LogsArgs),
    /// Requests and connections that pass through the proxies, with their verdicts
    Observe(observe::ObserveArgs),
    /// Headers of requests to and from a service, without their secrets
    Tap(tap::TapArgs),
    /// Whether this machine and the composition can be started
    Check(check::CheckArgs),
    /// Whom the kernel drops at the gateway's interface
    Shield(shield::ShieldArgs),
    /// Certificates in use, and taking them out of use
    Cert(cert::CertArgs),
    /// Who may ask what of whom: show, check, apply, roll back, explain
    Policy(policy::PolicyArgs),
    /// Write, build, test, try, sign and publish plugins (proxy-wasm)
    Plugin(plugin::PluginArgs),
    /// Join tokens for agents
    Token(token::TokenArgs),
    /// Replace the process of a service proxy on the same sockets; no connection is refused
    Upgrade(upgrade::UpgradeArgs),
    /// Join a control group, take over sockets and become another program
    #[command(hide = true)]
    Launch(launch::LaunchArgs),
    /// Keep a network for the containers that share it; runs in a container itself
    #[command(hide = true)]
    Hold,
    /// Make and renew what the components in containers read; runs in a container itself
    Provision(provision::ProvisionArgs),
}

/// Where the platform runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Stack {
    /// Processes of this machine (`ringwall up`)
    Native,
    /// Containers (`docker compose up`)
    Containers,
}

/// Where the state is.
#[derive(Args, Clone, Debug)]
struct StateArgs {
    /// State directory [default: $RINGWALL_STATE, for root and its owner /var/lib/ringwall, else
    /// $XDG_STATE_HOME/ringwall or ~/.local/state/ringwall]
    #[arg(long, value_name = "DIRECTORY", global = true)]
    state_dir: Option<PathBuf>,
}

/// Which composition, on which ports.
#[derive(Args, Clone, Debug)]
struct CompositionArgs {
    /// The composition [default: ringwall.yaml here, else the one that is built in]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Demo identities, or none
    #[arg(long, value_enum, default_value_t)]
    profile: composition::Profile,
    /// Folder of the components' binaries [default: beside this one]
    #[arg(long, value_name = "DIRECTORY")]
    bin_dir: Option<PathBuf>,
    /// Folder of the built web application [default: `web` beside the binaries, else
    /// `spa-proxy/web/dist` beside the composition]
    #[arg(long, value_name = "DIRECTORY")]
    web_dir: Option<PathBuf>,
    /// Folder of the built plugins [default: `plugins` beside the binaries, else `wasm` beside their folder]
    #[arg(long, value_name = "DIRECTORY")]
    plugins_dir: Option<PathBuf>,
    /// Add this to every port
    #[arg(long, value_name = "N", conflicts_with = "free_ports")]
    port_offset: Option<u16>,
    /// Port of the public listener
    #[arg(long, value_name = "PORT")]
    public_port: Option<u16>,
    /// Choose free ports for everything
    #[arg(long)]
    free_ports: bool,
}

impl StateArgs {
    fn open(&self) -> Result<StateDir, CliError> {
        config::state_directory(self.state_dir.as_deref()).map(StateDir::new)
    }
}

impl CompositionArgs {
    /// Reads the composition and moves its ports; gives its text for messages as well.
    fn load(&self) -> Result<(composition::Composition, config::Source), CliError> {
        let source = config::composition(self.file.as_deref())?;
        let mut composition = composition::Composition::read(&source)?;
        ports::drop_absent_addresses(&mut composition);
        if self.free_ports {
            ports::choose_free(&mut composition)?;
        } else if let Some(offset) = self.port_offset {
            composition.renumber(|port| port.saturating_add(offset));
        }
        if let Some(port) = self.public_port {
            composition.public.port.value = port;
        }
        let (given, binaries) = (self.web_dir.as_deref(), self.bin_dir.as_deref());
        composition.web = config::web(given, binaries, self.file.as_deref())?;
        composition.plugins = config::plugins(self.plugins_dir.as_deref(), binaries)?;
        composition.policy = config::policy(self.file.as_deref(), &composition)?;
        Ok((composition, source))
    }
}

/// Runs a command.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Up(args) => up::run(&args),
        Command::Down(args) => down::run(&args.open()?),
        Command::Status(args) => status::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Observe(args) => observe::run(&args),
        Command::Tap(args) => tap::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Shield(args) => shield::run(&args),
        Command::Cert(args) => cert::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Plugin(args) => plugin::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Launch(args) => launch::run(&args),
        Command::Hold => hold::run(),
        Command::Provision(args) => provision::run(&args),
    }
}

/// A runtime for one command. One thread: we only wait.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Io {
            what: "starting the runtime".into(),
            source,
        })
}

/// Prints a value as JSON.
fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::internal("writing JSON", error))?;
    output::print(&text)
}
