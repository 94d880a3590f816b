//! What callers get: the SPIFFE Workload API, Envoy's secret discovery and the gateway's word to the edge shield, on one unix
//! socket.
//!
//! Owns: the socket with its limits, who a caller is for each call and each push, and the news that
//! streams are made of. Must not: give anything to a caller that is not attested and registered.
//! Read next: `api/workload.rs` and `api/sds.rs`.

mod authority;
mod news;
mod sds;
mod socket;
mod workload;

use std::sync::Arc;

use ringwall_mesh_api::sds::secret_discovery_service_server::SecretDiscoveryServiceServer;
use ringwall_mesh_api::v1::edge_shield_server::EdgeShieldServer;
use ringwall_mesh_api::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tonic::{Request, Status};

use crate::attest::{Attestor, Peer};
use crate::jwt::JwtSvids;
use crate::metrics::Metrics;
use crate::shield::{Edge, EdgeShieldService};
use crate::trust::{Current, Trust};
use crate::workloads::Workloads;

pub(crate) use socket::{Socket, bind};

/// Longest request; the largest honest one is a JWT to validate.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// What an unknown caller is told (SPIFFE Workload API §5.2.1): not who it might have to be.
const NO_IDENTITY: &str = "no identity issued";

/// Everything that answers are made of.
pub(crate) struct Shared {
    pub(crate) attestor: Attestor,
    pub(crate) workloads: Arc<Workloads>,
    pub(crate) trust: Current,
    pub(crate) jwt: JwtSvids,
    pub(crate) metrics: Metrics,
    pub(crate) clock: crate::clock::Clock,
}

/// A caller whose workload is known and registered on this node.
#[derive(Clone)]
pub(crate) struct Caller {
    peer: Arc<Peer>,
    workload: String,
}

impl Caller {
    pub(crate) fn workload(&self) -> &str {
        &self.workload
    }
}

impl Shared {
    /// Who calls, by the connection that the request came over.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let connection = request.extensions().get::<socket::Connection>();
        let Some(peer) = connection.and_then(|connection| connection.peer.clone()) else {
            return Err(self.nobody("gone", None));
        };
        let workload = self.recognise(&peer)?;
        Ok(Caller { peer, workload })
    }

    /// The workload that `peer` is now, if it may run here.
    fn recognise(&self, peer: &Peer) -> Result<String, Status> {
        let workload = self.attestor.workload(peer).map_err(|unknown| {
            tracing::warn!(pid = peer.pid(), uid = peer.uid(), reason = %unknown, "a caller gets no identity");
            self.nobody(unknown.label(), None)
        })?;
        let trust = self.trust.borrow().clone();
        let Some(trust) = trust else {
            return Err(Status::unavailable("this node knows nothing yet"));
        };
        match trust.workload(&workload) {
            Some(_) => Ok(workload),
            None => Err(self.nobody("unregistered", Some((peer, &workload)))),
        }
    }

    /// Looks again: the process may have moved, ended, or lost its registration since.
    fn still(&self, caller: &Caller) -> Result<(), Status> {
        let workload = self.recognise(&caller.peer)?;
        if workload == caller.workload {
            return Ok(());
        }
        Err(self.nobody("moved", Some((&caller.peer, &workload))))
    }

    fn nobody(&self, reason: &'static str, seen: Option<(&Peer, &str)>) -> Status {
        self.metrics.refused(reason);
        if let Some((peer, workload)) = seen {
            tracing::warn!(
                pid = peer.pid(),
                workload,
                reason,
                "a caller gets no identity"
            );
        }
        Status::permission_denied(NO_IDENTITY)
    }

    fn trust(&self) -> Result<Arc<Trust>, Status> {
        let trust = self.trust.borrow().clone();
        trust.ok_or_else(|| Status::unavailable("this node knows nothing yet"))
    }
}

/// Serves all of it until `stop`.
pub(crate) async fn serve(
    socket: Socket,
    shared: Arc<Shared>,
    edge: Option<Arc<Edge>>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let workload_api = SpiffeWorkloadApiServer::new(workload::WorkloadApi::new(&shared))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let discovery = SecretDiscoveryServiceServer::new(sds::Discovery::new(&shared))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let shield = edge.map(|edge| {
        EdgeShieldServer::new(EdgeShieldService::new(&shared, &edge))
            .max_decoding_message_size(MAX_REQUEST_BYTES)
    });
    socket::server()
        .add_service(workload_api)
        .add_service(discovery)
        .add_optional_service(shield)
        .serve_with_incoming_shutdown(socket.connections(shared), stop)
        .await
}

#[cfg(test)]
mod tests;
