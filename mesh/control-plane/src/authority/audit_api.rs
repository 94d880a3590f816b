//! `GET /v1/audit?limit=N`: the newest entries of the audit log, for the operator.
//!
//! Owns: their JSON form. Must not: change anything.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use ringwall_proto::problems;
use ringwall_service::extract::Query;
use ringwall_service::{Peer, Problem};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::operator_api::OPERATOR;
use crate::store::Store;
use crate::store::model::AuditEntry;

/// Entries of one answer: unless asked otherwise, and at most.
const LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

pub(crate) fn router(store: Arc<dyn Store>) -> Router {
    Router::new()
        .route("/v1/audit", get(newest))
        .with_state(store)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    limit: Option<u32>,
}

/// One line: who did what to whom, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) at: OffsetDateTime,
    pub(crate) event: String,
    pub(crate) actor: String,
    pub(crate) subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
    pub(crate) reason: String,
}

impl From<AuditEntry> for Line {
    fn from(entry: AuditEntry) -> Self {
        Self {
            at: entry.at,
            event: entry.event,
            actor: entry.actor,
            subject: entry.subject,
            serial: entry.serial.map(|serial| serial.to_string()),
            reason: entry.reason,
        }
    }
}

async fn newest(
    State(store): State<Arc<dyn Store>>,
    peer: Peer,
    Query(asked): Query<Asked>,
) -> Result<Json<Vec<Line>>, Problem> {
    peer.require(OPERATOR)?;
    let limit = asked.limit.unwrap_or(LIMIT).min(MAX_LIMIT);
    let entries = store.audit_log(limit).await.map_err(|error| {
        tracing::error!(%error, "the audit log cannot be read");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            problems::UNAVAILABLE,
            "Temporarily unavailable",
        )
    })?;
    Ok(Json(entries.into_iter().map(Line::from).collect()))
}
