//! `ringwall down`: the supervisor stops in order; what an ended supervisor left is ended here.

use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::CliError;
use crate::output::say;
use crate::postgres;
use crate::processes::ProcessId;
use crate::record::Record;
use crate::state::StateDir;

/// The supervisor stops in steps, each with a drain of its own.
const PATIENCE: Duration = Duration::from_secs(90);
/// For a component without a supervisor.
const GRACE: Duration = Duration::from_secs(15);

/// Stops the platform; nothing to stop is success as well.
pub(super) fn run(state: &StateDir) -> Result<ExitCode, CliError> {
    let Some(record) = Record::read(state)? else {
        if postgres::end_leftover(state)? {
            say("stopped a PostgreSQL server that was left over");
        } else {
            say("Ringwall does not run");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let supervisor = record.supervisor();
    if signal(supervisor, Signal::SIGTERM)? {
        say(&format!("stopping (pid {})", supervisor.pid));
        if !supervisor.wait_for_end(PATIENCE) {
            say("warning: the supervisor does not end: killed");
            signal(supervisor, Signal::SIGKILL)?;
            supervisor.wait_for_end(GRACE);
        }
    }
    end_leftovers(state)?;
    say("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Ends the components of a supervisor that is gone. The caller must know that it is.
pub(super) fn end_leftovers(state: &StateDir) -> Result<(), CliError> {
    if let Some(record) = Record::read(state)? {
        let left: Vec<(String, ProcessId)> = record
            .components
            .iter()
            // A database has no admin listener and is ended by its own pid file below.
            .filter(|component| component.admin.is_some())
            .filter_map(|component| Some((component.name.clone(), component.process()?)))
            .filter(|(_, process)| process.is_alive())
            .collect();
        for (name, process) in &left {
            say(&format!(
                "ending {name} (pid {}), left over by an earlier start",
                process.pid
            ));
            signal(*process, Signal::SIGTERM)?;
        }
        for (_, process) in &left {
            if !process.wait_for_end(GRACE) {
                signal(*process, Signal::SIGKILL)?;
                process.wait_for_end(GRACE);
            }
        }
    }
    if postgres::end_leftover(state)? {
        say("ended a PostgreSQL server that was left over by an earlier start");
    }
    match std::fs::remove_file(state.record()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::io("removing", &state.record(), error))
        }
        _ => Ok(()),
    }
}

fn signal(process: ProcessId, signal: Signal) -> Result<bool, CliError> {
    process.signal(signal).map_err(|source| CliError::Io {
        what: format!("stopping pid {}", process.pid),
        source,
    })
}
