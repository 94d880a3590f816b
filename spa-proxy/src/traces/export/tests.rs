//! The export against a receiver with a real mTLS listener: one that works, is slow, refuses, is
//! away and comes back, or is somebody else.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::State, routing::post};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use parking_lot::Mutex;
use prost::Message;
use ringwall_http_io::{Client, ClientLimits, Transport, body};
use ringwall_service::{App, Shell, serve};
use ringwall_tls::{IdentitySource, mesh_client_config};
use serde_json::json;
use tokio::task::JoinHandle;

use super::{Dropped, ExportLimits, ExportMetrics, SpanExport, queue};
use crate::{
    app,
    tests::mesh::{Mesh, free_port, id},
};

/// What the receiver has and how it behaves.
#[derive(Default)]
struct Behaviour {
    got: Mutex<Vec<ExportTraceServiceRequest>>,
    calls: AtomicU64,
    delay_ms: AtomicU64,
    /// Status of its answers; 0 is 200.
    status: AtomicU16,
    rejects: AtomicU64,
}

/// A receiver of spans as an operator has one: its own identity, and only spa-proxy may call.
struct Receiver {
    behaviour: Arc<Behaviour>,
    shell: Shell,
    task: JoinHandle<()>,
}

impl Receiver {
    fn start(mesh: &Mesh, name: &'static str, port: u16) -> Self {
        let config = serde_json::from_value(json!({
            "name": name, "trust_domain": "ringwall.local", "profile": "demo",
            "listen": format!("127.0.0.1:{port}"), "admin": "127.0.0.1:0",
            "identity": mesh.identity(name), "callers": ["spa-proxy"], "drain": "1s",
            "secrets": { "provider": "file", "directory": mesh.identity(name) },
        }));
        let shell = Shell::open(name, config.unwrap()).unwrap();
        let behaviour = Arc::new(Behaviour::default());
        let router = Router::new()
            .route("/v1/traces", post(receive))
            .with_state(Arc::clone(&behaviour));
        let serving = serve(shell.clone(), App::new(router));
        Self {
            behaviour,
            shell,
            task: tokio::spawn(async move { serving.await.unwrap() }),
        }
    }

    fn spans(&self) -> usize {
        let got = self.behaviour.got.lock();
        got.iter().map(|batch| spans_of(batch).len()).sum()
    }

    async fn stop(self) {
        self.shell.begin_shutdown();
        self.task.await.unwrap();
    }
}

async fn receive(State(behaviour): State<Arc<Behaviour>>, body: Body) -> (StatusCode, Vec<u8>) {
    behaviour.calls.fetch_add(1, Ordering::Relaxed);
    let bytes = body::collect(body, 8 << 20).await.unwrap();
    tokio::time::sleep(Duration::from_millis(
        behaviour.delay_ms.load(Ordering::Relaxed),
    ))
    .await;
    let status = behaviour.status.load(Ordering::Relaxed);
    if let Ok(status) = StatusCode::from_u16(status)
        && status != StatusCode::OK
    {
        return (status, Vec::new());
    }
    let batch = ExportTraceServiceRequest::decode(bytes).unwrap();
    behaviour.got.lock().push(batch);
    let rejected = behaviour.rejects.load(Ordering::Relaxed);
    let partial_success = Some(ExportTracePartialSuccess {
        rejected_spans: i64::try_from(rejected).unwrap(),
        ..ExportTracePartialSuccess::default()
    });
    let answer = ExportTraceServiceResponse { partial_success };
    (StatusCode::OK, answer.encode_to_vec())
}

fn spans_of(batch: &ExportTraceServiceRequest) -> Vec<&Span> {
    let scopes = batch.resource_spans.iter().flat_map(|r| &r.scope_spans);
    scopes.flat_map(|scope| &scope.spans).collect()
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(Value::StringValue(value.to_owned()));
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value }),
        ..KeyValue::default()
    }
}

