//! `ringwall status`: every component asked just now, of the stack that runs.
//!
//! Owns: which stack is meant, and the one table for both. Read next: `status/native.rs`,
//! `status/containers.rs`, `status/credentials.rs`; `status/welcome.rs` greets after `up`.

mod containers;
mod credentials;
mod native;
mod welcome;

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Stack, StateArgs, print_json};
use crate::engine::Project;
use crate::error::CliError;
use crate::output::{Format, ago, print, table};
use crate::state::StateDir;

pub(super) use welcome::welcome;

const READY: &str = "ready";

#[derive(Args, Clone, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Which stack [default: the one that runs, `native` before `containers`]
    #[arg(long, value_enum)]
    stack: Option<Stack>,
    /// Compose project of the containers
    #[arg(long, value_name = "NAME", default_value = "ringwall")]
    project: String,
    /// Users and clients of the demo with their secrets
    #[arg(long)]
    credentials: bool,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// One line of the table.
struct Row {
    name: String,
    address: String,
    /// `ready`, or what is wrong.
    health: String,
    /// 0 when nothing runs.
    pid: i32,
    memory_kib: Option<u64>,
    restarts: u32,
    since: OffsetDateTime,
}

/// A stack as it was just seen.
struct Report {
    stack: String,
    url: String,
    rows: Vec<Row>,
    json: Value,
}

/// Asks and prints; exit code 1 when nothing runs or a component is not ready.
pub(super) fn run(args: &StatusArgs) -> Result<ExitCode, CliError> {
    let state = args.state.open()?;
    let project = Project {
        name: &args.project,
    };
    let found = find(args, &state, &project)?;
    if args.credentials {
        return match &found {
            Some(Found::Containers(containers)) => {
                let provisioner = containers::provisioner(&project, containers)?;
                credentials::containers(args, &project, provisioner)
            }
            // Sealed files tell of a platform that does not run as well.
            Some(Found::Native(_)) | None => credentials::native(args, &state),
        };
    }
    let report = match found {
        Some(Found::Native(record)) => native::report(&record, &state)?,
        Some(Found::Containers(containers)) => containers::report(&project, &containers)?,
        None => return Err(CliError::NotRunning(state.root().to_path_buf())),
    };
    match args.output {
        Format::Json => print_json(&report.json)?,
        Format::Text => print(&report.text())?,
    }
    Ok(if report.rows.iter().all(|row| row.health == READY) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

enum Found {
    Native(Box<crate::record::Record>),
    Containers(containers::Containers),
}

/// The stack that was asked for, else the one that runs.
fn find(
    args: &StatusArgs,
    state: &StateDir,
    project: &Project<'_>,
) -> Result<Option<Found>, CliError> {
    if args.stack != Some(Stack::Containers)
        && let Some(record) = native::running(state)?
    {
        return Ok(Some(Found::Native(Box::new(record))));
    }
    match args.stack {
        Some(Stack::Native) => Ok(None),
        Some(Stack::Containers) => Ok(containers::running(project)?.map(Found::Containers)),
        // Nobody has asked for containers: a machine without an engine has none.
        None => {
            let running = containers::running(project).unwrap_or_default();
            Ok(running.map(Found::Containers))
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let now = OffsetDateTime::now_utc();
        let rows: Vec<[String; 7]> = self.rows.iter().map(|row| row.cells(now)).collect();
        let head = [
            "component",
            "address",
            "health",
            "pid",
            "memory",
            "restarts",
            "since",
        ];
        format!("{}\n\n{} ({})", table(head, &rows), self.url, self.stack)
    }
}

impl Row {
    /// A component without a container.
    fn absent(name: String, address: String) -> Self {
        Self {
            name,
            address,
            health: "absent".into(),
            pid: 0,
            memory_kib: None,
            restarts: 0,
            since: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn cells(&self, now: OffsetDateTime) -> [String; 7] {
        let runs = self.pid > 0;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let memory = self
            .memory_kib
            .map(|kib| format!("{:.1} MiB", kib as f64 / 1024.0));
        [
            self.name.clone(),
            self.address.clone(),
            self.health.clone(),
            or_dash(runs.then(|| self.pid.to_string())),
            or_dash(memory),
            self.restarts.to_string(),
            or_dash(runs.then(|| ago((now - self.since).whole_seconds()))),
        ]
    }

    fn since_text(&self) -> Option<String> {
        self.since.format(&Rfc3339).ok()
    }
}
