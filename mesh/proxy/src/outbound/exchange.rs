//! The record of one call: made first, written when the last byte has gone, whatever way it ends.
//!
//! Owns: what is known of the call so far, and the places that it holds until its end: among the destination's requests,
//! and at its endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use ringwall_data_path::trace::{self, Facts, Hop, Trace};

use super::attempts::Progress;
use super::switch::Joint;
use crate::access_log::{Direction, Flow, FlowKind};
use crate::body::{ProxyBody, Record};
use crate::metrics::EdgeSeries;
use crate::pipeline::admit::is_grpc;
use crate::plugins::http::Noted;
use crate::plugins::tcp::Late;
use crate::refusal::Refusal;
use crate::resilience::{Attempt, Entered};
use crate::serve::live::Bond;
use crate::serve::{InFlight, Session};
use crate::snapshot::Service;
use crate::tunnel::Moved;
use ringwall_observe::{Seen, Tapped};

const GRPC_STATUS: &str = "grpc-status";
/// Longer ones are no status of gRPC.
const MAX_GRPC_STATUS: usize = 3;

/// One call, from the head of the request to the last byte of the answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    started: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    pub(super) kind: FlowKind,
    callee: Option<Arc<str>>,
    port: u16,
    grpc: bool,
    pub(super) trace: Trace,
    pub(super) progress: Progress,
    status: u16,
    grpc_status: Option<Box<str>>,
    refusal: Option<Refusal>,
    bytes_in: Option<Arc<AtomicU64>>,
    bytes_out: u64,
    answered: Option<Instant>,
    complete: bool,
    series: Option<Arc<EdgeSeries>>,
    tapped: Option<Tapped>,
    /// Bytes that flow once the answer has left.
    pub(super) joint: Option<Joint>,
    held: Option<(Attempt, Entered)>,
    /// Why bytes ended that flow beside this record.
    late: Option<Late>,
    _in_flight: InFlight,
}

impl Exchange {
    /// Begins the record of a request; from here on it counts as in flight.
    pub(super) fn open<B>(session: &Arc<Session>, request: &Request<B>) -> Self {
        let worker = &session.worker;
        let spans = trace::tells_of_spans(request.method(), request.uri().path());
        let hop = (worker.shared.telemetry && !spans).then_some(Hop::Outbound);
        Self {
            started: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            kind: FlowKind::Request,
            callee: None,
            port: 0,
            grpc: is_grpc(request.headers()),
            trace: Trace::start(&worker.random, request.headers(), hop),
            progress: Progress::default(),
            status: 0,
            grpc_status: None,
            refusal: None,
            bytes_in: None,
            bytes_out: 0,
            answered: None,
            complete: false,
            series: None,
            tapped: None,
            joint: None,
            held: None,
            late: None,
            _in_flight: session.request(),
            session: Arc::clone(session),
        }
    }

    /// The destination is known.
    pub(super) fn goes_to(&mut self, service: &Service, port: u16) {
        let worker = &self.session.worker;
        self.port = port;
        self.callee = Some(Arc::clone(&service.name));
        self.series = Some(worker.outbound.edge(&worker.shared, &service.name));
    }

    /// What lasts does so as long as the edge to the destination.
    pub(super) fn bond(&self) -> Bond {
        Bond::Calling {
            service: self.callee.clone().unwrap_or_default(),
            port: self.port,
        }
    }

    /// The destination has answered with a head; its places are held until the end of the body.
    pub(super) fn answered(&mut self, attempt: Attempt, entered: Entered) {
        self.answered = Some(Instant::now());
        self.progress.endpoint = Some(attempt.endpoint().address);
        self.held = Some((attempt, entered));
    }

    pub(super) fn count(&mut self, body: ProxyBody) -> ProxyBody {
        if body.is_empty() {
            return body;
        }
        let counter = self.bytes_in.get_or_insert_default();
        body.counted(Arc::clone(counter))
    }

    /// Shows the head to the operator's taps.
    pub(super) fn tap(&mut self, parts: &Parts) {
        let shared = &self.session.worker.shared;
        self.tapped = shared.observe.tap(&Seen {
            direction: Direction::Outbound,
            caller: &shared.workload,
            callee: self.callee.as_deref().unwrap_or(""),
            port: self.port,
            method: parts.method.as_str(),
            path_and_query: parts.uri.path_and_query().map_or("", |path| path.as_str()),
            trace_id: self.trace.id(),
            headers: &parts.headers,
        });
    }

