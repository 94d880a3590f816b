//! The PostgreSQL server of the platform: Debian's binaries, our own cluster below the state
//! directory.
//!
//! Owns: making the cluster, its settings, roles and databases, and cleaning up after a crash. It
//! never runs as root: for root it runs as the user `postgres`. Must not: know tables.
//! Read next: `postgres/settings.rs` for who may connect how, `postgres/roles.rs`.

mod roles;
mod scram;
mod settings;
pub(crate) mod tools;

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};

use crate::composition::{Component, OPERATOR};
use crate::error::CliError;
use crate::files::{self, Owner};
use crate::processes::ProcessId;
use crate::site::{DatabasePlace, Site};
use crate::state::StateDir;

pub(crate) use roles::{DATABASE_PASSWORD, ensure as ensure_roles, password_of};
use tools::Tools;

/// How long a server that was left over by a crash gets to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    name: String,
    tools: Tools,
    state: StateDir,
    place: DatabasePlace,
    port: u16,
    /// The user that it runs as, where that is not us.
    user: Option<Owner>,
}

impl Server {
    /// Finds the binaries and the user; touches nothing.
    pub(crate) fn find(component: &Component, state: &StateDir) -> Result<Self, CliError> {
        let port = port_of(component);
        state.fits_postgres(port)?;
        let data = state.postgres().join("data");
        let version = files::read_if_there(&data.join("PG_VERSION"))?;
        let tools = Tools::find(version.as_deref().map(str::trim))?;
        let name = component.name.value.clone();
        Ok(Self {
            name,
            tools,
            state: state.clone(),
            place: DatabasePlace::native(state),
            port,
            user: database_user()?,
        })
    }

    /// The user that PostgreSQL's files belong to, where that is not us.
    pub(crate) fn user(&self) -> Option<Owner> {
        self.user
    }

    /// Makes the cluster at first start; writes the settings at every start.
    pub(crate) fn prepare(&self, databases: &[String]) -> Result<(), CliError> {
        files::directory_of(&self.state.postgres(), 0o700, self.user)?;
        files::directory_of(&self.state.socket(), 0o700, self.user)?;
        if !self.data().join("PG_VERSION").exists() {
            self.make_cluster()?;
        }
        let folder = self.data();
        let write = |name: &str, text: String| {
            files::write(&folder.join(name), text.as_bytes(), 0o600, self.user)
        };
        write(settings::SERVER, settings::server(&self.place, self.port))?;
        write(settings::ACCESS, settings::access(&self.place, databases))?;
        let operator = settings::operator_map(&operating_user()?);
        write(settings::OPERATORS, operator)
    }

    /// The command that runs the server in the foreground.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.as_database_user("postgres");
        command.arg("-D").arg(self.data());
        command
    }

    /// True when the server says that it takes connections.
    pub(crate) fn is_ready(&self) -> bool {
        // postmaster.pid, line 8: "ready", "starting", "stopping" (utils/pidfile.h).
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        text.lines()
            .nth(7)
            .is_some_and(|line| line.trim() == "ready")
    }

    /// Runs SQL as the operator over the unix socket; gives what it prints.
    pub(crate) fn sql(&self, text: &str) -> Result<String, CliError> {
        let failed = |why: String| CliError::Component {
            component: self.name.clone(),
            why: format!("refused the operator: {why}"),
            log: String::new(),
            fix: format!("see {}", self.state.log(&self.name).display()),
        };
        let mut command = Command::new(self.tools.binary("psql"));
        command
            .env_clear()
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args([
                "--set",
                "ON_ERROR_STOP=1",
                "--dbname",
                "postgres",
                "--username",
                OPERATOR,
            ])
            .arg("--host")
            .arg(self.state.socket())
            .args(["--port", &self.port.to_string(), "--file", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A server that closes early says why on stderr.
            let _ = stdin.write_all(text.as_bytes());
        }
        let output = child
            .wait_with_output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A new cluster, made aside and renamed: a crash leaves none or a whole one.
    fn make_cluster(&self) -> Result<(), CliError> {
        let fresh = self.state.postgres().join("data.new");
        match fs::remove_dir_all(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::io("removing", &fresh, error));
            }
            _ => {}
        }
        let mut command = self.as_database_user("initdb");
        command
            .arg("--pgdata")
            .arg(&fresh)
            .args([
                "--username",
                OPERATOR,
                "--auth-local=peer",
                "--auth-host=scram-sha-256",
            ])
            .args([
                "--data-checksums",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-instructions",
            ])
            .stdin(Stdio::null());
        let output = command.output().map_err(|source| CliError::Io {
            what: "starting initdb".into(),
            source,
        })?;
        if !output.status.success() {
            return Err(CliError::Component {
                component: self.name.clone(),
                why: "could not make its cluster (initdb failed)".into(),
                log: indent(&String::from_utf8_lossy(&output.stderr)),
                fix: "check the space and permissions of the state directory".into(),
            });
        }
        let data = self.data();
        fs::rename(&fresh, &data).map_err(|error| CliError::io("renaming to", &data, error))
    }

    fn as_database_user(&self, program: &str) -> Command {
        let mut command = Command::new(self.tools.binary(program));
        command
            .env_clear()
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/bin:/bin");
        command.current_dir(self.state.postgres());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.state.postgres().join("data")
    }
}

