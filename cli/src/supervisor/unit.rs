//! One process: its command, its start, and what is said when it dies. Read next: `units.rs`, which
//! makes them from the composition, and `commands/launch.rs`, the child's side of a start.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use ringwall_http_io::Address;
use tokio::sync::mpsc::Sender;

use super::Event;
use super::restart::Restarts;
use super::sockets::Sockets;
use crate::error::CliError;
use crate::files;
use crate::postgres::{Server, ensure_roles, password_of};
use crate::processes::ProcessId;
use crate::state::StateDir;

/// Lines of a log that stand in an error.
const LINES_SHOWN: usize = 12;

/// A process as it is started.
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) needs: Vec<String>,
    pub(super) kind: Kind,
    pub(super) log: PathBuf,
}

/// What kind of process it is.
pub(super) enum Kind {
    /// One of our binaries.
    Binary(Box<Binary>),
    /// A PostgreSQL server with its databases.
    Postgres {
        server: Box<Server>,
        databases: Vec<String>,
    },
}

/// One of our binaries, and how it is started.
pub(super) struct Binary {
    pub(super) program: PathBuf,
    pub(super) config: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) admin: Address,
    /// Workload that answers at `admin`.
    pub(super) identity: String,
    /// Sockets that it takes over.
    pub(super) sockets: Sockets,
    /// Its control group, where there are any.
    pub(super) group: Option<PathBuf>,
    /// Whether it gives up what leads around the kernel's hooks.
    pub(super) confined: bool,
    /// The workload that it gets an identity for from the agent.
    pub(super) attested: Option<String>,
    /// Ourselves, who become the program.
    pub(super) launcher: PathBuf,
}

/// A process that was started.
pub(super) struct Running {
    pub(super) process: ProcessId,
    pub(super) generation: u32,
    pub(super) begun: Instant,
    log: PathBuf,
    /// Length of the log before this process wrote to it.
    log_offset: u64,
    /// Closing it tells one of our binaries to end; so does our death.
    _line: Option<UnixStream>,
}

impl Unit {
    /// How it is started again when it dies.
    pub(super) fn restarts(&self) -> Restarts {
        match &self.kind {
            Kind::Binary(binary) if binary.sockets.len() > 0 => Restarts::at_once(),
            _ => Restarts::default(),
        }
    }

    /// Starts the process; a task reports its end.
    pub(super) fn start(
        &self,
        generation: u32,
        events: &Sender<Event>,
    ) -> Result<Running, CliError> {
        let (mut command, line) = self.command()?;
        let log = self.open_log()?;
        let log_offset = log.metadata().map_or(0, |meta| meta.len());
        let errors = log
            .try_clone()
            .map_err(|error| CliError::io("opening", &self.log, error))?;
        // A group of its own: Ctrl-C must reach the supervisor alone, which stops in order.
        command.stdout(log).stderr(errors).process_group(0);
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|source| CliError::Io {
                what: format!("starting {}", self.name),
                source,
            })?;
        let number = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or_default();
        // A process that has died already is a zombie until the task below waits for it.
        let process = ProcessId::of(number).unwrap_or(ProcessId {
            pid: number,
            started: 0,
        });
        let (events, name) = (events.clone(), self.name.clone());
        tokio::spawn(async move {
            let status = child.wait().await.unwrap_or_default();
            // The loop ends only after every process has.
            let _ = events
                .send(Event::Exited {
                    name,
                    generation,
                    status,
                })
                .await;
        });
        Ok(Running {
            process,
            generation,
            begun: Instant::now(),
            log: self.log.clone(),
            log_offset,
            _line: line,
        })
    }

    /// The command, and our end of its standard input.
    fn command(&self) -> Result<(Command, Option<UnixStream>), CliError> {
        match &self.kind {
            Kind::Postgres { server, .. } => {
                let mut command = server.command();
                command.stdin(Stdio::null());
                Ok((command, None))
            }
            Kind::Binary(binary) => {
                let (ours, theirs) = UnixStream::pair().map_err(|source| CliError::Io {
                    what: format!("starting {}", self.name),
                    source,
                })?;
                binary.sockets.send(&ours)?;
                let mut command = Command::new(&binary.launcher);
                command.arg("launch");
                if let Some(group) = &binary.group {
                    command.arg("--cgroup").arg(group);
                }
                if binary.confined {
                    command.arg("--confine");
                }
                command
                    .arg("--sockets")
                    .arg(binary.sockets.len().to_string())
                    .arg("--")
                    .arg(&binary.program)
                    .arg("--config")
                    .arg(&binary.config)
                    .arg("--exit-on-stdin-eof")
                    .env_clear()
                    .current_dir(&binary.folder)
                    .stdin(OwnedFd::from(theirs));
                Ok((command, Some(ours)))
            }
        }
    }

    fn open_log(&self) -> Result<std::fs::File, CliError> {
        // Appending, so that turning the file (copy and truncate) loses no place.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(|error| CliError::io("opening", &self.log, error))
    }
}

impl Running {
    /// Why it ended, with its last words.
    pub(super) fn died(&self, name: &str, status: ExitStatus) -> CliError {
        let fix = match status.code() {
            Some(78) => format!("correct the part of `{name}` in the composition"),
            Some(71) => "stop the program that has its port, or use --free-ports".to_owned(),
            Some(77) => "run as a user that may do this".to_owned(),
            _ => format!("the log says more: {}", self.log.display()),
        };
        self.failed(name, format!("ended at start ({status})"), fix)
    }

    /// An error about it, with its last words.
    pub(super) fn failed(&self, name: &str, why: String, fix: String) -> CliError {
        failure(name, why, fix, &self.log, self.log_offset)
    }

    pub(super) fn log_offset(&self) -> u64 {
        self.log_offset
    }
}

/// An error about a component, with what it logged since `offset`.
pub(super) fn failure(
    name: &str,
    why: String,
    fix: String,
    log: &std::path::Path,
    offset: u64,
) -> CliError {
    let lines = files::last_lines_after(log, offset, LINES_SHOWN);
    // What a component says to people on stderr stands in its JSON log a second time.
    let for_people = |line: &&String| !line.starts_with('{');
    let plain = lines.iter().any(|line| for_people(&line));
    let log = lines
        .iter()
        .filter(|line| !plain || for_people(line))
        .map(|line| format!("  │ {line}\n"))
        .collect();
    CliError::Component {
        component: name.to_owned(),
        why,
        log,
        fix,
    }
}

/// Makes the role and database of every workload that a server serves.
pub(super) fn make_databases(
    server: &Server,
    databases: &[String],
    state: &StateDir,
) -> Result<(), CliError> {
    for name in databases {
        let password = password_of(name, state)?;
        ensure_roles(server, name, &password)?;
    }
    Ok(())
}
