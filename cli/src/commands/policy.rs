//! `ringwall policy`: what may be asked of whom, while the platform runs.
//!
//! Owns: the words of the command line. The control plane checks, keeps and pushes; a policy that it refuses changes
//! nothing. Read next: `policy/desk.rs` (its API), `policy/show.rs` (for people), `../policy_file.rs` (files).
//!
//! A version that somebody applies stands until the next one: also over a restart of the platform, as long as the policy
//! in its composition does not change.

mod desk;
mod question;
mod show;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use ringwall_policy::mesh::Bundle;
use ringwall_policy::mesh::administration::{
    Applied, CheckReport, Proposal, Rollback, VersionWithBundle,
};
use serde::Serialize;

use super::{StateArgs, print_json, runtime};
use crate::config::Source;
use crate::error::CliError;
use crate::output::{Format, print, say};
use crate::plane::Plane;
use crate::policy_file::{PolicyFile, Surroundings};
use desk::Desk;
use question::ExplainArgs;

/// Of standard input, in bytes: a bundle of 1 MiB with its cases, and what it is written with.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

#[derive(Args, Clone, Debug)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
    #[command(flatten)]
    state: StateArgs,
    /// How to print it
    #[arg(long, short, global = true, value_enum, default_value_t)]
    output: Format,
}

#[derive(Subcommand, Clone, Debug)]
enum PolicyCommand {
    /// The active policy, in a form that can be changed and applied
    Get {
        /// This version of it
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Whether a file would be accepted; exits with 1 if not
    Check {
        /// In the form of deploy/mesh/policy.yaml, or of `ringwall policy get`; `-` is standard input
        file: PathBuf,
    },
    /// What a file, or a version, would change
    Diff(DiffArgs),
    /// Make the content of a file the next version, and push it to all proxies
    Apply(ApplyArgs),
    /// Make a version of the past the next one
    Rollback {
        /// The version whose content is wanted again
        version: u64,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Why a request is allowed or denied; exits with 1 if it is denied
    Explain(ExplainArgs),
    /// Versions with their authors, the newest first
    History {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        /// Only versions before this one
        #[arg(long, value_name = "N")]
        before: Option<u64>,
    },
    /// Connections and permissions that nobody has used
    Unused,
    /// Which proxy applies which version, and what it refuses
    Proxies,
}

#[derive(Args, Clone, Debug)]
struct DiffArgs {
    /// A file, or `-` for standard input, against the active version
    #[arg(required_unless_present = "from", conflicts_with_all = ["from", "to"])]
    file: Option<PathBuf>,
    /// From this version
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// To this version [default: the active one]
    #[arg(long, value_name = "N", requires = "from")]
    to: Option<u64>,
    /// Exit with 1 when something differs
    #[arg(long)]
    exit_code: bool,
}

#[derive(Args, Clone, Debug)]
struct ApplyArgs {
    /// In the form of deploy/mesh/policy.yaml, or of `ringwall policy get`; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What every change says.
#[derive(Args, Clone, Debug)]
struct ChangeArgs {
    /// The version that it is made from: refused when another one is active by now [default: what the file says, else the
    /// active one]
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Why, for the history
    #[arg(long, default_value = "")]
    note: String,
    /// Who, for the history [default: the user of this session]
    #[arg(long)]
    author: Option<String>,
    /// How long to wait for the proxies, in seconds; exits with 1 when not all have it by then
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=60))]
    wait: u32,
}

impl ChangeArgs {
    fn wait(&self) -> Duration {
        Duration::from_secs(u64::from(self.wait))
    }

    fn author(&self) -> String {
        let author = self.author.clone();
        author.or_else(crate::config::user).unwrap_or_default()
    }
}

