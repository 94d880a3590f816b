//! The container engine, asked through the `docker` command: what runs of a compose project.
//!
//! Owns: every call of `docker`. Must not: change anything; `docker compose` starts and stops. The
//! command finds the engine as its user has set it (context, DOCKER_HOST), so we need not know.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::error::CliError;

/// The service that makes identities and asks components how they are.
pub(crate) const PROVISIONER: &str = "provisioner";
/// Where the provisioner keeps its state.
const PROVISIONER_STATE: &str = "/var/lib/ringwall";
const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";
const INSTALL: &str = "install Docker Engine 20.10 or newer with its compose plugin (docs.docker.com/engine/install), \
                       or start the platform without it: ringwall up";

/// A compose project on the engine.
pub(crate) struct Project<'a> {
    pub(crate) name: &'a str,
}

/// One container of the project.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// The compose service, which has the name of its component.
    pub(crate) service: String,
    /// On the engine's machine; 0 when it does not run.
    pub(crate) pid: i32,
    /// `ready`, or what the engine says instead.
    pub(crate) health: String,
    pub(crate) restarts: u32,
    pub(crate) since: OffsetDateTime,
}

impl Project<'_> {
    /// Its containers by service, stopped ones too; empty when it was never started.
    pub(crate) fn containers(&self) -> Result<BTreeMap<String, Container>, CliError> {
        let filter = format!("label={PROJECT_LABEL}={}", self.name);
        let ids = docker(["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let text = docker(["inspect", "--type", "container"].iter().chain(&ids))?;
        let inspected: Vec<Inspected> = serde_json::from_str(&text)
            .map_err(|error| CliError::internal("reading `docker inspect`", error))?;
        let containers = inspected
            .into_iter()
            .filter_map(Inspected::into_container)
            .map(|container| (container.service.clone(), container));
        Ok(containers.collect())
    }

    /// What `ringwall` answers inside the provisioner.
    pub(crate) fn ask(&self, provisioner: &Container, words: &[&str]) -> Result<Value, CliError> {
        let mut arguments = vec!["exec", &provisioner.id, "/usr/bin/ringwall"];
        arguments.extend(words);
        arguments.extend([
            "--stack",
            "native",
            "--state-dir",
            PROVISIONER_STATE,
            "-o",
            "json",
        ]);
        let output = run(&arguments)?;
        // `status` exits with 1 when a component is not ready: its answer is on stdout all the same.
        serde_json::from_slice(&output.stdout).map_err(|_| refused(&arguments, &output))
    }
}

/// Memory of running containers in KiB, by id.
pub(crate) fn memory<'a>(ids: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut words = vec![
        "stats",
        "--no-stream",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.MemUsage}}",
    ];
    words.extend(ids);
    let text = docker(words).unwrap_or_default();
    let rows = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), kib(words.next()?)?))
    });
    rows.collect()
}

/// Version of the engine that answers.
pub(crate) fn version() -> Result<String, CliError> {
    docker(["version", "--format", "{{.Server.Version}}"])
}

/// Memory of the engine's machine in bytes.
pub(crate) fn machine_memory() -> Result<u64, CliError> {
    let text = docker(["info", "--format", "{{.MemTotal}}"])?;
    text.parse()
        .map_err(|error| CliError::internal("reading `docker info`", error))
}

/// Version of the compose plugin.
pub(crate) fn compose_version() -> Result<String, CliError> {
    docker(["compose", "version", "--short"])
}

/// The images that the compose file names, and those of them that the engine does not have.
pub(crate) fn images(file: &Path) -> Result<(usize, Vec<String>), CliError> {
    let file = file.to_string_lossy();
    let text = docker(["compose", "--file", &file, "config", "--images"])?;
    let named: Vec<String> = text.lines().map(str::to_owned).collect();
    let absent = |name: &&String| docker(["image", "inspect", name]).is_err();
    let missing = named.iter().filter(absent).cloned().collect();
    Ok((named.len(), missing))
}

