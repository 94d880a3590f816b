//! A peer on one of our ports: what its requests have in common.

use std::sync::{Arc, OnceLock};

use http::{HeaderValue, Request, Response};
use ringwall_identity::SpiffeId;
use ringwall_plugin_host::ConnectionInfo;
use ringwall_policy::mesh::edge_use;

use super::{AppPort, Inbound};
use crate::access_log::Direction;
use crate::body::ProxyBody;
use crate::metrics::{EdgeSeries, OpenConnection};
use crate::pipeline;
use crate::plugins::facts;
use crate::serve::live::Bond;
use crate::serve::peer::Peer;
use crate::serve::{Handler, Session};

/// The other end of a connection, or of a tunnel inside one.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) session: Arc<Session>,
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) peer: Arc<Peer>,
    /// Where its requests go; `None` where it can only open tunnels.
    pub(crate) port: Option<AppPort>,
    /// Envoy's `x-forwarded-client-cert` for the application.
    pub(crate) client_cert: HeaderValue,
    pub(crate) series: Arc<EdgeSeries>,
    /// For plugins; made for the first of them.
    facts: OnceLock<Arc<ConnectionInfo>>,
    _open: OpenConnection,
}

impl Caller {
    pub(crate) fn new(
        session: Arc<Session>,
        inbound: Arc<Inbound>,
        peer: Arc<Peer>,
        port: Option<AppPort>,
    ) -> Arc<Self> {
        let shared = &session.worker.shared;
        let series = shared
            .metrics
            .edge(Direction::Inbound, peer.name(), &shared.workload);
        if let Some(counter) = shared
            .state
            .usage
            .counter(&edge_use(peer.name(), &shared.workload))
        {
            counter.decided(true);
        }
        let own: &SpiffeId = &shared.id;
        let text = format!("By={own};Hash={};URI={}", peer.fingerprint, peer.id);
        Arc::new(Self {
            // SPIFFE ids and hexadecimal digits are visible ASCII.
            client_cert: HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")),
            facts: OnceLock::new(),
            _open: series.opened(),
            series,
            session,
            inbound,
            peer,
            port,
        })
    }

    /// Name of the calling workload.
    pub(crate) fn name(&self) -> &str {
        self.peer.name()
    }

    /// What is carried to `port` lasts as long as the edge to it.
    pub(crate) fn bond(&self, port: AppPort) -> Bond {
        Bond::Caller {
            peer: Arc::clone(&self.peer),
            ports: Arc::from([port.number]),
        }
    }

    /// What plugins may ask about it.
    pub(crate) fn facts(&self) -> Arc<ConnectionInfo> {
        let facts = self.facts.get_or_init(|| Arc::new(facts::of_a_peer(self)));
        Arc::clone(facts)
    }

    pub(crate) fn port_number(&self) -> u16 {
        self.port.map_or(0, |port| port.number)
    }
}

impl Handler for Caller {
    async fn handle(self: Arc<Self>, request: Request<ProxyBody>) -> Response<ProxyBody> {
        pipeline::run(self, request).await
    }
}
