//! What `docker compose up` needs of this machine: engine, plugin, memory, port, images; and, where it runs, its
//! mesh, by the word of the provisioner, who alone has the operator's identity.

use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;

use super::{Category, Finding};
use crate::commands::CompositionArgs;
use crate::engine::{self, Container, PROVISIONER, Project};
use crate::error::CliError;
use crate::ports;

/// Oldest plugin that knows `include` and `extends` as compose.yaml uses them.
const OLDEST_COMPOSE: (u32, u32) = (2, 24);
/// Oldest engine that the stack is tested with.
const OLDEST_ENGINE: (u32, u32) = (20, 10);
/// The first that knows the capabilities BPF and PERFMON.
const KNOWS_BPF: (u32, u32) = (23, 0);

/// Looks at everything; one finding each.
pub(super) fn findings(
    composition: &CompositionArgs,
    project: &Project<'_>,
    compose_file: &Path,
) -> Result<Vec<Finding>, CliError> {
    let engine = engine();
    let answers = engine.ok;
    let mut findings = vec![engine];
    if answers {
        findings.push(compose());
        findings.push(engine_memory());
        findings.push(images(compose_file));
    }
    findings.push(public_port(composition, project)?);
    if answers && runs(project) {
        findings.extend(mesh(project));
    }
    Ok(findings)
}

fn runs(project: &Project<'_>) -> bool {
    let containers = project.containers().unwrap_or_default();
    containers.values().any(|container| container.pid > 0)
}

/// What `ringwall check --mesh` says inside the provisioner.
pub(super) fn mesh(project: &Project<'_>) -> Vec<Finding> {
    let containers = project.containers();
    let asked = containers.and_then(|containers| {
        let found = containers.get(PROVISIONER);
        let provisioner = found.filter(|container: &&Container| container.pid > 0);
        let provisioner = provisioner.ok_or_else(|| CliError::Engine {
            command: "ps".into(),
            said: format!("the provisioner of project `{}` does not run", project.name),
            fix: format!(
                "docker compose --project-name {} up -d {PROVISIONER}",
                project.name
            ),
        })?;
        read(&project.ask(provisioner, &["check", "--mesh"])?)
    });
    asked.unwrap_or_else(|error| {
        vec![Finding::bad(
            Category::Identity,
            PROVISIONER,
            error.to_string(),
        )]
    })
}

/// The findings of a report.
fn read(report: &Value) -> Result<Vec<Finding>, CliError> {
    let findings = report.get("findings").unwrap_or(&Value::Null);
    Vec::deserialize(findings)
        .map_err(|error| CliError::internal("reading the provisioner's report", error))
}

fn engine() -> Finding {
    engine_of(engine::version())
}

/// Of one that would refuse the agent's container it says how that one starts all the same.
fn engine_of(seen: Result<String, CliError>) -> Finding {
    let number = seen.as_deref().ok().and_then(parse);
    let mut finding = version("engine", "Docker Engine", seen, OLDEST_ENGINE);
    if finding.ok && number.is_some_and(|number| number < KNOWS_BPF) {
        finding.detail.push_str(
            ", which does not know CAP_BPF: COMPOSE_FILE=compose.yaml:deploy/compose/sys-admin.yaml docker compose up",
        );
    }
    finding
}

fn compose() -> Finding {
    let (what, seen) = ("the compose plugin", engine::compose_version());
    version("compose", what, seen, OLDEST_COMPOSE)
}

fn version(
    subject: &str,
    what: &str,
    seen: Result<String, CliError>,
    (major, minor): (u32, u32),
) -> Finding {
    match seen {
        Ok(version) if parse(&version).is_some_and(|version| version >= (major, minor)) => {
            Finding::good(Category::Machine, subject, format!("{what} {version}"))
        }
        Ok(version) => Finding::bad(
            Category::Machine,
            subject,
            format!(
                "{what} is {version}, and {major}.{minor} or newer is needed\n  \
                 fix: update it (docs.docker.com)"
            ),
        ),
        Err(error) => Finding::bad(Category::Machine, subject, error.to_string()),
    }
}

