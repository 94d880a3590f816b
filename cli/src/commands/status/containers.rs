//! The stack that `docker compose up` runs: the engine knows its containers, the provisioner has
//! asked each component, as natively the supervisor's machine does.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{READY, Report, Row};
use crate::engine::{self, Container, PROVISIONER, Project};
use crate::error::CliError;

/// The project's containers; none when it does not run.
pub(super) fn running(project: &Project<'_>) -> Result<Option<Containers>, CliError> {
    let containers = project.containers()?;
    let runs = |container: &Container| container.pid > 0;
    Ok(containers.values().any(runs).then_some(containers))
}

/// Containers by service.
pub(super) type Containers = BTreeMap<String, Container>;

/// The provisioner, which answers for the platform.
pub(super) fn provisioner<'a>(
    project: &Project<'_>,
    containers: &'a Containers,
) -> Result<&'a Container, CliError> {
    let found = containers.get(PROVISIONER);
    found
        .filter(|container| container.pid > 0)
        .ok_or_else(|| CliError::Engine {
            command: "ps".into(),
            said: format!("the provisioner of project `{}` does not run", project.name),
            fix: format!(
                "docker compose --project-name {} up -d provisioner",
                project.name
            ),
        })
}

/// One row for each component, then what else runs beside them.
pub(super) fn report(project: &Project<'_>, containers: &Containers) -> Result<Report, CliError> {
    let answer = project.ask(provisioner(project, containers)?, &["status"])?;
    let mut memory = engine::memory(
        containers
            .values()
            .filter(|c| c.pid > 0)
            .map(|c| c.id.as_str()),
    );
    let components = answer.get("components").and_then(Value::as_array);
    let mut rows = Vec::new();
    let mut others = containers.clone();
    for component in components.into_iter().flatten() {
        let name = text(component, "name");
        // The engine alone knows of a database, which the operator does not reach from the mesh.
        let probed = component.get("admin").is_some_and(|admin| !admin.is_null());
        let container = others.remove(&name);
        rows.push(row(
            name,
            text(component, "address"),
            probed.then(|| text(component, "health")),
            container,
            &mut memory,
        ));
    }
    rows.extend(
        others
            .into_iter()
            .map(|(name, container)| row(name, "-".into(), None, Some(container), &mut memory)),
    );
    Ok(Report {
        stack: format!("containers of project {}", project.name),
        url: text(&answer, "url"),
        json: as_json(project, &answer, &rows),
        rows,
    })
}

/// A running container is as healthy as the component says; one that does not run cannot answer.
fn row(
    name: String,
    address: String,
    probed: Option<String>,
    container: Option<Container>,
    memory: &mut BTreeMap<String, u64>,
) -> Row {
    let Some(container) = container else {
        return Row::absent(name, address);
    };
    let runs = container.pid > 0 && container.health != "paused";
    Row {
        name,
        address,
        health: probed.filter(|_| runs).unwrap_or(container.health),
        pid: container.pid,
        memory_kib: memory.remove(&container.id),
        restarts: container.restarts,
        since: container.since,
    }
}

fn as_json(project: &Project<'_>, answer: &Value, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "address": row.address, "health": row.health,
                "ready": row.health == READY, "pid": row.pid, "rss_kib": row.memory_kib,
                "restarts": row.restarts, "since": row.since_text(),
            })
        })
        .collect();
    json!({
        "stack": "containers", "project": project.name,
        "url": answer.get("url"), "issuer": answer.get("issuer"), "profile": answer.get("profile"),
        "components": rows,
    })
}

fn text(value: &Value, key: &str) -> String {
    let text = value.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn container(health: &str, pid: i32) -> Container {
        Container {
            id: "4f".into(),
            service: "orders".into(),
            pid,
            health: health.into(),
            restarts: 0,
            since: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn health(probed: Option<&str>, container: Option<Container>) -> String {
        let probed = probed.map(str::to_owned);
        row(
            "orders".into(),
            "orders:7105".into(),
            probed,
            container,
            &mut BTreeMap::new(),
        )
        .health
    }

    #[test]
    fn what_a_component_says_counts_only_while_its_container_runs() {
        assert_eq!(
            health(Some("ready"), Some(container("starting", 7))),
            "ready"
        );
        assert_eq!(
            health(Some("not ready: x"), Some(container("ready", 7))),
            "not ready: x"
        );
        assert_eq!(
            health(Some("not ready: x"), Some(container("exited (78)", 0))),
            "exited (78)"
        );
        assert_eq!(
            health(Some("not ready: x"), Some(container("paused", 7))),
            "paused"
        );
        assert_eq!(health(None, Some(container("ready", 7))), "ready");
        assert_eq!(health(Some("not ready: x"), None), "absent");
    }
}
