//! Step 2: which declared route a request belongs to.
//!
//! Owns: [`Routed`]. A host, path or method that no route declares is a refusal (R56).

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;

use super::admit::Admitted;
use crate::access_log::Exchange;
use crate::refusal::Refusal;
use crate::snapshot::tree::Found;
use crate::snapshot::{PolicyVerdict, Route};
use crate::worker::Worker;

/// Evidence: the request matched a declared route.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    route: Arc<Route>,
    pub(super) decision_key: u64,
    pub(super) anonymous: Option<PolicyVerdict>,
}

impl Routed {
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }
}

pub(crate) fn route(
    worker: &Worker,
    admitted: &Admitted,
    exchange: &mut Exchange,
) -> Result<Routed, Refusal> {
    exchange.host = Some(admitted.host.clone());
    let snapshot = worker.shared.snapshot.load();
    let host = snapshot
        .host(&admitted.host)
        .ok_or(Refusal::Misdirected("unknown-host"))?;
    let request: &Request<Incoming> = &admitted.request;
    let path = request.uri().path();
    let entry = match host.paths.find(path, request.method()) {
        Found::Route(entry) => entry,
        Found::OtherMethods => {
            return Err(Refusal::MethodNotAllowed(host.paths.methods_of(path)));
        }
        Found::Nothing => return Err(Refusal::NoRoute),
    };
    let routed = Routed {
        route: Arc::clone(&entry.route),
        decision_key: entry.decision_key,
        anonymous: entry.anonymous.clone(),
    };
    exchange.trace.routed(
        request.method().as_str(),
        &entry.route.id,
        &entry.route.cluster.name,
    );
    exchange.routed = Some(routed.clone());
    Ok(routed)
}
