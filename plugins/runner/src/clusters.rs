//! The clusters of a case: what a plugin calls is recorded, and answered as the case says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use ringwall_plugin_cases::{Called, Cluster};
use ringwall_plugin_host::{BoxError, CalloutBody, CalloutFuture, Callouts};

use crate::convert::{self, GRPC_PREFIX};

/// All clusters of a suite are known in each of its cases; one that a case says nothing of answers 404.
pub(crate) struct Clusters {
    known: BTreeSet<String>,
    scripted: BTreeMap<String, Cluster>,
    called: Arc<Mutex<Vec<Called>>>,
}

impl Clusters {
    pub(crate) fn new(known: BTreeSet<&str>, scripted: BTreeMap<String, Cluster>) -> Self {
        Self {
            known: known.into_iter().map(str::to_owned).collect(),
            scripted,
            called: Arc::default(),
        }
    }

    /// The calls since this was asked last.
    pub(crate) fn take_called(&self) -> Vec<Called> {
        std::mem::take(&mut self.called.lock())
    }
}

impl Callouts for Clusters {
    fn knows(&self, cluster: &str) -> bool {
        self.known.contains(cluster)
    }

    fn send(&self, cluster: &str, request: Request<CalloutBody>) -> CalloutFuture {
        let script = self.scripted.get(cluster).cloned().unwrap_or_default();
        let (cluster, called) = (cluster.to_owned(), Arc::clone(&self.called));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let mut message = convert::message(&head);
            let body = body.collect().await?;
            message.trailers = body.trailers().map(convert::fields).unwrap_or_default();
            message.body = body.to_bytes().to_vec();
            let kind = message.headers.value("content-type");
            if kind.is_some_and(|kind| kind.starts_with("application/grpc")) {
                message.body.drain(..GRPC_PREFIX.min(message.body.len()));
            }
            let answer = script.answer(&message);
            called.lock().push(Called {
                cluster,
                request: message,
            });
            if script.unreachable {
                return Err(BoxError::from("the case says: no answer"));
            }
            let response = convert::response(&answer, &head.method)?;
            Ok(response.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
        })
    }
}
