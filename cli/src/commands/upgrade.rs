//! `ringwall upgrade`: another process in the place of a service proxy, such as of a newer binary.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Args;

use super::StateArgs;
use crate::error::CliError;
use crate::output::say;
use crate::record::Record;
use crate::supervisor::{Outcome, Upgrade};

#[derive(Args, Clone, Debug)]
pub(super) struct UpgradeArgs {
    /// The component whose proxy is replaced
    component: String,
    #[command(flatten)]
    state: StateArgs,
}

/// Asks the supervisor, and waits until the old process has drained.
pub(super) fn run(args: &UpgradeArgs) -> Result<ExitCode, CliError> {
    let state = args.state.open()?;
    let running = Record::read(&state)?.filter(|record| record.supervisor().is_alive());
    if running.is_none() {
        return Err(CliError::NotRunning(state.root().to_path_buf()));
    }
    let path = state.supervisor_socket();
    let failed = |error| CliError::io("asking the supervisor at", &path, error);
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    let request = Upgrade {
        upgrade: args.component.clone(),
    };
    let request = serde_json::to_string(&request)
        .map_err(|error| CliError::internal("writing a request", error))?;
    stream
        .write_all(format!("{request}\n").as_bytes())
        .map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(failed)?;
    let outcome: Outcome = serde_json::from_str(&line)
        .map_err(|error| CliError::internal("reading the supervisor's answer", error))?;
    say(&outcome.said);
    Ok(if outcome.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
