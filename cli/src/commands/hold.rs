//! `ringwall hold` (hidden): process 1 of a container whose network others share, as Kubernetes' pods have one. A
//! component and its service proxy both may end and start again; what they have in common must outlive both.
//!
//! Must not: do anything but wait.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

use crate::error::CliError;

/// Waits for the engine's signal.
pub(super) fn run() -> Result<ExitCode, CliError> {
    let failed = |errno: nix::Error| CliError::Io {
        what: "waiting for signals".into(),
        source: errno.into(),
    };
    // Blocked, a signal waits for us, though process 1 has no default actions.
    let stops = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    stops.thread_block().map_err(failed)?;
    stops.wait().map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}
