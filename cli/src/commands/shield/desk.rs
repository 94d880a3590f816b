//! The agent's routes for the shield, as its operator.
//!
//! Owns: requests, and what their refusals mean. Must not: print.

use std::time::Duration;

use http::StatusCode;
use ringwall_ebpf_common::Prefix;
use ringwall_http_io::client::JsonResponse;
use ringwall_http_io::{Client, ClientError, Problem, Transport};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::commands::observe::clean;
use crate::error::CliError;
use crate::plane::Plane;
use crate::state::StateDir;

/// How long an answer may take: a full list is read entry by entry.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the identity of an agent begins with.
const AGENT: &str = "agent/";

pub(in crate::commands) struct Desk(Client);

/// What the shield does now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::commands) struct Standing {
    pub(in crate::commands) attached: Vec<Place>,
    /// Interfaces that it should be at, and is not.
    pub(in crate::commands) missing: Vec<Missing>,
    pub(in crate::commands) lists: Vec<Fill>,
    /// Denied networks in all.
    pub(in crate::commands) total: usize,
    pub(super) denied: Vec<Row>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::commands) struct Place {
    pub(in crate::commands) interface: String,
    pub(in crate::commands) mode: String,
    /// Why not in the driver.
    pub(in crate::commands) reason: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::commands) struct Missing {
    pub(in crate::commands) interface: String,
    pub(in crate::commands) why: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::commands) struct Fill {
    pub(in crate::commands) list: String,
    pub(in crate::commands) used: u32,
    pub(in crate::commands) capacity: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) network: String,
    pub(super) reason: String,
    pub(super) seconds_left: Option<u64>,
    pub(super) seconds_denied: u64,
    pub(super) dropped: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Talker {
    pub(super) network: String,
    pub(super) reason: String,
    pub(super) dropped: u64,
}

#[derive(Deserialize)]
struct Talkers {
    talkers: Vec<Talker>,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.attached.is_empty() {
            "off"
        } else {
            "on"
        })?;
        for place in &self.attached {
            write!(f, " at {} ({})", place.interface, place.mode)?;
        }
        write!(f, ": {} denied", self.total)?;
        for missing in &self.missing {
            write!(f, "; not at {}: {}", missing.interface, missing.why)?;
        }
        Ok(())
    }
}

impl Desk {
    /// The agent of the running platform.
    pub(super) fn find(state: &StateDir) -> Result<Self, CliError> {
        Self::of(&Plane::of(state)?)
    }

    pub(in crate::commands) fn of(plane: &Plane) -> Result<Self, CliError> {
        let mut agents = plane.record.components.iter();
        let agent = agents.find(|one| one.identity.starts_with(AGENT));
        let agent = agent.ok_or_else(|| CliError::State {
            what: "the running platform has no agent, and thus no shield".into(),
            fix: "start one with a mesh".into(),
        })?;
        plane.admin_client(agent).map(Self)
    }

    pub(in crate::commands) async fn list(&self, max: u32) -> Result<Standing, CliError> {
        let call = self.0.get(&format!("/shield?max={max}"));
        answer(
            "reading the shield's list",
            call.timeout(PATIENCE).receive().await,
        )
    }

    pub(super) async fn top(&self, max: u32) -> Result<Vec<Talker>, CliError> {
        let call = self.0.get(&format!("/shield/top?max={max}"));
        let talkers: Talkers = answer(
            "reading who is dropped",
            call.timeout(PATIENCE).receive().await,
        )?;
        Ok(talkers.talkers)
    }

    pub(super) async fn add(
        &self,
        network: Prefix,
        lasts: Option<Duration>,
    ) -> Result<Value, CliError> {
        let seconds = lasts.map(|lasts| lasts.as_secs());
        let body = json!({ "network": network.to_string(), "seconds": seconds });
        let call = self.0.post("/shield/deny").json(&body);
        answer("denying", call.timeout(PATIENCE).receive().await)
    }

    pub(super) async fn remove(&self, network: Prefix) -> Result<Value, CliError> {
        let body = json!({ "network": network.to_string() });
        let call = self.0.post("/shield/forgive").json(&body);
        answer("removing", call.timeout(PATIENCE).receive().await)
    }
}

fn answer<T>(
    what: &'static str,
    said: Result<JsonResponse<T>, ClientError>,
) -> Result<T, CliError> {
    said.map(|said| said.body)
        .map_err(|error| refused(what, &error))
}

fn refused(what: &'static str, error: &ClientError) -> CliError {
    let detail = error.problem().and_then(Problem::detail_text);
    let (said, fix) = match (error.status(), detail) {
        (Some(StatusCode::NOT_FOUND), None) => (
            "this platform has no shield",
            "name the gateway's interface under `public.shield` in ringwall.yaml, and start it under interception",
        ),
        (Some(StatusCode::NOT_FOUND), Some(detail)) => {
            (detail, "`ringwall shield list` shows them")
        }
        (Some(StatusCode::FORBIDDEN), _) => (
            "only its operator may ask",
            "use the state directory of this platform: --state-dir",
        ),
        (Some(StatusCode::SERVICE_UNAVAILABLE), Some(detail)) => {
            (detail, "mend that, and start the platform again")
        }
        (Some(StatusCode::INSUFFICIENT_STORAGE), Some(detail)) => {
            (detail, "`ringwall shield list` shows what could go")
        }
        (Some(status), Some(detail)) if status.is_client_error() => (detail, "correct the command"),
        _ => (
            "",
            "look whether it runs: ringwall status, ringwall logs agent",
        ),
    };
    CliError::Agent {
        what,
        said: if said.is_empty() {
            error.to_string()
        } else {
            clean(said)
        },
        fix,
    }
}
