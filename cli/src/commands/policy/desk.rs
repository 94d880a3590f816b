//! The control plane's policy API (`/v1/policy`), as its operator.
//!
//! Owns: requests, and what their refusals mean. Must not: print. The messages are those of
//! `ringwall_policy::mesh::administration`.

use std::time::Duration;

use http::StatusCode;
use ringwall_http_io::{Client, ClientError, Problem, Transport};
use ringwall_policy::mesh::administration::{
    Answer, Applied, CHECK_PATH, CheckReport, DIFF_PATH, Difference, EXPLAIN_PATH, PATH,
    PROXIES_PATH, Proposal, Proxy, Question, ROLLBACK_PATH, Rollback, UNUSED_PATH, Unused,
    VERSIONS_PATH, Version, VersionWithBundle,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::CliError;
use crate::plane::Plane;

/// How long an answer may take beyond what it waits for: a large bundle is compiled first.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Desk(Client);

/// What became of a change: done, or what is wrong with it.
pub(super) type Changed = Result<Applied, CheckReport>;

impl Desk {
    pub(super) async fn at(plane: &Plane) -> Result<Self, CliError> {
        plane.client().await.map(Self)
    }

    #[cfg(test)]
    pub(super) fn of(client: Client) -> Self {
        Self(client)
    }

    /// A version, or the active one.
    pub(super) async fn version(
        &self,
        version: Option<u64>,
    ) -> Result<VersionWithBundle, CliError> {
        let path = match version {
            None => PATH.to_owned(),
            Some(version) => format!("{VERSIONS_PATH}/{version}"),
        };
        self.get(&path, "reading the policy").await
    }

    pub(super) async fn history(
        &self,
        limit: u32,
        before: Option<u64>,
    ) -> Result<Vec<Version>, CliError> {
        let before = before.map_or(String::new(), |before| format!("&before={before}"));
        let path = format!("{VERSIONS_PATH}?limit={limit}{before}");
        self.get(&path, "reading the history").await
    }

    pub(super) async fn check(&self, proposal: &Proposal) -> Result<CheckReport, CliError> {
        self.post(CHECK_PATH, proposal, "checking the policy").await
    }

    pub(super) async fn diff(&self, from: u64, to: Option<u64>) -> Result<Difference, CliError> {
        let to = to.map_or(String::new(), |to| format!("&to={to}"));
        let path = format!("{DIFF_PATH}?from={from}{to}");
        self.get(&path, "comparing versions").await
    }

    pub(super) async fn explain(&self, question: &Question) -> Result<Answer, CliError> {
        self.post(EXPLAIN_PATH, question, "explaining").await
    }

    pub(super) async fn unused(&self) -> Result<Unused, CliError> {
        self.get(UNUSED_PATH, "reading what is unused").await
    }

    pub(super) async fn proxies(&self) -> Result<Vec<Proxy>, CliError> {
        self.get(PROXIES_PATH, "reading the proxies").await
    }

    pub(super) async fn apply(
        &self,
        proposal: &Proposal,
        from: u64,
        wait: Duration,
    ) -> Result<Changed, CliError> {
        let path = waiting(PATH, wait);
        let call = self.0.put(&path).header("if-match", format!("\"{from}\""));
        let said = call.json(proposal).timeout(wait + PATIENCE).receive().await;
        changed(said.map(|said| said.body), from, "applying the policy")
    }

    pub(super) async fn rollback(
        &self,
        rollback: &Rollback,
        from: u64,
        wait: Duration,
    ) -> Result<Changed, CliError> {
        let path = waiting(ROLLBACK_PATH, wait);
        let call = self.0.post(&path).header("if-match", format!("\"{from}\""));
        let said = call.json(rollback).timeout(wait + PATIENCE).receive().await;
        changed(said.map(|said| said.body), from, "rolling back")
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        what: &'static str,
    ) -> Result<T, CliError> {
        let said = self.0.get(path).timeout(PATIENCE).receive().await;
        said.map(|said| said.body)
            .map_err(|error| refused(what, &error))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        content: &impl Serialize,
        what: &'static str,
    ) -> Result<T, CliError> {
        let call = self.0.post(path).json(content);
        let said = call.timeout(PATIENCE).receive().await;
        said.map(|said| said.body)
            .map_err(|error| refused(what, &error))
    }
}

fn waiting(path: &str, wait: Duration) -> String {
    format!("{path}?wait={}s", wait.as_secs())
}

/// Tells a bundle that is not good, and a version that is not active any more, from everything else.
fn changed(
    said: Result<Applied, ClientError>,
    expected: u64,
    what: &'static str,
) -> Result<Changed, CliError> {
    let error = match said {
        Ok(applied) => return Ok(Ok(applied)),
        Err(error) => error,
    };
    let member = |name: &str| {
        error
            .problem()
            .and_then(|problem| problem.member(name))
            .cloned()
    };
    match error.status() {
        Some(StatusCode::UNPROCESSABLE_ENTITY) => Ok(Err(CheckReport {
            faults: list(member("faults")),
            failed_examples: list(member("failed_examples")),
            ..CheckReport::default()
        })),
        Some(StatusCode::PRECONDITION_FAILED) => {
            let current = member("current").and_then(|current| current.as_u64());
            let current = current.unwrap_or(0);
            Err(CliError::PolicyConflict { expected, current })
        }
        _ => Err(refused(what, &error)),
    }
}

fn list<T: DeserializeOwned>(member: Option<Value>) -> Vec<T> {
    member
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or_default()
}

fn refused(what: &'static str, error: &ClientError) -> CliError {
    let said = error.problem().and_then(Problem::detail_text);
    let said = said.map_or_else(|| error.to_string(), str::to_owned);
    let fix = match (error.status(), error.slug()) {
        (_, Some(ringwall_proto::problems::NOT_LEADER)) => "try again: another replica takes over",
        (Some(StatusCode::FORBIDDEN), _) => "use the state directory of this platform: --state-dir",
        (Some(StatusCode::NOT_FOUND), _) => "`ringwall policy history` lists the versions",
        (Some(status), _) if status.is_client_error() => "correct the command",
        _ => "look whether it runs: ringwall status, ringwall logs control-plane",
    };
    CliError::Plane {
        what,
        said: super::show::clean(&said),
        fix,
    }
}

#[cfg(test)]
mod tests;
