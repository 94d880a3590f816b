//! The traces of this platform, kept for a while, so that a person can see what their order did.
//!
//! Owns: the bounded store and who may look at which trace. Read next: `receive` for the way in,
//! `view` for the way out, `export` for the copy that an operator's own receiver gets. Must not: believe a span's own word about which service made it.

mod export;
mod ids;
mod receive;
mod view;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    routing::{get, post},
};
use parking_lot::Mutex;
use ringwall_proto::paths;
use ringwall_service::{Shell, StartError};
use serde::Serialize;

use self::export::{ExportLimits, ExportMetrics};
pub(crate) use self::{
    export::SpanExport,
    ids::{SpanId, TraceId},
};
use crate::{app::Ringwall, config::TraceConfig};

/// Largest export request, in bytes: more than anything else that is sent here.
pub(crate) const MAX_EXPORT: usize = 4 * 1024 * 1024;

/// What the page calls.
pub(crate) fn page_api() -> Router<Arc<Ringwall>> {
    Router::new()
        .route("/api/traces/{trace_id}", get(view::trace))
        .route("/api/spans", post(view::browser_span))
}

/// What components call.
pub(crate) fn mesh() -> Router<Arc<Ringwall>> {
    Router::new().route(paths::OTLP_TRACES, post(receive::export))
}

/// The copy for the receiver that the configuration names, and the work that sends it, which ends
/// within the drain time. Nothing when there is no receiver.
pub(crate) fn export(
    shell: &Shell,
    config: &TraceConfig,
) -> Result<Option<(SpanExport, impl Future<Output = ()> + use<>)>, StartError> {
    let Some(receiver) = &config.export_to else {
        return Ok(None);
    };
    let metrics = ExportMetrics::register(&shell.metrics);
    let client = shell.client(receiver)?;
    let (export, sender) = export::queue(client, ExportLimits::default(), metrics);
    // A margin, so that what is lost at the end is still counted and said.
    let drain = shell.config.drain.mul_f64(0.8);
    Ok(Some((export, sender.run(shell.shutdown(), drain))))
}

/// One step of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    pub(crate) id: SpanId,
    pub(crate) parent: Option<SpanId>,
    /// The workload that sent it, known by its certificate.
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Microseconds since the epoch.
    pub(crate) start_us: u64,
    pub(crate) duration_us: u64,
    pub(crate) status: &'static str,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// What became of a span that somebody wanted to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    Kept,
    /// It is there already, or its trace is full.
    Dropped,
}

struct Trace {
    spans: Vec<Span>,
    /// The person whose order this is; only they may look.
    owner: Option<String>,
    began: Instant,
}

/// All traces. Those that nobody owns (health checks, sign-ins, others' calls) give way first, so
/// that a busy platform does not push out an order that somebody wants to look at.
pub(crate) struct Traces {
    limits: TraceConfig,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: HashMap<TraceId, Trace>,
    /// In order of arrival; an id moves to `owned` when it is met here and has an owner.
    arrived: VecDeque<TraceId>,
    owned: VecDeque<TraceId>,
    spans: usize,
}

impl Traces {
    pub(crate) fn new(limits: TraceConfig) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
        }
    }

    /// Makes `sub` the owner of a trace that begins now. Nothing happens when it is somebody
    /// else's: a guessed or copied id opens nothing.
    pub(crate) fn claim(&self, trace_id: &str, sub: &str) {
        let Some(id) = TraceId::parse(trace_id) else {
            return;
        };
        let mut inner = self.inner.lock();
        let trace = inner.entry(id, Instant::now(), &self.limits);
        // Spans of others before the order is even sent on: the id was not fresh.
        if trace.owner.is_none() && trace.spans.iter().all(|span| span.service == "gateway") {
            trace.owner = Some(sub.to_owned());
        }
    }

    /// Adds a span of a component.
    pub(crate) fn add(&self, id: TraceId, span: Span) -> Added {
        let mut inner = self.inner.lock();
        inner.add(id, span, &self.limits)
    }

    /// Adds a span to a trace that `sub` owns, and to no other.
    pub(crate) fn add_owned(&self, id: TraceId, sub: &str, span: Span) -> Option<Added> {
        let mut inner = self.inner.lock();
        let owner = inner.by_id.get(&id)?.owner.as_deref();
        if owner == Some(sub) {
            Some(inner.add(id, span, &self.limits))
        } else {
            None
        }
    }

    /// The spans of a trace that `sub` owns, in order of their start.
    pub(crate) fn of(&self, id: TraceId, sub: &str) -> Option<Vec<Span>> {
        let inner = self.inner.lock();
        let trace = inner.by_id.get(&id)?;
        if trace.owner.as_deref() != Some(sub) {
            return None;
        }
        let mut spans = trace.spans.clone();
        spans.sort_by_key(|span| span.start_us);
        Some(spans)
    }

    /// Forgets traces whose time is over; called every now and then.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let keep = self.limits.keep;
        let over = |trace: &Trace| now.saturating_duration_since(trace.began) >= keep;
        let gone: Vec<TraceId> = inner
            .by_id
            .iter()
            .filter(|(_, trace)| over(trace))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            inner.remove(id);
        }
        let Inner {
            by_id,
            arrived,
            owned,
            ..
        } = &mut *inner;
        arrived.retain(|id| by_id.contains_key(id));
        owned.retain(|id| by_id.contains_key(id));
    }

    #[cfg(test)]
    fn sizes(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.by_id.len(), inner.spans)
    }
}

