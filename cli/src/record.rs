//! `run/state.json`: what runs now, for `status`, `down` and tests.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::composition::Profile;
use crate::error::CliError;
use crate::files;
use crate::processes::ProcessId;
use crate::state::StateDir;

/// How far the platform is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Starting,
    Up,
    Stopping,
}

/// The running platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The supervisor's.
    pub(crate) pid: i32,
    pub(crate) started: u64,
    pub(crate) phase: Phase,
    pub(crate) profile: Profile,
    /// Where a browser goes.
    pub(crate) url: String,
    pub(crate) issuer: String,
    pub(crate) domain: String,
    pub(crate) trust_domain: String,
    pub(crate) public_address: SocketAddr,
    pub(crate) state_dir: PathBuf,
    pub(crate) ca_bundle: PathBuf,
    pub(crate) components: Vec<ComponentRecord>,
}

/// One component of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ComponentRecord {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) address: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) pid: i32,
    pub(crate) started: u64,
    /// Restarts since `up`.
    pub(crate) restarts: u32,
    /// When the present process was started.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) since: OffsetDateTime,
    pub(crate) condition: Condition,
    pub(crate) log: PathBuf,
}

/// What the supervisor knows of a component; `status` asks the component itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    /// Not started yet.
    Waiting,
    Starting,
    Ready,
    /// Died; a restart is due.
    Restarting,
    /// Died too often, or restarts are switched off.
    Failed,
    Stopped,
}

impl Condition {
    /// The word for tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl Record {
    /// Reads the record that a supervisor left.
    pub(crate) fn read(state: &StateDir) -> Result<Option<Self>, CliError> {
        let path = state.record();
        let Some(text) = files::read_if_there(&path)? else {
            return Ok(None);
        };
        // A record of another version is no reason to fail: what it names cannot be trusted anyway.
        Ok(serde_json::from_str(&text).ok())
    }

    /// Writes it for others to read.
    pub(crate) fn write(&self, state: &StateDir) -> Result<(), CliError> {
        files::write(&state.record(), self.json()?.as_bytes(), 0o600, None)
    }

    /// One JSON object, on several lines.
    pub(crate) fn json(&self) -> Result<String, CliError> {
        serde_json::to_string_pretty(self)
            .map_err(|error| CliError::internal("writing the record", error))
    }

    /// The supervisor's process.
    pub(crate) fn supervisor(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            started: self.started,
        }
    }
}

impl ComponentRecord {
    /// The component's process; none when it was never started.
    pub(crate) fn process(&self) -> Option<ProcessId> {
        (self.pid > 0).then_some(ProcessId {
            pid: self.pid,
            started: self.started,
        })
    }
}
