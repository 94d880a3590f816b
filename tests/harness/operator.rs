//! What an operator does to a running platform: commands of `ringwall`, and the control plane's policy.
//!
//! Owns: the two ways. Must not: judge what came of it.

use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::mesh::{self, Answer};
use crate::stack::{StackInfo, checkout, ringwall};

const OPERATOR: &str = "ringwall";
const CONTROL_PLANE: &str = "control-plane";
const POLICY: &str = "/v1/policy";

/// What a command has said, and its exit code.
#[derive(Debug, Clone)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self:?}"))
    }

    /// Its lines as JSON, one object each.
    pub fn json_lines(&self) -> Result<Vec<Value>> {
        let lines = self.out.lines().map(serde_json::from_str);
        let lines: Result<_, _> = lines.collect();
        lines.with_context(|| format!("no JSON: {self:?}"))
    }

    /// Itself, when its exit code is the expected one.
    pub fn with_code(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "expected {code}: {self:?}");
        Ok(self)
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// `ringwall ARGUMENTS` for this platform, not started yet; in containers where the operator's identity is.
fn prepared(stack: &StackInfo, arguments: &[&str]) -> Result<Command> {
    let mut command = match stack.containers() {
        Ok(site) => {
            let mut command = Command::new("docker");
            let provisioner = site.container("provisioner");
            command.args(["exec", "--interactive", &provisioner, "/usr/bin/ringwall"]);
            command.args(arguments);
            command
        }
        Err(_) => {
            let mut command = Command::from(ringwall()?);
            command.args(arguments).arg("--state-dir");
            command.arg(&stack.state_dir);
            command
        }
    };
    command.kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Runs `ringwall ARGUMENTS`, whatever comes of it.
pub async fn said(stack: &StackInfo, arguments: &[&str]) -> Result<Said> {
    said_with(stack, arguments, "").await
}

/// The same with something on its standard input.
pub async fn said_with(stack: &StackInfo, arguments: &[&str], input: &str) -> Result<Said> {
    let mut child = prepared(stack, arguments)?.stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no input")?;
    let input = input.to_owned();
    // Beside the reading: neither pipe may fill up.
    let writing = async move {
        // A command that reads nothing closes it.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), writing);
    Ok(output?.into())
}

/// Starts it and goes on once it has said `begun` on stderr; what it says until its end comes later.
pub async fn begun(
    stack: &StackInfo,
    arguments: &[&str],
    begun: &str,
) -> Result<JoinHandle<Result<Said>>> {
    let mut child = prepared(stack, arguments)?.stdin(Stdio::null()).spawn()?;
    let mut err = BufReader::new(child.stderr.take().context("no stderr")?);
    let mut first = String::new();
    while !first.contains(begun) {
        let read = err.read_line(&mut first).await?;
        ensure!(read > 0, "it has ended, and said {first:?}");
    }
    Ok(tokio::spawn(async move {
        let mut rest = String::new();
        let (output, read) = tokio::join!(child.wait_with_output(), err.read_to_string(&mut rest));
        read?;
        let said = Said::from(output?);
        Ok(Said {
            err: first + &rest,
            ..said
        })
    }))
}

/// `ringwall check` as whoever is in front of the machine runs it.
pub async fn check(stack: &StackInfo, arguments: &[&str]) -> Result<Said> {
    let mut command = Command::from(ringwall()?);
    command.arg("check").args(arguments);
    match stack.containers() {
        Ok(site) => {
            command.args(["--stack", "containers", "--project", &site.project]);
            command.arg("--compose-file").arg(&site.file);
        }
        Err(_) => {
            command.arg("--state-dir").arg(&stack.state_dir);
            command.arg("--web-dir");
            command.arg(checkout()?.join("spa-proxy/web/dist"));
        }
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    Ok(output.await?.into())
}

/// Runs `ringwall ARGUMENTS`, which must succeed.
pub async fn command(stack: &StackInfo, arguments: &[&str]) -> Result<Said> {
    let said = said(stack, arguments).await?;
    ensure!(
        said.code == Some(0),
        "`ringwall {}`: {}",
        arguments.join(" "),
        said.err
    );
    Ok(said)
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
