//! The admin listener's routes: `/healthz`, `/readyz`, `/metrics`.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use ringwall_http_io::Problem;
use ringwall_proto::problems;

use crate::shell::Shell;

/// OpenMetrics 1.0 §"Overall structure".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) fn router(shell: Shell) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shell)
}

async fn readyz(State(shell): State<Shell>) -> Response {
    let readiness = shell.health.readiness().await;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(shell): State<Shell>) -> Result<Response, Problem> {
    // Behind a service proxy there is no certificate here; the proxy tells of its own.
    if let Ok(identity) = shell.identity() {
        let not_after = identity.not_after().unix_timestamp();
        shell.metrics.identity_not_after.set(not_after);
    }
    match shell.metrics.encode() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()),
        Err(_) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            problems::INTERNAL,
            "Metrics cannot be encoded",
        )),
    }
}
