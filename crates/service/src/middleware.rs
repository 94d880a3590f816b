//! What happens around every request: span, access line, metric, and the catch of panics.

use std::{any::Any, panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, Method, StatusCode};
use ringwall_http_io::Problem;
use ringwall_proto::{paths, problems};
use tracing::{Instrument, Span, field::Empty};

use crate::{
    metrics::{Metrics, method_label},
    peer::Peer,
    telemetry,
};

/// Route label of requests that no route matched.
const UNMATCHED: &str = "unmatched";

/// Observes one request; a panic in its handler becomes `500` for this request alone.
pub(crate) async fn observe(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = || route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let peer = request.extensions().get::<Peer>().cloned();
    let peer = peer.as_ref().map_or("", Peer::name);
    let span = span(&method, route(), peer, request.headers());

    let handled = AssertUnwindSafe(next.run(request).instrument(span.clone()))
        .catch_unwind()
        .await;
    let response = handled.unwrap_or_else(|cause| {
        metrics.panics.inc();
        span.in_scope(|| {
            tracing::error!(panic = panic_text(&*cause), "a handler panicked");
        });
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            problems::INTERNAL,
            "Internal error",
        )
        .into_response()
    });

    let status = response.status();
    let took = started.elapsed();
    metrics.served(&method, route(), status, took);
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    if route() != paths::OTLP_TRACES {
        span.in_scope(|| {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let status = status.as_u16();
            let method = method_label(&method);
            tracing::info!(method, route = route(), status, peer, micros, "request");
        });
    }
    response
}

/// The server span (OpenTelemetry semantic conventions for HTTP), as a child of the caller's.
fn span(method: &Method, route: &str, peer: &str, headers: &HeaderMap) -> Span {
    // A span about receiving spans would be exported, received, and so on for ever.
    if route == paths::OTLP_TRACES {
        return Span::none();
    }
    let method = method_label(method);
    let span = tracing::info_span!(
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        ringwall.peer = peer,
    );
    telemetry::follow_headers(&span, headers);
    span
}

fn panic_text(cause: &(dyn Any + Send)) -> &str {
    let text = cause.downcast_ref::<&'static str>().copied();
    text.or_else(|| cause.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}
