//! What an operator does to a running platform: commands of `ringwall`, and the control plane's policy.
//!
//! Owns: the two ways. Must not: judge what came of it.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::mesh::{self, Answer};
use crate::stack::{StackInfo, ringwall};

const OPERATOR: &str = "ringwall";
const CONTROL_PLANE: &str = "control-plane";
const POLICY: &str = "/v1/policy";

/// Runs `ringwall ARGUMENTS` for this platform; in containers where the operator's identity is.
pub async fn command(stack: &StackInfo, arguments: &[&str]) -> Result<Output> {
    let mut command = match stack.containers() {
        Ok(site) => {
            let mut command = tokio::process::Command::new("docker");
            let provisioner = site.container("provisioner");
            command.args(["exec", &provisioner, "/usr/bin/ringwall"]);
            command.args(arguments);
            command
        }
        Err(_) => {
            let mut command = tokio::process::Command::from(ringwall()?);
            command.args(arguments).arg("--state-dir");
            command.arg(&stack.state_dir);
            command
        }
    };
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`ringwall {}`: {said}",
        arguments.join(" ")
    );
    Ok(output)
}

/// The policy in force: its version and its bundle.
pub async fn policy(stack: &StackInfo) -> Result<(u64, Value)> {
    let answer = ask(stack, Method::GET, POLICY, None, &Value::Null).await?;
    let found = answer.json()?;
    let version = found["version"].as_u64().context("no version")?;
    Ok((version, found["bundle"].clone()))
}

/// Proposes a bundle in the place of `replaced`.
pub async fn apply(stack: &StackInfo, replaced: u64, bundle: &Value) -> Result<Answer> {
    let proposal = json!({ "bundle": bundle, "note": "a scenario" });
    ask(stack, Method::PUT, POLICY, Some(replaced), &proposal).await
}

/// Has the content of version `to` again.
pub async fn roll_back(stack: &StackInfo, replaced: u64, to: u64) -> Result<Answer> {
    let path = format!("{POLICY}/rollback");
    ask(
        stack,
        Method::POST,
        &path,
        Some(replaced),
        &json!({ "to": to }),
    )
    .await
}

/// Anything else that stands below the policy's path.
pub async fn about_policy(stack: &StackInfo, what: &str) -> Result<Value> {
    let path = format!("{POLICY}/{what}");
    let answer = ask(stack, Method::GET, &path, None, &Value::Null).await?;
    answer.json()
}

async fn ask(
    stack: &StackInfo,
    method: Method,
    path: &str,
    replaced: Option<u64>,
    body: &Value,
) -> Result<Answer> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    if let Some(version) = replaced {
        request = request.header("if-match", format!("\"{version}\""));
    }
    let body = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    mesh::call_as(stack, OPERATOR, CONTROL_PLANE, request.body(body)?).await
}