/// Writes what a server in a container reads: its settings, who may connect, and the roles.
pub(crate) fn deliver(
    component: &Component,
    databases: &[String],
    site: &Site,
) -> Result<(), CliError> {
    let (folder, place) = (site.database_folder(&component.name.value), site.database());
    let write =
        |name: &str, text: String| files::write(&folder.join(name), text.as_bytes(), 0o600, None);
    write(settings::ACCESS, settings::access(&place, databases))?;
    // In the container, the server's user and the operator are one, and called like our workload.
    write(settings::OPERATORS, settings::operator_map(OPERATOR))?;
    write(ROLES, roles::script(databases, site.state())?)?;
    let text = settings::server(&place, port_of(component));
    write(settings::SERVER, text)
}

/// Validation has refused a server without one.
fn port_of(component: &Component) -> u16 {
    component.port.as_ref().map_or(0, |port| port.value)
}

/// The files of [`deliver`].
pub(crate) const DELIVERED: [&str; 4] = [
    settings::ACCESS,
    settings::OPERATORS,
    ROLES,
    settings::SERVER,
];
/// The script that makes roles and databases.
const ROLES: &str = "roles.sql";

/// Ends a server that an earlier supervisor left behind; true when there was one.
pub(crate) fn end_leftover(state: &StateDir) -> Result<bool, CliError> {
    let data = state.postgres().join("data");
    let Some(process) = leftover(&data)? else {
        return Ok(false);
    };
    let ended = |signal, limit| -> Result<bool, CliError> {
        let sent = process.signal(signal);
        sent.map_err(|source| CliError::Io {
            what: "stopping PostgreSQL".into(),
            source,
        })?;
        Ok(process.wait_for_end(limit))
    };
    // Fast shutdown; immediate when that takes too long (recovery follows at the next start).
    if !ended(Signal::SIGINT, PATIENCE)? && !ended(Signal::SIGQUIT, PATIENCE)? {
        return Err(CliError::State {
            what: format!(
                "a PostgreSQL server (pid {}) of an earlier start does not end",
                process.pid
            ),
            fix: format!("look at it, then: kill -9 {}", process.pid),
        });
    }
    Ok(true)
}

/// The server that the pid file names, if that process is really this cluster's.
fn leftover(data: &Path) -> Result<Option<ProcessId>, CliError> {
    let Some(text) = files::read_if_there(&data.join("postmaster.pid"))? else {
        return Ok(None);
    };
    let process = text
        .lines()
        .next()
        .and_then(|pid| pid.trim().parse().ok())
        .and_then(ProcessId::of);
    let ours = |process: &ProcessId| process.command_line().contains(&*data.to_string_lossy());
    Ok(process.filter(ours))
}

/// PostgreSQL refuses to run as root: then it is the user that its package made.
fn database_user() -> Result<Option<Owner>, CliError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").ok().flatten();
    let user = user.ok_or_else(|| CliError::ToolMissing {
        what: "the user `postgres`, which PostgreSQL runs as when root starts it,".into(),
        fix: "apt-get install -y --no-install-recommends postgresql-15".into(),
    })?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// Our own user name: peer authentication on the socket knows the operator by it.
fn operating_user() -> Result<String, CliError> {
    let user = User::from_uid(Uid::effective()).ok().flatten();
    user.map(|user| user.name)
        .ok_or_else(|| CliError::Privilege {
            what: format!(
                "user {} has no name, and PostgreSQL knows the operator by name",
                Uid::effective()
            ),
            fix: "run as a user that /etc/passwd names".into(),
        })
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  │ {line}\n")).collect()
}