pub(super) fn run(args: &PolicyArgs) -> Result<ExitCode, CliError> {
    let plane = Plane::of(&args.state.open()?)?;
    let output = args.output;
    let done = async {
        let desk = Desk::at(&plane).await?;
        match &args.command {
            PolicyCommand::Get { version } => get(&desk, *version, output).await,
            PolicyCommand::Check { file } => check(&desk, file, output).await,
            PolicyCommand::Diff(args) => diff(&desk, args, output).await,
            PolicyCommand::Apply(args) => apply(&desk, args, output).await,
            PolicyCommand::Rollback { version, change } => {
                rollback(&desk, *version, change, output).await
            }
            PolicyCommand::Explain(args) => question::explain(&desk, args, output).await,
            PolicyCommand::History { limit, before } => {
                let history = desk.history(*limit, *before).await?;
                tell(output, &history, || show::history(&history))?;
                Ok(ExitCode::SUCCESS)
            }
            PolicyCommand::Unused => {
                let unused = desk.unused().await?;
                tell(output, &unused, || show::unused(&unused))?;
                Ok(ExitCode::SUCCESS)
            }
            PolicyCommand::Proxies => {
                let proxies = desk.proxies().await?;
                tell(output, &proxies, || show::proxies(&proxies))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    };
    runtime()?.block_on(Box::pin(done))
}

/// Prints a value as JSON, or as text for people.
fn tell<T: Serialize>(
    output: Format,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<(), CliError> {
    match output {
        Format::Json => {
            let json = serde_json::to_value(value);
            print_json(&json.map_err(|error| CliError::internal("writing JSON", error))?)
        }
        Format::Text => print(show::clean(&text()).trim_end()),
    }
}

const fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn get(desk: &Desk, version: Option<u64>, output: Format) -> Result<ExitCode, CliError> {
    let found = desk.version(version).await?;
    let text = show::yaml(&found)?;
    tell(output, &found, || text)?;
    Ok(ExitCode::SUCCESS)
}

/// A file, or standard input: in a container nobody else's files can be read.
fn text(path: &Path) -> Result<Source, CliError> {
    if path != Path::new("-") {
        let text = std::fs::read_to_string(path);
        return Ok(Source {
            name: path.display().to_string(),
            text: text.map_err(|source| CliError::io("reading", path, source))?,
        });
    }
    let mut text = String::new();
    let read = std::io::stdin()
        .take(LONGEST_FILE)
        .read_to_string(&mut text);
    read.map_err(|source| CliError::Io {
        what: "reading standard input".into(),
        source,
    })?;
    Ok(Source {
        name: "standard input".into(),
        text,
    })
}

/// Reads a file; what it does not say is as in the active version.
fn read(path: &Path, active: &VersionWithBundle) -> Result<PolicyFile, CliError> {
    let source = text(path)?;
    let around = Surroundings {
        edges: active.bundle.edges.clone(),
        services: active.bundle.services.clone(),
    };
    PolicyFile::any(&source, around)
}

fn proposal(bundle: Bundle) -> Proposal {
    Proposal {
        bundle,
        note: String::new(),
        author: String::new(),
    }
}

async fn check(desk: &Desk, path: &Path, output: Format) -> Result<ExitCode, CliError> {
    let file = read(path, &desk.version(None).await?)?;
    let report = desk.check(&proposal(file.bundle)).await?;
    tell(output, &report, || show::report(&report, &file.places))?;
    Ok(code(report.is_good()))
}

async fn diff(desk: &Desk, args: &DiffArgs, output: Format) -> Result<ExitCode, CliError> {
    let difference = match (&args.file, args.from) {
        (Some(path), _) => {
            let file = read(path, &desk.version(None).await?)?;
            let CheckReport { faults, diff, .. } = desk.check(&proposal(file.bundle)).await?;
            diff.ok_or_else(|| refusal(file.places.lines(&faults, &[])))?
        }
        (None, from) => desk.diff(from.unwrap_or(0), args.to).await?.diff,
    };
    tell(output, &difference, || show::diff(&difference))?;
    Ok(code(difference.is_empty() || !args.exit_code))
}

fn refusal(lines: Vec<String>) -> CliError {
    CliError::PolicyRefused {
        lines,
        fix: "correct these; the active version stays in force",
    }
}

async fn apply(desk: &Desk, args: &ApplyArgs, output: Format) -> Result<ExitCode, CliError> {
    let active = desk.version(None).await?;
    let file = read(&args.file, &active)?;
    let change = &args.change;
    let from = change.from.or(file.version);
    let from = from.unwrap_or(active.version.version);
    let proposal = Proposal {
        bundle: file.bundle,
        note: change.note.clone(),
        author: change.author(),
    };
    let applied = desk.apply(&proposal, from, change.wait()).await?;
    let applied = applied
        .map_err(|wrong| refusal(file.places.lines(&wrong.faults, &wrong.failed_examples)))?;
    for warning in &applied.warnings {
        say(&show::clean(&format!(
            "warning: {}",
            file.places.fault(warning)
        )));
    }
    told(&applied, change, output)
}

async fn rollback(
    desk: &Desk,
    to: u64,
    change: &ChangeArgs,
    output: Format,
) -> Result<ExitCode, CliError> {
    let from = match change.from {
        Some(from) => from,
        None => desk.version(None).await?.version.version,
    };
    let rollback = Rollback {
        to,
        note: change.note.clone(),
        author: change.author(),
    };
    let applied = desk.rollback(&rollback, from, change.wait()).await?;
    let applied = applied.map_err(|wrong| {
        let faults = wrong.faults.iter().map(ToString::to_string);
        let failed = wrong.failed_examples.iter().map(ToString::to_string);
        CliError::PolicyRefused {
            lines: faults.chain(failed).collect(),
            fix: "services have changed since that version: apply a corrected file instead",
        }
    })?;
    told(&applied, change, output)
}

/// Says what a change has done, and fails when proxies that were waited for do not have it.
fn told(applied: &Applied, change: &ChangeArgs, output: Format) -> Result<ExitCode, CliError> {
    tell(output, applied, || show::applied(applied))?;
    let spread = &applied.proxies;
    let whole = spread.pending.is_empty() && spread.refused.is_empty();
    Ok(code(whole || change.wait == 0))
}
