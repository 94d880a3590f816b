//! The container engine: the one that answers, else one of our own for as long as a command takes.
//!
//! Owns: finding an engine, the clients that talk to it, and what children need in their environment.
//! It must not leave a container or a mount behind. Next: `engine/daemon.rs` (our own dockerd),
//! `engine/client.rs` (which `docker` can build), `engine/compose.rs` (the plugin).

mod client;
mod compose;
pub(crate) mod daemon;
mod places;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::commands::Purpose;
use crate::config::Config;
use crate::process::{output, say};
use crate::setup::packages;
use daemon::Daemon;

/// An engine that answers.
pub(crate) struct Engine {
    client: PathBuf,
    /// The client that can build with BuildKit.
    builder: PathBuf,
    host: String,
    docker_config: PathBuf,
    daemon: Option<Daemon>,
}

impl Engine {
    /// Takes the engine that answers; installs and starts one where none does.
    pub(crate) fn ensure(config: &Config) -> Result<Self> {
        let (client, host, daemon) = match answering(config) {
            Ok((client, host)) => (client, host, None),
            Err(seen) => {
                say(&format!("engine: none answers ({seen:#})"));
                Self::own(config).map_err(|error| explain(&seen, &error))?
            }
        };
        let docker_config = compose::ensure(config, &client)?;
        Ok(Self {
            builder: client::that_builds(config)?,
            client,
            host,
            docker_config,
            daemon,
        })
    }

    fn own(config: &Config) -> Result<(PathBuf, String, Option<Daemon>)> {
        packages::ensure(config, Purpose::Engine)?;
        // Where a service manager runs, Debian's package has started one.
        if let Ok((client, host)) = answering(config) {
            return Ok((client, host, None));
        }
        let client = config.tool("docker").context("docker is missing")?;
        let daemon = Daemon::start(config, &client)?;
        Ok((client, daemon.host(), Some(daemon)))
    }

    /// `docker`, for this engine.
    pub(crate) fn docker(&self) -> Command {
        self.command(&self.client)
    }

    /// `docker build`, by a client that can do it with BuildKit.
    pub(crate) fn build(&self) -> Command {
        let mut command = self.command(&self.builder);
        command.env("DOCKER_BUILDKIT", "1").arg("build");
        command
    }

    /// `docker compose`, with the plugin that was found or fetched.
    pub(crate) fn compose(&self) -> Command {
        let mut command = self.docker();
        command.arg("compose");
        command
    }

    /// What a child needs in its environment to reach this engine.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("DOCKER_HOST", self.host.clone().into()),
            ("DOCKER_CONFIG", self.docker_config.clone().into()),
        ]
    }

    fn command(&self, client: &PathBuf) -> Command {
        let mut command = Command::new(client);
        command.envs(self.environment());
        command
    }

    /// Ends our own engine with everything in it; leaves somebody else's alone.
    pub(crate) fn end(mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), Daemon::end)
    }
}

/// `cargo xtask engine -- COMMAND…`
pub(crate) fn run(config: &Config, words: &[String]) -> Result<ExitCode> {
    let engine = Engine::ensure(config)?;
    let (program, arguments) = words.split_first().context("no command given")?;
    let status = Command::new(program)
        .args(arguments)
        .envs(engine.environment())
        .status();
    engine.end()?;
    let status = status.with_context(|| format!("starting `{program}`"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The client and the host that answers it, or what was seen instead.
fn answering(config: &Config) -> Result<(PathBuf, String)> {
    let Some(client) = config.tool("docker") else {
        bail!("no docker client on the search path");
    };
    let host = configured_host(config, &client)?;
    ask(&client, &host).with_context(|| {
        if config.docker.host.is_some() {
            format!("DOCKER_HOST={host}")
        } else {
            host.clone()
        }
    })?;
    Ok((client, host))
}

/// `DOCKER_HOST`, else that of the client's current context, else the usual socket.
fn configured_host(config: &Config, client: &PathBuf) -> Result<String> {
    if let Some(host) = &config.docker.host {
        return Ok(host.clone());
    }
    let mut inspect = Command::new(client);
    inspect
        .env("DOCKER_CONFIG", &config.docker.config)
        .args(["context", "inspect", "--format"])
        .arg("{{.Endpoints.docker.Host}}");
    output(&mut inspect)
}

/// The version of the engine at that host.
fn ask(client: &PathBuf, host: &str) -> Result<String> {
    let mut version = Command::new(client);
    version
        .env("DOCKER_HOST", host)
        .args(["version", "--format", "{{.Server.Version}}"]);
    output(&mut version)
}

fn explain(seen: &anyhow::Error, error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "no container engine\n  \
         seen: {seen:#}\n  \
         and an own one could not be started: {error:#}\n  \
         expected: an engine that answers, Docker 20.10 or newer\n  \
         fix: start one and set DOCKER_HOST, or run as root (or with sudo) on a machine that lets dockerd make\n  \
         mounts, control groups and iptables rules (in a container: --privileged)"
    )
}
