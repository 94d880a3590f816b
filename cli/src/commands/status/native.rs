//! The stack that `ringwall up` runs: its record, and each component asked just now.

use serde_json::{Value, json};

use super::super::runtime;
use super::{READY, Report, Row};
use crate::error::CliError;
use crate::probe::Prober;
use crate::record::{ComponentRecord, Condition, Record};
use crate::state::StateDir;

/// The record of a running platform.
pub(super) fn running(state: &StateDir) -> Result<Option<Record>, CliError> {
    Ok(Record::read(state)?.filter(|record| record.supervisor().is_alive()))
}

/// Asks every component.
pub(super) fn report(record: &Record, state: &StateDir) -> Result<Report, CliError> {
    let health = runtime()?.block_on(probe_all(record, state))?;
    let rows: Vec<Row> = record
        .components
        .iter()
        .zip(health)
        .map(|(component, health)| Row {
            name: component.name.clone(),
            address: component.address.to_string(),
            health,
            pid: component.pid,
            memory_kib: component.process().and_then(|process| process.rss_kib()),
            restarts: component.restarts,
            since: component.since,
        })
        .collect();
    Ok(Report {
        stack: match record.attestation {
            Some(tier) => {
                let interception = record.interception.as_deref().unwrap_or("none");
                let tier = tier.as_str();
                format!("native, workloads recognised by {tier}, interception {interception}")
            }
            None => "native".into(),
        },
        url: record.url.clone(),
        json: as_json(record, &rows)?,
        rows,
    })
}

/// The health of each component, in the record's order, asked at the same time.
async fn probe_all(record: &Record, state: &StateDir) -> Result<Vec<String>, CliError> {
    let prober = Prober::load(state, &record.trust_domain)?;
    let mut questions = Vec::new();
    for component in &record.components {
        let (prober, component) = (prober.clone(), component.clone());
        questions.push(tokio::spawn(
            async move { probe(&prober, &component).await },
        ));
    }
    let mut health = Vec::new();
    for question in questions {
        health.push(question.await.unwrap_or_else(|error| error.to_string()));
    }
    Ok(health)
}

async fn probe(prober: &Prober, component: &ComponentRecord) -> String {
    let unwatched = component.condition == Condition::Unwatched;
    if !unwatched
        && !component
            .process()
            .is_some_and(|process| process.is_alive())
    {
        return match component.condition {
            Condition::Ready | Condition::Starting => "dead".into(),
            other => other.as_str().into(),
        };
    }
    match &component.admin {
        Some(admin) => match prober.ready(&component.identity, admin, None).await {
            Ok(()) => READY.into(),
            Err(why) => format!("not ready: {why}"),
        },
        // A database in containers is on a network that the operator is not in: its engine knows.
        None if unwatched => Condition::Unwatched.as_str().into(),
        // PostgreSQL answers a connection when it can serve one.
        None => match tokio::net::TcpStream::connect(component.address.to_string()).await {
            Ok(_) => READY.into(),
            Err(error) => format!("not ready: {error}"),
        },
    }
}

/// The record with what was just seen.
fn as_json(record: &Record, rows: &[Row]) -> Result<Value, CliError> {
    let mut value = serde_json::to_value(record)
        .map_err(|error| CliError::internal("writing the record", error))?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("stack".into(), json!("native"));
    }
    let list = value.get_mut("components").and_then(Value::as_array_mut);
    for (entry, row) in list.into_iter().flatten().zip(rows) {
        if let Some(fields) = entry.as_object_mut() {
            fields.insert("health".into(), json!(row.health));
            fields.insert("rss_kib".into(), json!(row.memory_kib));
        }
    }
    Ok(value)
}
