//! The Docker Engine, through its command line, which reads DOCKER_HOST and DOCKER_CONFIG itself.
//!
//! Owns: running one command and saying what went wrong with it.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Runs `docker` with `arguments` and returns what it printed.
pub fn docker(arguments: &[&str]) -> Result<String> {
    let output = run(arguments)?;
    if !output.status.success() {
        bail!(
            "`docker {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Both of the container's streams: a component logs to one of them, an engine of others to any.
pub fn both_streams(arguments: &[&str]) -> Result<String> {
    let output = run(arguments)?;
    if !output.status.success() {
        bail!(
            "`docker {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The same without blocking the scenario's other work.
pub async fn docker_async(arguments: &[&str]) -> Result<String> {
    let arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        docker(&arguments)
    })
    .await
    .context("the engine's command was cancelled")?
}

/// `docker inspect` of one object.
pub fn inspect(name: &str) -> Result<Value> {
    let text = docker(&["inspect", name])?;
    let list: Value = serde_json::from_str(&text).context("`docker inspect` gave no JSON")?;
    let first = list.get(0).cloned();
    first.with_context(|| format!("the engine does not know {name}"))
}

/// The non-empty lines that `docker` prints.
pub fn lines(arguments: &[&str]) -> Result<Vec<String>> {
    let text = docker(arguments)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// Fails with what to do when no engine answers.
pub fn answers() -> Result<()> {
    let version = docker(&["version", "--format", "{{.Server.Version}}"]);
    version.context(
        "no Docker Engine answers, so nothing in containers can be tested; \
         `cargo xtask e2e --stack containers` starts one of its own",
    )?;
    docker(&["compose", "version"])
        .context("the plugin `docker compose` is missing: run `cargo xtask setup`")?;
    Ok(())
}

/// Whether a container of `image` can be given that capability; an image that is missing is told elsewhere.
pub fn knows_capability(name: &str, image: &str) -> Result<bool> {
    let made = run(&["create", "--pull", "never", "--cap-add", name, image])?;
    if made.status.success() {
        docker(&["rm", String::from_utf8_lossy(&made.stdout).trim()])?;
    }
    Ok(!String::from_utf8_lossy(&made.stderr).contains("unknown capability"))
}

fn run(arguments: &[&str]) -> Result<Output> {
    Command::new("docker")
        .args(arguments)
        .output()
        .context("cannot run docker: run `cargo xtask setup`")
}