/// `20.10.24+dfsg1`, `v2.40.3` → major and minor.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn engine_memory() -> Finding {
    match engine::machine_memory() {
        Ok(bytes) => super::memory("memory", bytes >> 20),
        Err(error) => Finding::bad(Category::Machine, "memory", error.to_string()),
    }
}

/// Absent images are made or fetched by `docker compose up`: that takes time, and is no fault.
fn images(compose_file: &Path) -> Finding {
    match engine::images(compose_file) {
        Ok((count, missing)) if missing.is_empty() => Finding::good(
            Category::Machine,
            "images",
            format!("all {count} are there"),
        ),
        Ok((count, missing)) => Finding::good(
            Category::Machine,
            "images",
            format!(
                "{} of {count} are there; `docker compose up` builds or pulls the others: {}\n  \
                 without a registry: cargo xtask images --offline-base",
                count - missing.len(),
                missing.join(", ")
            ),
        ),
        Err(error) => Finding::bad(Category::Machine, "images", error.to_string()),
    }
}

fn public_port(args: &CompositionArgs, project: &Project<'_>) -> Result<Finding, CliError> {
    let (mut composition, _) = args.load()?;
    // Containers have ports of their own: the public one is the machine's.
    composition.components.clear();
    let held_by_us = project
        .containers()
        .unwrap_or_default()
        .values()
        .any(|container| container.pid > 0);
    if held_by_us {
        let detail = format!("held by the running project `{}`", project.name);
        return Ok(Finding::good(Category::Machine, "ports", detail));
    }
    let conflicts = ports::conflicts(&composition);
    Ok(if conflicts.is_empty() {
        let port = composition.public.port.value;
        Finding::good(Category::Machine, "ports", format!("{port} is free"))
    } else {
        let text = conflicts.join("\n");
        Finding::bad(
            Category::Machine,
            "ports",
            format!("{text}\n  in containers: RINGWALL_PORT=9443 docker compose up"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_the_provisioner_are_read_as_they_are_written() {
        let bad = Finding::bad(Category::DataPlane, "orders", "no answer".into());
        let good = Finding::good(Category::ControlPlane, "leader", "here".into());
        let report = serde_json::json!({ "ok": false, "findings": [bad, good] });
        let found = read(&report).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].category, Category::DataPlane);
        assert_eq!(
            found[0].hint.as_deref(),
            Some("docs/operate.md#check-data-plane")
        );
        assert!(!found[0].ok && found[1].ok && found[1].hint.is_none());
        assert!(read(&serde_json::json!({ "error": "x" })).is_err());
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(parse("20.10.24+dfsg1"), Some((20, 10)));
        assert_eq!(parse("v2.40.3"), Some((2, 40)));
        assert_eq!(parse("none"), None);
        let seen = |text: &str| version("compose", "the plugin", Ok(text.into()), (2, 24));
        assert!(seen("2.24.0").ok);
        assert!(seen("5.0.1").ok);
        let old = seen("2.9.0");
        assert!(!old.ok);
        assert!(
            old.detail.contains("2.24 or newer is needed"),
            "{}",
            old.detail
        );
    }

    #[test]
    fn an_engine_without_the_agents_capabilities_is_told_the_way() {
        let engine = |text: &str| engine_of(Ok(text.into()));
        let old = engine("20.10.24+dfsg1");
        assert!(old.ok && old.detail.contains("sys-admin.yaml"), "{old:?}");
        assert!(!engine("28.2.2").detail.contains("sys-admin.yaml"));
        assert!(!engine("19.3.0").ok);
    }

    #[test]
    fn an_absent_engine_is_told_with_the_way_out() {
        let error = CliError::ToolMissing {
            what: "the command `docker`".into(),
            fix: "install it".into(),
        };
        let finding = version("engine", "Docker Engine", Err(error), OLDEST_ENGINE);
        assert!(!finding.ok);
        assert!(finding.detail.contains("fix: install it"));
    }
}
