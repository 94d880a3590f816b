//! The admin listener's routes: `/healthz`, `/readyz`, `/metrics`, and the component's own.
//!
//! Owns: that the component's own routes ([`crate::App::admin`]) are the operator's alone. The other admin callers
//! scrape and probe; what a component shows beyond that may concern other people's requests.

use axum::{
    Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use ringwall_http_io::Problem;
use ringwall_proto::{headers, problems};

use crate::{peer::Peer, shell::Shell};

/// The workload that operates the platform: `ringwall` on the command line.
const OPERATOR: &str = "ringwall";

/// OpenMetrics 1.0 §"Overall structure".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) fn router(shell: Shell, own: Option<Router>) -> Router {
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shell);
    match own {
        Some(own) => routes.merge(own.route_layer(middleware::from_fn(operator_only))),
        None => routes,
    }
}

async fn operator_only(peer: Peer, request: Request, next: Next) -> Result<Response, Problem> {
    peer.require(OPERATOR)?;
    Ok(next.run(request).await)
}

async fn readyz(State(shell): State<Shell>) -> Response {
    let readiness = shell.health.readiness().await;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let process = [(headers::PROCESS, std::process::id().to_string())];
    (status, process, Json(readiness)).into_response()
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
