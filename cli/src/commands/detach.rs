//! `up --detach`: the same command in the background, and its progress until it is up.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use super::up::{UpArgs, supervisor_log};
use crate::error::CliError;
use crate::files;
use crate::output::{self, Format, say};
use crate::record::{Phase, Record};
use crate::state::StateDir;
use crate::{config, output::print};

/// Time between two looks at the background process.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the background process and returns when the platform is up.
pub(super) fn run(args: &UpArgs) -> Result<ExitCode, CliError> {
    let state = args.state.open()?;
    files::directory(state.root(), 0o711)?;
    files::directory(&state.logs(), 0o700)?;
    let path = supervisor_log(&state);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| CliError::io("opening", &path, error))?;
    // Opened apart: a clone would share the place at which the background process writes.
    let mut reader = File::open(&path).map_err(|error| CliError::io("opening", &path, error))?;
    reader
        .seek(SeekFrom::End(0))
        .map_err(|error| CliError::io("reading", &path, error))?;
    let mut child = Command::new(config::own_binary()?)
        .args(
            std::env::args_os()
                .skip(1)
                .filter(|word| word != "--detach"),
        )
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|source| CliError::Io {
            what: "starting in the background".into(),
            source,
        })?;
    wait(&mut child, reader, &state, args.output)
}

/// Leaves the terminal's session, so that closing it does not end us.
pub(super) fn leave_terminal() {
    // Refused only for a process that leads its group, which then leads its session as well.
    let _ = nix::unistd::setsid();
}

fn wait(
    child: &mut Child,
    mut log: impl Read,
    state: &StateDir,
    format: Format,
) -> Result<ExitCode, CliError> {
    loop {
        let ended = child.try_wait().map_err(|source| CliError::Io {
            what: "waiting for the start".into(),
            source,
        })?;
        repeat(&mut log);
        if let Some(status) = ended {
            // It has said why; only a second `up` is a success here.
            if status.success()
                && format == Format::Json
                && let Some(record) = Record::read(state)?
            {
                print(&record.json()?)?;
            }
            let code = status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
        let record =
            Record::read(state)?.filter(|record| i64::from(record.pid) == i64::from(child.id()));
        if let Some(record) = record.filter(|record| record.phase == Phase::Up) {
            std::thread::sleep(PAUSE);
            repeat(&mut log);
            match format {
                Format::Json => print(&record.json()?)?,
                Format::Text => say(&format!(
                    "{} runs in the background (pid {}); `ringwall status`, `ringwall down`",
                    record.url, record.pid
                )),
            }
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Shows what the background process has said since the last time.
fn repeat(log: &mut impl Read) {
    let mut text = Vec::new();
    // Progress only: what cannot be read now is in the log.
    let _ = log.read_to_end(&mut text);
    String::from_utf8_lossy(&text).lines().for_each(output::say);
}
