//! One trace over several hops, and the export over the mesh.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    routing::{get, post},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter as ExportSpans},
};
use ringwall_http_io::{Transport, body::empty};
use ringwall_proto::paths;
use serde_json::Value;

use super::*;
use crate::{
    App,
    extract::Json,
    fixture::{Mesh, Running},
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Keeps what is exported.
#[derive(Debug, Clone, Default)]
struct InMemorySpanExporter(Arc<Mutex<Vec<SpanData>>>);

impl ExportSpans for InMemorySpanExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// Traces of this thread go to memory.
fn trace_to_memory() -> (InMemorySpanExporter, tracing::subscriber::DefaultGuard) {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = span_layer(provider.tracer("ringwall"));
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    (exporter, guard)
}

async fn headers_seen(headers: HeaderMap) -> Json<Option<String>> {
    Json(
        headers
            .get("traceparent")
            .map(|v| v.to_str().unwrap().to_owned()),
    )
}

#[tokio::test]
async fn a_trace_goes_through_an_upstream_call() {
    let (exporter, _guard) = trace_to_memory();
    let mesh = Mesh::new();
    let inventory = Router::new().route("/v1/items", get(headers_seen));
    let inventory = Running::start(
        mesh.shell("inventory", &["orders"], ""),
        App::new(inventory),
    )
    .await;

    let extra = format!(
        "upstreams: {{ inventory: {{ address: \"{}\", identity: inventory }} }}",
        inventory.mesh
    );
    let orders = mesh.shell("orders", &["gateway"], &extra);
    let upstream = orders.upstream("inventory").unwrap();
    let route = get(move || {
        let upstream = upstream.clone();
        async move {
            let seen = upstream
                .get_json::<Option<String>>("/v1/items")
                .await
                .unwrap()
                .body;
            Json((seen, current_trace_id(), current_traceparent()))
        }
    });
    let orders = Running::start(
        orders,
        App::new(Router::new().route("/v1/catalogue", route)),
    )
    .await;

    let gateway = mesh.client("gateway", "orders", orders.mesh);
    let answer = gateway
        .get("/v1/catalogue")
        .header("traceparent", PARENT)
        .receive::<(String, String, String)>();
    let (downstream, trace_id, own) = answer.await.unwrap().body;
    assert_eq!(trace_id, TRACE);
    assert!(downstream.starts_with(&format!("00-{TRACE}-")) && downstream.ends_with("-01"));
    assert!(own.starts_with(&format!("00-{TRACE}-")));
    assert_ne!(downstream, PARENT);
    orders.stop().await.unwrap();
    inventory.stop().await.unwrap();

    let spans = exporter.0.lock().unwrap().clone();
    let find = |name: &str| {
        spans
            .iter()
            .find(|span| span.name == name)
            .unwrap_or_else(|| panic!("{name}: {spans:?}"))
    };
    let server = find("GET /v1/catalogue");
    let call = find("GET inventory");
    let far = find("GET /v1/items");
    assert_eq!(server.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(call.parent_span_id, server.span_context.span_id());
    assert_eq!(far.parent_span_id, call.span_context.span_id());
    assert_eq!(server.span_kind, opentelemetry::trace::SpanKind::Server);
    assert_eq!(call.span_kind, opentelemetry::trace::SpanKind::Client);
    assert!(
        spans
            .iter()
            .all(|span| span.span_context.trace_id().to_string() == TRACE)
    );
}

#[tokio::test]
async fn a_malformed_parent_starts_a_new_trace() {
    let (exporter, _guard) = trace_to_memory();
    let span = tracing::info_span!("consume");
    follow(&span, "00-zz-zz-01");
    span.in_scope(|| assert_ne!(current_trace_id().as_deref(), Some(TRACE)));
    drop(span);
    let span = tracing::info_span!("consume");
    follow(&span, PARENT);
    span.in_scope(|| assert_eq!(current_trace_id().as_deref(), Some(TRACE)));
    drop(span);
    assert_eq!(exporter.0.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn without_telemetry_there_is_no_trace() {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    assert!(headers.is_empty());
    assert_eq!((current_trace_id(), current_traceparent()), (None, None));
    assert!(tracing::info_span!("request").is_disabled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn spans_leave_over_the_mesh_as_otlp_protobuf() {
    let mesh = Mesh::new();
    let seen = Arc::new(Mutex::new(Vec::<(String, Vec<u8>)>::new()));
    let receiver = {
        let seen = seen.clone();
        post(
            move |headers: HeaderMap, body: axum::body::Bytes| async move {
                let content_type = headers["content-type"].to_str().unwrap().to_owned();
                seen.lock().unwrap().push((content_type, body.to_vec()));
            },
        )
    };
    let router = Router::new().route(paths::OTLP_TRACES, receiver);
    let spa = Running::start(mesh.shell("spa-proxy", &["orders"], ""), App::new(router)).await;
    let extra = format!(
        "upstreams: {{ spa-proxy: {{ address: \"{}\", identity: spa-proxy }} }}\ntelemetry: {{ upstream: spa-proxy }}",
        spa.mesh
    );
    let shell = mesh.shell("orders", &[], &extra);
    let provider = provider(&shell).unwrap().unwrap();
    let layer = span_layer(provider.tracer("ringwall"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        drop(tracing::info_span!("place order").entered());
    });
    Telemetry {
        provider: Some(provider),
    }
    .shutdown()
    .await;
    let seen = seen.lock().unwrap();
    let (content_type, body) = &seen[0];
    assert_eq!(content_type, "application/x-protobuf");
    let contains = |text: &str| body.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(contains("place order") && contains("service.name") && contains("orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_receiver_that_is_away_does_not_hold_the_end_up() {
    let mesh = Mesh::new();
    let extra = "telemetry: { endpoint: \"http://127.0.0.1:9\" }";
    let shell = mesh.shell("orders", &[], extra);
    let provider = provider(&shell).unwrap().unwrap();
    let layer = span_layer(provider.tracer("ringwall"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        drop(tracing::info_span!("place order").entered());
    });
    let shutdown = Telemetry {
        provider: Some(provider),
    }
    .shutdown();
    tokio::time::timeout(Duration::from_secs(4), shutdown)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refused_call_marks_its_span() {
    let (exporter, _guard) = trace_to_memory();
    let mesh = Mesh::new();
    let inventory = Running::start(
        mesh.shell("inventory", &["orders"], ""),
        App::new(Router::new()),
    )
    .await;
    let extra = format!(
        "upstreams: {{ inventory: {{ address: \"{}\", identity: inventory }} }}",
        inventory.mesh
    );
    let upstream = mesh
        .shell("orders", &[], &extra)
        .upstream("inventory")
        .unwrap();
    upstream
        .get_json::<Value>("/missing?secret=1")
        .await
        .unwrap_err();
    let request = http::Request::get("/missing").body(empty()).unwrap();
    assert_eq!(upstream.send(request).await.unwrap().status(), 404);
    inventory.stop().await.unwrap();
    let spans = exporter.0.lock().unwrap().clone();
    let call = spans
        .iter()
        .find(|span| span.name == "GET inventory")
        .unwrap();
    assert!(matches!(
        call.status,
        opentelemetry::trace::Status::Error { .. }
    ));
    assert!(
        !format!("{spans:?}").contains("secret=1"),
        "a query must not be recorded"
    );
}

/// Takes nothing, and slowly.
#[derive(Debug)]
struct Away;

impl ExportSpans for Away {
    async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
        Err(opentelemetry_sdk::error::OTelSdkError::InternalFailure(
            "away".to_owned(),
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn r36_spans_that_are_lost_are_counted() {
    let mesh = Mesh::new();
    let shell = mesh.shell("orders", &[], "");
    let losses = Losses::register(&shell.metrics);
    let provider = with_exporter(&shell.config, 1.0, Away, losses);
    let layer = span_layer(provider.tracer("ringwall"));
    let many = MAX_QUEUE * 2;
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for _ in 0..many {
            drop(tracing::info_span!("place order").entered());
        }
    });
    Telemetry {
        provider: Some(provider),
    }
    .shutdown()
    .await;
    let text = shell.metrics.encode().unwrap();
    let count = |line: &str| -> usize {
        let value = text.lines().find_map(|seen| seen.strip_prefix(line));
        value
            .unwrap_or_else(|| panic!("{line}: {text}"))
            .trim()
            .parse()
            .unwrap()
    };
    let full = count("telemetry_spans_lost_total{reason=\"queue_full\"}");
    let not_taken = count("telemetry_spans_lost_total{reason=\"not_taken\"}");
    assert_eq!(full + not_taken, many, "{text}");
    assert_eq!(count("telemetry_spans_sent_total"), 0);
}

#[test]
fn libraries_make_no_spans_that_nobody_sees() {
    // A subscriber passes on what its filters say; without a hint every callsite would be asked each time.
    let events = logs::events::<tracing_subscriber::Registry>(logs::filter("info").unwrap());
    assert_eq!(events.max_level_hint(), Some(LevelFilter::INFO));
    let spans = our_spans::<tracing_subscriber::Registry>();
    assert_eq!(spans.max_level_hint(), Some(LevelFilter::INFO));
}