    /// Where a plugin's end of the bytes will be noted.
    pub(super) fn late(&mut self) -> Late {
        Late::clone(self.late.get_or_insert_default())
    }

    pub(super) const fn is_grpc(&self) -> bool {
        self.grpc
    }

    pub(super) const fn is_headless(&self) -> bool {
        matches!(self.method, Method::HEAD)
    }

    /// Notes the head of the response.
    pub(super) fn responds(&mut self, response: &Response<ProxyBody>) {
        self.status = response.status().as_u16();
        self.note_grpc(response.headers());
        if let Some(tapped) = self.tapped.take() {
            tapped.response(response.status(), response.headers());
        }
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.refusal = Some(refusal.clone());
    }

    /// Bytes have flown after an upgrade.
    pub(super) fn flown(&mut self, moved: &Moved, complete: bool) {
        let up = moved.up.load(Ordering::Relaxed);
        self.bytes_in
            .get_or_insert_default()
            .store(up, Ordering::Relaxed);
        self.bytes_out = moved.down.load(Ordering::Relaxed);
        self.complete = complete;
    }

    fn note_grpc(&mut self, fields: &HeaderMap) {
        if !self.grpc {
            return;
        }
        let status = fields
            .get(GRPC_STATUS)
            .and_then(|value| value.to_str().ok());
        if let Some(status) = status.filter(|status| status.len() <= MAX_GRPC_STATUS) {
            self.grpc_status = Some(status.into());
        }
    }
}

impl Noted for Exchange {
    fn refused(&mut self, why: &Refusal) {
        self.refused(why);
    }

    fn abandon(&mut self) {
        self.joint = None;
    }
}

impl Record for Exchange {
    fn moved(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.note_grpc(trailers);
    }

    fn ended(&mut self) {
        self.complete = true;
        self.held = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let worker = &Arc::clone(&self.session.worker);
        let shared = &worker.shared;
        let bytes_in = self
            .bytes_in
            .as_ref()
            .map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        let late = self.late.as_ref().and_then(|late| late.get());
        if let (None, Some(late)) = (&self.refusal, late) {
            self.refusal = Some(late.clone());
        }
        let refusal = self.refusal.as_ref().map(Refusal::name);
        let reason = self.refusal.as_ref().and_then(Refusal::reason);
        // Without its edge no call gets as far as an attempt.
        let decision = match &self.refusal {
            Some(Refusal::NoEdge(_)) => Some((false, "no edge")),
            _ if self.progress.attempts > 0 => Some((true, "edge")),
            _ => None,
        };
        self.trace.finish_hop(&Facts {
            method: self.method.as_str(),
            path: self.uri.path(),
            service: self.callee.as_deref().unwrap_or(""),
            port: self.port,
            peer: "",
            status: self.status,
            refusal,
            decision,
            resends: self.progress.attempts.saturating_sub(1),
        });
        if let Some(series) = &self.series {
            series.served(self.status, took, bytes_in, self.bytes_out);
        }
        let edge = (&*shared.workload, self.callee.as_deref().unwrap_or(""));
        let peer = self.session.peer;
        let mut flow = Flow::new(Direction::Outbound, self.kind, edge, self.port, peer);
        flow.method = self.method.as_str();
        flow.path = self.uri.path();
        flow.http = match self.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        flow.status = self.status;
        flow.grpc_status = self.grpc_status.as_deref();
        flow.refusal = refusal;
        flow.flag = self.refusal.as_ref().map_or("-", Refusal::flag);
        flow.reason = reason.as_deref();
        flow.bytes_in = bytes_in;
        flow.bytes_out = self.bytes_out;
        flow.took = took;
        flow.upstream = self
            .answered
            .map(|answered| answered.saturating_duration_since(self.started));
        flow.attempts = self.progress.attempts;
        flow.endpoint = self.progress.endpoint;
        flow.trace_id = self.trace.id();
        flow.complete = self.complete;
        worker.finished(&flow);
    }
}