/// Runs `docker` and gives its trimmed output.
fn docker(words: impl IntoIterator<Item = impl AsRef<str>>) -> Result<String, CliError> {
    let words: Vec<String> = words.into_iter().map(|word| word.as_ref().into()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = run(&words)?;
    if !output.status.success() {
        return Err(refused(&words, &output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn run(words: &[&str]) -> Result<Output, CliError> {
    let command = Command::new("docker")
        .args(words)
        .stdin(Stdio::null())
        .output();
    command.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CliError::ToolMissing {
            what: "the command `docker`".into(),
            fix: INSTALL.into(),
        },
        _ => CliError::Io {
            what: "starting docker".into(),
            source: error,
        },
    })
}

/// What docker said, with the way out that fits it.
fn refused(words: &[&str], output: &Output) -> CliError {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let fix = if said.contains("permission denied") {
        "let this user talk to the engine (group `docker`), or use sudo"
    } else if said.contains("Cannot connect") || said.contains("failed to connect") {
        "start the engine (systemctl start docker, or `cargo xtask engine -- COMMAND` in the sources)"
    } else if said.contains("is not a docker command") || said.contains("unknown command") {
        "install the compose plugin, version 2.20 or newer (docs.docker.com/compose/install)"
    } else {
        INSTALL
    };
    CliError::Engine {
        command: words.iter().take(2).copied().collect::<Vec<_>>().join(" "),
        said: if said.is_empty() {
            output.status.to_string()
        } else {
            said
        },
        fix: fix.into(),
    }
}

/// The part of `docker inspect` that we read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    restart_count: u32,
    state: InspectedState,
    config: InspectedConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    status: String,
    pid: i32,
    exit_code: i32,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    #[serde(default)]
    health: Option<InspectedHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHealth {
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    labels: BTreeMap<String, String>,
}

impl Inspected {
    fn into_container(self) -> Option<Container> {
        let health = match (self.state.status.as_str(), self.state.health) {
            ("running", Some(health)) if health.status == "healthy" => "ready".to_owned(),
            ("running", Some(health)) => health.status,
            ("exited", _) => format!("exited ({})", self.state.exit_code),
            (status, _) => status.to_owned(),
        };
        Some(Container {
            service: self.config.labels.get(SERVICE_LABEL)?.clone(),
            id: self.id,
            pid: self.state.pid,
            health,
            restarts: self.restart_count,
            since: self.state.started_at,
        })
    }
}

/// `12.3MiB` → KiB.
fn kib(text: &str) -> Option<u64> {
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let number: f64 = number.parse().ok()?;
    let scale = match unit {
        "B" => 1.0 / 1024.0,
        "KiB" => 1.0,
        "MiB" => 1024.0,
        "GiB" => 1024.0 * 1024.0,
        _ => return None,
    };
    // Sizes of memory are far below 2^53.
    Some((number * scale) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(state: &str) -> Container {
        let text = format!(
            r#"{{"Id":"4f","RestartCount":2,"State":{state},
                "Config":{{"Labels":{{"com.docker.compose.service":"orders"}}}}}}"#
        );
        let inspected: Inspected = serde_json::from_str(&text).unwrap();
        inspected.into_container().unwrap()
    }

    #[test]
    fn a_healthy_container_is_ready_and_every_other_says_what_it_is() {
        let state = |status: &str, health: &str| {
            inspected(&format!(
                r#"{{"Status":"{status}","Pid":7,"ExitCode":78,"StartedAt":"2026-11-22T13:00:00.5Z"{health}}}"#
            ))
        };
        let container = state("running", r#","Health":{"Status":"healthy"}"#);
        assert_eq!(
            (container.health.as_str(), container.restarts),
            ("ready", 2)
        );
        let starting = state("running", r#","Health":{"Status":"starting"}"#);
        assert_eq!(starting.health, "starting");
        assert_eq!(state("exited", "").health, "exited (78)");
        assert_eq!(state("paused", "").health, "paused");
        assert_eq!(state("restarting", "").health, "restarting");
    }

    #[test]
    fn memory_is_read_in_each_unit() {
        assert_eq!(kib("512B"), Some(0));
        assert_eq!(kib("11.5MiB"), Some(11_776));
        assert_eq!(kib("1GiB"), Some(1_048_576));
        assert_eq!(kib("--"), None);
    }
}
