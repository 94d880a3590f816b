//! Calls that plugins make themselves.
//!
//! Owns: the way out: the workload's own services, by the outbound pipeline with its edges, deadlines and limits, and by no
//! plugin again. A call that the policy has no edge for fails like one that nobody answers. Must not: dial.

use std::sync::{Arc, Weak};

use http::Request;
use ringwall_http_io::body;
use ringwall_plugin_host::{CalloutBody, CalloutFuture, Callouts};

use crate::body::ProxyBody;
use crate::outbound;
use crate::worker::Worker;

/// To the services of one worker's proxy.
pub(super) struct WayOut(Weak<Worker>);

impl WayOut {
    pub(super) fn of(worker: &Arc<Worker>) -> Self {
        Self(Arc::downgrade(worker))
    }
}

impl Callouts for WayOut {
    fn knows(&self, cluster: &str) -> bool {
        let worker = self.0.upgrade();
        worker.is_some_and(|worker| {
            let snapshot = worker.shared.state.snapshot.load();
            outbound::named(&snapshot, cluster).is_some()
        })
    }

    fn send(&self, cluster: &str, request: Request<CalloutBody>) -> CalloutFuture {
        let (worker, cluster) = (self.0.upgrade(), cluster.to_owned());
        Box::pin(async move {
            let worker = worker.ok_or("the worker has ended")?;
            let request = request.map(ProxyBody::boxed);
            let answer = outbound::call(&worker, &cluster, request).await;
            let answer = answer.map_err(|refusal| refusal.name())?;
            Ok(answer.map(body::boxed))
        })
    }
}