/// A batch of two spans whose sender says that it is payments.
fn batch() -> Bytes {
    let span = |n| Span {
        trace_id: vec![7; 16],
        span_id: vec![n; 8],
        name: "POST /v1/orders".into(),
        attributes: vec![text("http.route", "/v1/orders")],
        ..Span::default()
    };
    let resource = Resource {
        attributes: vec![text("service.name", "payments"), text("host.name", "a")],
        ..Resource::default()
    };
    let scope_spans = vec![ScopeSpans {
        spans: vec![span(1), span(2)],
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        resource: Some(resource),
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }
        .encode_to_vec()
        .into()
}

fn limits() -> ExportLimits {
    ExportLimits {
        queue_bytes: 16 * batch().len(),
        attempt: Duration::from_secs(1),
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(100),
        ..ExportLimits::default()
    }
}

/// The export of spa-proxy to `jaeger` at a port of loopback.
struct Exporting {
    export: SpanExport,
    metrics: ExportMetrics,
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    fn start(mesh: &Mesh, port: u16, limits: ExportLimits) -> Self {
        let source = IdentitySource::load(&mesh.identity("spa-proxy")).unwrap();
        let tls = mesh_client_config(&source, id("jaeger")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let client = Client::mesh(address, tls, ClientLimits::default()).named("jaeger");
        let metrics = ExportMetrics::default();
        let (export, sender) = queue(client, limits, metrics.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stopped = async move { stopped.await.unwrap() };
        let task = tokio::spawn(sender.run(stopped, Duration::from_secs(2)));
        Self {
            export,
            metrics,
            stop,
            task,
        }
    }

    fn offer(&self) {
        self.export.offer("orders", &batch(), 2);
    }

    fn dropped(&self, why: Dropped) -> u64 {
        self.metrics.dropped_total(why)
    }

    async fn stop(self) -> ExportMetrics {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        self.metrics
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn r69_a_component_s_batch_reaches_the_receiver_under_the_name_of_its_certificate() {
    let mesh = Mesh::new();
    let (port, admin, receiver_port) = (free_port(), free_port(), free_port());
    let receiver = Receiver::start(&mesh, "jaeger", receiver_port);
    let mut config = mesh.config(port, admin);
    let upstream = json!({ "address": format!("127.0.0.1:{receiver_port}"), "identity": "jaeger" });
    let upstream = serde_json::from_value(upstream).unwrap();
    config.service.upstreams.insert("jaeger".into(), upstream);
    config.traces.export_to = Some("jaeger".into());
    let shell = Shell::open("spa-proxy", config.service.clone()).unwrap();
    let app = app::start(shell.clone(), config).await.unwrap();
    let running = tokio::spawn(serve(shell.clone(), app));

    let orders = mesh.client("orders", SocketAddr::from(([127, 0, 0, 1], port)));
    let send = || async {
        let request = Request::post("/v1/traces")
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(body::full(batch()))
            .unwrap();
        orders.send(request).await.map(|answer| answer.status())
    };
    let mut first = send().await;
    for _attempt in 0..50 {
        if first.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        first = send().await;
    }
    assert_eq!(first.unwrap(), StatusCode::OK);
    // The last one is on its way when the process is told to end.
    assert_eq!(send().await.unwrap(), StatusCode::OK);
    shell.begin_shutdown();
    running.await.unwrap().unwrap();

    assert_eq!(receiver.spans(), 4);
    let got = receiver.behaviour.got.lock().clone();
    let spans = got.first().unwrap();
    let resource = spans.resource_spans.first().unwrap().resource.as_ref();
    let attributes = &resource.unwrap().attributes;
    assert_eq!(
        attributes,
        &[text("host.name", "a"), text("service.name", "orders")]
    );
    let span = *spans_of(spans).first().unwrap();
    assert_eq!(span.name, "POST /v1/orders");
    assert_eq!(span.attributes, [text("http.route", "/v1/orders")]);
    receiver.stop().await;
}

#[tokio::test]
async fn a_slow_receiver_costs_spans_and_not_time() {
    let mesh = Mesh::new();
    let port = free_port();
    let receiver = Receiver::start(&mesh, "jaeger", port);
    receiver.behaviour.delay_ms.store(100, Ordering::Relaxed);
    let exporting = Exporting::start(&mesh, port, limits());
    let began = Instant::now();
    for _ in 0..1_000 {
        exporting.offer();
    }
    // The receiver needs that long for the first five of them.
    let took = began.elapsed();
    assert!(
        took < Duration::from_millis(500),
        "the intake took {took:?}"
    );
    // Nothing was sent yet: the runtime has one thread. What has no room is lost at once.
    assert_eq!(exporting.dropped(Dropped::QueueFull), 2 * (1_000 - 16));
    until("what had room arrives", || receiver.spans() == 2 * 16).await;
    let metrics = exporting.stop().await;
    assert_eq!(metrics.exported_total(), 2 * 16);
    receiver.stop().await;
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_what_waited_and_the_log_has_two_lines() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let mesh = Mesh::new();
    let port = free_port();
    let exporting = Exporting::start(&mesh, port, limits());
    for _ in 0..20 {
        exporting.offer();
    }
    until("the failure is said", || !lines.seen().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(exporting.dropped(Dropped::QueueFull), 2 * (20 - 16));
    assert_eq!(exporting.metrics.exported_total(), 0);
    assert_eq!(
        lines.seen(),
        ["spans cannot be exported; requests are not affected"]
    );

    let receiver = Receiver::start(&mesh, "jaeger", port);
    until("what waited arrives", || receiver.spans() == 2 * 16).await;
    exporting.offer();
    until("a new one arrives", || receiver.spans() == 2 * 17).await;
    let metrics = exporting.stop().await;
    assert_eq!(metrics.exported_total(), 2 * 17);
    receiver.stop().await;
    assert_eq!(
        lines.seen().get(1..),
        Some(&["spans are exported again".to_owned()][..])
    );
}

#[tokio::test]
async fn r71_another_workload_in_the_place_of_the_receiver_gets_nothing() {
    let mesh = Mesh::new();
    let port = free_port();
    let receiver = Receiver::start(&mesh, "inventory", port);
    let exporting = Exporting::start(&mesh, port, limits());
    exporting.offer();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let metrics = exporting.stop().await;
    assert_eq!(receiver.behaviour.calls.load(Ordering::Relaxed), 0);
    assert_eq!(metrics.exported_total(), 0);
    assert_eq!(metrics.dropped_total(Dropped::Shutdown), 2);
    receiver.stop().await;
}

#[tokio::test]
async fn refusals_are_final_and_an_overloaded_receiver_is_asked_again() {
    let mesh = Mesh::new();
    let port = free_port();
    let receiver = Receiver::start(&mesh, "jaeger", port);
    let behaviour = &receiver.behaviour;
    let exporting = Exporting::start(&mesh, port, limits());

    behaviour.status.store(400, Ordering::Relaxed);
    exporting.offer();
    until("the refusal is counted", || {
        exporting.dropped(Dropped::Refused) == 2
    })
    .await;
    assert_eq!(behaviour.calls.load(Ordering::Relaxed), 1);

    behaviour.status.store(503, Ordering::Relaxed);
    exporting.offer();
    until("it is asked again", || {
        behaviour.calls.load(Ordering::Relaxed) > 5
    })
    .await;
    behaviour.status.store(0, Ordering::Relaxed);
    behaviour.rejects.store(1, Ordering::Relaxed);
    until("it takes one of two", || {
        exporting.metrics.exported_total() == 1 && exporting.dropped(Dropped::Refused) == 3
    })
    .await;

    let began = behaviour.calls.load(Ordering::Relaxed);
    behaviour.delay_ms.store(3_000, Ordering::Relaxed);
    exporting.offer();
    until("what is never answered is given up", || {
        exporting.dropped(Dropped::Unanswered) == 2
    })
    .await;
    assert_eq!(behaviour.calls.load(Ordering::Relaxed), began + 3);
    exporting.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn the_end_waits_for_a_receiver_no_longer_than_it_may() {
    let mesh = Mesh::new();
    let port = free_port();
    let receiver = Receiver::start(&mesh, "jaeger", port);
    receiver.behaviour.delay_ms.store(400, Ordering::Relaxed);
    let exporting = Exporting::start(&mesh, port, limits());
    for _ in 0..16 {
        exporting.offer();
    }
    let began = Instant::now();
    let export = exporting.export.clone();
    let metrics = exporting.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    let (sent, lost) = (
        metrics.exported_total(),
        metrics.dropped_total(Dropped::Shutdown),
    );
    assert!(sent > 0 && lost > 0, "{sent} sent, {lost} lost");
    assert_eq!(sent + lost, 2 * 16);
    export.offer("orders", &batch(), 2);
    assert_eq!(metrics.dropped_total(Dropped::Shutdown), lost + 2);
    receiver.stop().await;
}

/// The messages of this file's subject that were logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn seen(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().contains("spa_proxy::traces::export")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message<'a>(&'a Lines);
        impl tracing::field::Visit for Message<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0.0.lock().push(format!("{value:?}"));
                }
            }
        }
        event.record(&mut Message(self));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
