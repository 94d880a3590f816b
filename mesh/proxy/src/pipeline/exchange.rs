//! The record of one request: made first, written when the last byte has gone, whatever way it ends.
//!
//! Owns: what is known of the exchange so far, and the return of the application's connection when its answer is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use ringwall_data_path::permit::Permit;
use ringwall_data_path::trace::{self, Facts, Hop, Trace};
use ringwall_policy::mesh::UserFacts;

use crate::access_log::{Direction, Flow, FlowKind};
use crate::body::{ProxyBody, Record};
use crate::inbound::apps::Lease;
use crate::inbound::caller::Caller;
use crate::inbound::{AppPort, Verdict};
use crate::plugins::http::Noted;
use crate::plugins::tcp::Late;
use crate::refusal::Refusal;
use crate::serve::InFlight;
use ringwall_observe::{Seen, Tapped};

const GRPC_STATUS: &str = "grpc-status";
/// Longer ones are no status of gRPC.
const MAX_GRPC_STATUS: usize = 3;

/// One request and its response, from the head to the last byte.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) caller: Arc<Caller>,
    started: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    kind: FlowKind,
    port: u16,
    pub(crate) grpc: bool,
    pub(crate) trace: Trace,
    pub(crate) user: Option<Arc<UserFacts>>,
    pub(crate) verdict: Option<Arc<Verdict>>,
    status: u16,
    grpc_status: Option<Box<str>>,
    refusal: Option<Refusal>,
    bytes_in: Option<Arc<AtomicU64>>,
    bytes_out: u64,
    answered: Option<Instant>,
    complete: bool,
    /// Goes back to its pool when the answer is over.
    pub(super) lease: Option<Lease>,
    pub(super) permit: Option<Permit>,
    tapped: Option<Tapped>,
    /// Why bytes ended that flow beside this record.
    late: Option<Late>,
    _in_flight: InFlight,
}

impl Exchange {
    /// Begins the record of a request; from here on it counts as in flight.
    pub(crate) fn open<B>(caller: &Arc<Caller>, request: &Request<B>) -> Self {
        let worker = &caller.session.worker;
        let spans = trace::tells_of_spans(request.method(), request.uri().path());
        let hop = (worker.shared.telemetry && !spans).then_some(Hop::Inbound);
        Self {
            started: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            kind: FlowKind::Request,
            port: caller.port_number(),
            grpc: super::admit::is_grpc(request.headers()),
            trace: Trace::start(&worker.random, request.headers(), hop),
            user: None,
            verdict: None,
            status: 0,
            grpc_status: None,
            refusal: None,
            bytes_in: None,
            bytes_out: 0,
            answered: None,
            complete: false,
            lease: None,
            permit: None,
            tapped: None,
            late: None,
            _in_flight: caller.session.request(),
            caller: Arc::clone(caller),
        }
    }

    /// The request is for this port.
    pub(super) fn serves(&mut self, port: AppPort, kind: FlowKind) {
        self.port = port.number;
        self.kind = kind;
    }

    /// Where a plugin's end of the bytes will be noted.
    pub(super) fn late(&mut self) -> Late {
        Late::clone(self.late.get_or_insert_default())
    }

    pub(super) const fn is_headless(&self) -> bool {
        matches!(self.method, Method::HEAD)
    }

    /// The application has answered with a response head.
    pub(super) fn answered(&mut self) {
        self.answered = Some(Instant::now());
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
        let shared = &self.caller.session.worker.shared;
        self.tapped = shared.observe.tap(&Seen {
            direction: Direction::Inbound,
            caller: self.caller.name(),
            callee: &shared.workload,
            port: self.port,
            method: parts.method.as_str(),
            path_and_query: parts.uri.path_and_query().map_or("", |path| path.as_str()),
            trace_id: self.trace.id(),
            headers: &parts.headers,
        });
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
        // Its answer was not read to the end: it is no connection for anybody else.
        self.lease = None;
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
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        self.permit = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let caller = &Arc::clone(&self.caller);
        let worker = &caller.session.worker;
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
        let verdict = self.verdict.as_deref();
        self.trace.finish_hop(&Facts {
            method: self.method.as_str(),
            path: self.uri.path(),
            service: &worker.shared.workload,
            port: self.port,
            peer: caller.name(),
            status: self.status,
            refusal,
            decision: verdict.map(|verdict| (verdict.allowed, &*verdict.reason)),
            resends: 0,
        });
        caller
            .series
            .served(self.status, took, bytes_in, self.bytes_out);
        let edge = (caller.name(), &*worker.shared.workload);
        let peer = caller.session.peer;
        let mut flow = Flow::new(Direction::Inbound, self.kind, edge, self.port, peer);
        flow.method = self.method.as_str();
        flow.path = self.uri.path();
        flow.http = version_text(self.version);
        flow.status = self.status;
        flow.grpc_status = self.grpc_status.as_deref();
        flow.refusal = refusal;
        flow.flag = self.refusal.as_ref().map_or("-", Refusal::flag);
        flow.reason = reason.as_deref();
        if let Some(verdict) = &self.verdict {
            flow.reason = flow.reason.or(Some(&verdict.reason));
            flow.dry_run = verdict
                .dry_run
                .as_ref()
                .map(|(allowed, which)| (*allowed, &**which));
        }
        flow.user = self.user.as_ref().map(|user| &*user.sub);
        flow.bytes_in = bytes_in;
        flow.bytes_out = self.bytes_out;
        flow.took = took;
        flow.upstream = self
            .answered
            .map(|answered| answered.saturating_duration_since(self.started));
        flow.trace_id = self.trace.id();
        flow.complete = self.complete;
        worker.finished(&flow);
    }
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
