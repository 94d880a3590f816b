//! Traces: W3C trace context in and out, spans to an OTLP receiver.
//!
//! Owns: the OpenTelemetry SDK's set-up and the propagation functions. Components only use spans of
//! `tracing` and the functions here.
//! Must not: put a secret, a query or a body into a span. When traces are off, no span exists, and
//! these functions cost one thread-local read.
//! Read next: `telemetry/export.rs`.

mod bounded;
mod export;

use std::time::Duration;

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider as _},
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use ringwall_http_io::{Client, ClientLimits};
use ringwall_proto::{headers, paths};
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets, filter_fn},
    layer::{Filter, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use self::{
    bounded::{Bounded, Counted, Losses},
    export::ExportClient,
};
use crate::{config::ServiceConfig, error::StartError, logs, shell::Shell};

/// Spans kept while the receiver is away; more are dropped, and counted.
const MAX_QUEUE: usize = 2048;
const MAX_BATCH: usize = 256;
/// Short, so that a trace is complete soon after its request.
const EXPORT_EVERY: Duration = Duration::from_secs(1);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The running telemetry of a process; [`Telemetry::shutdown`] sends what is left.
pub(crate) struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets the process's subscriber: logs always, traces when configured. Call once, in the runtime.
    pub(crate) fn init(shell: &Shell) -> Result<Self, StartError> {
        let config = &shell.config;
        let provider = provider(shell)?;
        let targets = logs::filter(&config.logs.level)
            .map_err(|error| StartError::config(format!("service.logs.level: {error}")))?;
        let log_layer =
            logs::LogLayer::new(&config.name, &config.logs).with_filter(logs::events(targets));
        let trace_layer = provider
            .as_ref()
            .map(|provider| span_layer(provider.tracer("ringwall")));
        tracing_subscriber::registry()
            .with(trace_layer)
            .with(log_layer)
            .try_init()
            .map_err(|error| {
                StartError::software(format!("telemetry is already set up: {error}"))
            })?;
        Ok(Self { provider })
    }

    /// Sends the spans that are still queued, for at most 2 s.
    pub(crate) async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        let flush = move || provider.shutdown_with_timeout(Duration::from_secs(2));
        // The flush blocks; the runtime must go on, because the export runs in it.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(flush).await {
            tracing::debug!(%error, "spans were lost at the end");
        }
    }
}

/// The layer that turns our spans into OpenTelemetry's. Events stay out of traces: logs have them.
pub(crate) fn span_layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(our_spans())
}

/// Spans of ours alone. The hint of the second half is needed: without one, the whole filter would have none, and
/// every span of every library would be made before it is thrown away.
fn our_spans<S>() -> impl Filter<S> {
    let ours = Targets::new().with_target("ringwall", LevelFilter::INFO);
    let spans = filter_fn(|metadata| metadata.is_span()).with_max_level_hint(LevelFilter::TRACE);
    FilterExt::and(ours, spans)
}

fn provider(shell: &Shell) -> Result<Option<SdkTracerProvider>, StartError> {
    let Some(telemetry) = &shell.config.telemetry else {
        return Ok(None);
    };
    let limits = ClientLimits {
        request_timeout: EXPORT_TIMEOUT,
        max_idle: 1,
        ..ClientLimits::default()
    };
    let client = match &telemetry.upstream {
        Some(name) => shell.client(name)?,
        None => Client::plain(telemetry.collector()?, limits).named("collector"),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(ExportClient::new(client, tokio::runtime::Handle::current()))
        // The client dials what the configuration names; of this address only the path counts.
        .with_endpoint(format!("http://telemetry{}", paths::OTLP_TRACES))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(StartError::config)?;
    Ok(Some(with_exporter(
        &shell.config,
        telemetry.sample_ratio,
        exporter,
        Losses::register(&shell.metrics),
    )))
}

fn with_exporter(
    config: &ServiceConfig,
    ratio: f64,
    exporter: impl opentelemetry_sdk::trace::SpanExporter + 'static,
    losses: Losses,
) -> SdkTracerProvider {
    let batch = BatchConfigBuilder::default()
        // Never reached: what has no room is counted before it comes here.
        .with_max_queue_size(MAX_QUEUE + MAX_BATCH)
        .with_max_export_batch_size(MAX_BATCH)
        .with_scheduled_delay(EXPORT_EVERY)
        .build();
    let exporter = Counted {
        inner: exporter,
        losses: losses.clone(),
    };
    let processor = Bounded {
        inner: BatchSpanProcessor::builder(exporter)
            .with_batch_config(batch)
            .build(),
        most: MAX_QUEUE,
        losses,
    };
    SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            ratio,
        ))))
        .with_resource(
            Resource::builder()
                .with_service_name(config.name.clone())
                .build(),
        )
        .build()
}

/// W3C trace id of the request at hand: 32 hexadecimal digits. `None` when traces are off.
pub fn current_trace_id() -> Option<String> {
    Context::map_current(|context| {
        let span = context.span();
        let ids = span.span_context();
        ids.is_valid().then(|| ids.trace_id().to_string())
    })
}

/// `traceparent` of the current span (W3C Trace Context §3.2), for messages that outlive the request.
pub fn current_traceparent() -> Option<String> {
    let mut carrier = HeaderMap::new();
    inject(&mut carrier);
    carrier
        .get(headers::TRACEPARENT)?
        .to_str()
        .ok()
        .map(ToOwned::to_owned)
}

/// Adds the current span's trace context to outgoing headers, replacing any that is there.
pub fn inject(headers: &mut HeaderMap) {
    Context::map_current(|context| inject_context(context, headers));
}

/// Makes `span` continue the trace that `traceparent` names. Call it before the span is entered.
pub fn follow(span: &Span, traceparent: &str) {
    let mut carrier = HeaderMap::new();
    if let Ok(value) = traceparent.parse() {
        carrier.insert(headers::TRACEPARENT, value);
        follow_headers(span, &carrier);
    }
}

/// Makes `span` continue the trace that a request's headers name. A malformed `traceparent` starts a
/// new trace (W3C Trace Context §3.2.2.3).
pub fn follow_headers(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    if context.span().span_context().is_valid() {
        // Only fails when the span has begun, which the callers of this function exclude.
        let _begun = span.set_parent(context);
    }
}

/// Names a span that has begun; the field `otel.name` counts only until then.
pub fn rename(span: &Span, name: String) {
    if !span.is_disabled() {
        span.context().span().update_name(name);
    }
}

/// Adds `span`'s trace context to outgoing headers.
pub(crate) fn inject_span(span: &Span, headers: &mut HeaderMap) {
    if !span.is_disabled() {
        inject_context(&span.context(), headers);
    }
}

fn inject_context(context: &Context, headers: &mut HeaderMap) {
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(context, &mut HeaderInjector(headers));
    }
}

#[cfg(test)]
#[path = "telemetry/tests.rs"]
mod tests;
