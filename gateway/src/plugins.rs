//! The plugins of this gateway, and the way out of their calls.
//!
//! Owns: where a plugin's call goes: to declared clusters alone. What runs is kept by [`Plugins`] of the host. Must not: know a
//! request. Next: `pipeline/filter.rs`.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use ringwall_plugin_host::{BoxError, CalloutBody, CalloutFuture, Callouts};

pub(crate) use ringwall_plugin_host::{Loaded, Plugins};

use crate::pipeline::body::UpstreamBody;
use crate::upstream::Lease;
use crate::worker::Worker;

/// The plugins of one worker; to be called on its thread.
pub(crate) fn worker(
    plugins: &Plugins,
    worker: &Arc<Worker>,
) -> Option<ringwall_plugin_host::Worker> {
    plugins.worker(Arc::new(WayOut(Arc::downgrade(worker))))
}

/// Plugins' calls leave through the worker's own pools, with the gateway's identity, to declared clusters alone.
struct WayOut(Weak<Worker>);

impl Callouts for WayOut {
    fn knows(&self, cluster: &str) -> bool {
        self.0.upgrade().is_some_and(|worker| {
            let snapshot = worker.shared.snapshot.load();
            snapshot.clusters.contains_key(cluster)
        })
    }

    fn send(&self, cluster: &str, request: Request<CalloutBody>) -> CalloutFuture {
        let (worker, cluster) = (self.0.upgrade(), cluster.to_owned());
        Box::pin(async move {
            let worker = worker.ok_or("the worker has ended")?;
            let known = worker
                .shared
                .snapshot
                .load()
                .clusters
                .get(&*cluster)
                .cloned();
            let known = known.ok_or("there is no such cluster")?;
            let pool = worker.pools.of(&known)?;
            if is_grpc(request.headers()) {
                let answer = pool.calls().send(request).await?;
                return Ok(answer.map(BodyExt::boxed_unsync));
            }
            let lease = pool.lease().await;
            let mut lease = lease.map_err(|error| format!("no connection: {error:?}"))?;
            let request = request.map(UpstreamBody::Call);
            let response = lease.sender.send_request(request).await?;
            Ok(response.map(|body| Answer::new(body, lease).boxed_unsync()))
        })
    }
}

/// gRPC is HTTP/2 alone.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// The body of an answer, whose connection goes back to its pool at the end.
struct Answer {
    body: Incoming,
    lease: Option<Lease>,
}

impl Answer {
    fn new(body: Incoming, lease: Lease) -> Self {
        let mut answer = Self {
            body,
            lease: Some(lease),
        };
        answer.give_back_at_end();
        answer
    }

    fn give_back_at_end(&mut self) {
        if let Some(lease) = self.lease.take_if(|_| self.body.is_end_stream()) {
            lease.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            if let Some(lease) = self.lease.take() {
                lease.give_back();
            }
        } else {
            self.give_back_at_end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
