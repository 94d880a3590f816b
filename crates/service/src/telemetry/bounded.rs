//! The queue before the exporter, with its losses counted: a span that has no room, and one whose batch nobody took.
//!
//! Owns: the bound, which is checked before the SDK's own so that no loss is silent. Must not: make the thread wait that
//! ends a span.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// What became of the spans of this process. Clones share the counts.
#[derive(Clone)]
pub(super) struct Losses {
    waiting: Arc<AtomicUsize>,
    handed_in: Counter,
    full: Counter,
    not_taken: Counter,
}

impl Losses {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let lost = Family::<Reason, Counter>::default();
        let of = |reason| lost.get_or_create(&Reason { reason }).clone();
        // Both are there before the first loss: a rate needs the zero.
        let (full, not_taken) = (of("queue_full"), of("not_taken"));
        metrics.register(
            "telemetry_spans_lost",
            "Own spans that were not handed in",
            lost,
        );
        Self {
            waiting: Arc::default(),
            handed_in: metrics.counter("telemetry_spans_sent", "Own spans that were handed in"),
            full,
            not_taken,
        }
    }
}

impl fmt::Debug for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Losses").finish_non_exhaustive()
    }
}

/// A processor with room for `most` spans.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    pub(super) inner: P,
    pub(super) most: usize,
    pub(super) losses: Losses,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let waiting = &self.losses.waiting;
        if waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            waiting.fetch_sub(1, Ordering::Relaxed);
            self.losses.full.inc();
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter whose outcomes are counted.
#[derive(Debug)]
pub(super) struct Counted<E> {
    pub(super) inner: E,
    pub(super) losses: Losses,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.losses.waiting.fetch_sub(spans, Ordering::Relaxed);
        let outcome = self.inner.export(batch).await;
        let counter = match &outcome {
            Ok(()) => &self.losses.handed_in,
            Err(_) => &self.losses.not_taken,
        };
        counter.inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