impl Inner {
    /// The trace with this id, made if there is none.
    fn entry(&mut self, id: TraceId, now: Instant, limits: &TraceConfig) -> &mut Trace {
        if !self.by_id.contains_key(&id) {
            while self.by_id.len() >= limits.max_traces && self.drop_one() {}
            self.arrived.push_back(id);
        }
        let trace = || Trace {
            spans: Vec::new(),
            owner: None,
            began: now,
        };
        self.by_id.entry(id).or_insert_with(trace)
    }

    fn add(&mut self, id: TraceId, span: Span, limits: &TraceConfig) -> Added {
        while self.spans >= limits.max_spans && self.drop_one() {}
        let trace = self.entry(id, Instant::now(), limits);
        let known = trace.spans.iter().any(|other| other.id == span.id);
        if known || trace.spans.len() >= limits.max_spans_per_trace {
            return Added::Dropped;
        }
        trace.spans.push(span);
        self.spans += 1;
        Added::Kept
    }

    /// Drops the oldest trace that nobody owns, else the oldest; false when there is none.
    fn drop_one(&mut self) -> bool {
        while let Some(id) = self.arrived.pop_front() {
            match self.by_id.get(&id) {
                Some(trace) if trace.owner.is_some() => self.owned.push_back(id),
                Some(_) => {
                    self.remove(id);
                    return true;
                }
                None => {}
            }
        }
        while let Some(id) = self.owned.pop_front() {
            if self.by_id.contains_key(&id) {
                self.remove(id);
                return true;
            }
        }
        false
    }

    fn remove(&mut self, id: TraceId) {
        if let Some(trace) = self.by_id.remove(&id) {
            self.spans -= trace.spans.len();
        }
    }
}

/// Longest duration that a span may claim: a trace is not kept for longer anyway.
const MAX_DURATION: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_id(n: usize) -> TraceId {
        TraceId::parse(&format!("{:032x}", n + 1)).unwrap()
    }

    fn span(n: usize, service: &str) -> Span {
        Span {
            id: SpanId::parse(&format!("{:016x}", n + 1)).unwrap(),
            parent: None,
            service: service.into(),
            name: "step".into(),
            kind: "internal",
            start_us: n as u64,
            duration_us: 1,
            status: "unset",
            attributes: BTreeMap::new(),
        }
    }

    fn limits(max_traces: usize, max_spans_per_trace: usize, max_spans: usize) -> TraceConfig {
        TraceConfig {
            max_traces,
            max_spans_per_trace,
            max_spans,
            keep: Duration::from_secs(900),
            export_to: None,
        }
    }

    #[test]
    fn traces_spans_and_their_sum_are_bounded() {
        let traces = Traces::new(limits(10, 5, 30));
        for trace in 0..1_000 {
            for step in 0..20 {
                traces.add(trace_id(trace), span(step, "orders"));
            }
        }
        let (count, spans) = traces.sizes();
        assert!(count <= 10 && spans <= 30, "{count} {spans}");
    }

    #[test]
    fn owned_traces_outlive_a_flood_of_others() {
        let traces = Traces::new(limits(10, 5, 1_000));
        traces.claim(&trace_id(0).to_string(), "alice");
        for n in 1..500 {
            traces.add(trace_id(n), span(0, "orders"));
        }
        assert!(traces.of(trace_id(0), "alice").is_some());
        for n in 500..520 {
            traces.claim(&trace_id(n).to_string(), "alice");
        }
        assert!(
            traces.of(trace_id(0), "alice").is_none(),
            "owned ones are bounded too"
        );
        assert_eq!(traces.sizes().0, 10);
    }

    #[test]
    fn r18_only_the_owner_sees_a_trace_and_it_cannot_be_taken() {
        let traces = Traces::new(TraceConfig::default());
        let id = trace_id(1);
        traces.claim(&id.to_string(), "alice");
        traces.claim(&id.to_string(), "bob");
        traces.add(id, span(0, "orders"));
        assert_eq!(traces.of(id, "alice").unwrap().len(), 1);
        assert!(traces.of(id, "bob").is_none());
        assert!(traces.add_owned(id, "bob", span(1, "browser")).is_none());
        assert_eq!(
            traces.add_owned(id, "alice", span(1, "browser")),
            Some(Added::Kept)
        );

        let foreign = trace_id(2);
        traces.add(foreign, span(0, "orders"));
        traces.claim(&foreign.to_string(), "bob");
        assert!(
            traces.of(foreign, "bob").is_none(),
            "a trace that is under way has no taker"
        );
    }

    #[test]
    fn a_span_is_kept_once() {
        let traces = Traces::new(TraceConfig::default());
        assert_eq!(traces.add(trace_id(1), span(1, "orders")), Added::Kept);
        assert_eq!(traces.add(trace_id(1), span(1, "orders")), Added::Dropped);
    }

    #[test]
    fn old_traces_are_forgotten() {
        let traces = Traces::new(TraceConfig::default());
        traces.add(trace_id(1), span(1, "orders"));
        traces.sweep(Instant::now() + Duration::from_secs(899));
        assert_eq!(traces.sizes(), (1, 1));
        traces.sweep(Instant::now() + Duration::from_secs(901));
        assert_eq!(traces.sizes(), (0, 0));
    }
}
