//! Peers that call our application: accept, mutual TLS, identity, edge, and then their requests.
//!
//! Owns: [`Inbound`], one listener with the application's ports behind it, and the life of a connection, read top to
//! bottom in [`connection`]. Must not: decide about requests (`pipeline.rs`).
//! Read next: `inbound/gate.rs` (who may connect), `inbound/caller.rs` (a peer's requests), `inbound/apps.rs` (the way
//! to the application).

pub(crate) mod apps;
pub(crate) mod caller;
mod decisions;
mod gate;
pub(crate) mod nested;
mod users;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use ringwall_data_path::gulp::Gulped;
use ringwall_data_path::watch::CoarseClock;
use ringwall_tls::mesh_server_config;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::apps::Apps;
use self::caller::Caller;
pub(crate) use self::decisions::{Decisions, Verdict};
pub(crate) use self::gate::Gate;
pub(crate) use self::users::{TokenKey, UserCache, Users};
use crate::access_log::{Direction, Flow, FlowKind};
use crate::config::Config;
use crate::error::ProxyError;
use crate::pipeline;
use crate::serve::live::Bond;
use crate::serve::peer::Peer;
use crate::serve::{self, Session};
use crate::snapshot::Protocol;
use crate::worker::{Accepted, Shared};

/// One port of the application, as callers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppPort {
    pub(crate) number: u16,
    pub(crate) app: SocketAddr,
    pub(crate) protocol: Protocol,
}

/// One listener for peers.
pub(crate) struct Inbound {
    /// The port behind it; `None` on the HBONE port, where every connection is a tunnel.
    pub(crate) own: Option<AppPort>,
    /// All ports of the application: the targets of tunnels.
    pub(crate) ports: Arc<[AppPort]>,
    /// A caller may connect that has an edge to one of these.
    knock: Arc<[u16]>,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// A listener and its address.
type Placed = (SocketAddr, Arc<Inbound>);

/// What inbound keeps per worker.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) apps: Apps,
    pub(crate) decisions: Mutex<Decisions>,
    pub(crate) users: Mutex<UserCache>,
    /// Requests at the application.
    pub(crate) requests: Arc<AtomicUsize>,
}

impl Local {
    pub(crate) fn new(shared: &Arc<Shared>, clock: &Arc<CoarseClock>) -> Self {
        Self {
            apps: Apps::new(shared, clock),
            decisions: Mutex::default(),
            users: Mutex::default(),
            requests: Arc::default(),
        }
    }

    pub(crate) fn sweep(&self) {
        self.apps.sweep();
    }
}

impl Inbound {
    /// The listeners of `config`, in its order, and apart from them the HBONE one.
    ///
    /// # Errors
    /// When TLS cannot be configured.
    pub(crate) fn all(
        config: &Config,
        shared: &Arc<Shared>,
    ) -> Result<(Vec<Placed>, Option<Placed>), ProxyError> {
        let ports: Arc<[AppPort]> = config
            .inbound
            .iter()
            .map(|inbound| AppPort {
                number: inbound.port,
                app: inbound.app,
                protocol: inbound.protocol.into(),
            })
            .collect();
        let mut listeners = Vec::with_capacity(ports.len());
        for (index, (inbound, port)) in config.inbound.iter().zip(ports.iter()).enumerate() {
            // The first is the one that callers are told of: tunnels come there.
            let reachable =
                |other: &AppPort| other == port || (index == 0 && other.protocol == Protocol::Tcp);
            let listener = Self::new(shared, Some(*port), &ports, reachable)?;
            listeners.push((inbound.listen, Arc::new(listener)));
        }
        let hbone = match config.hbone {
            Some(address) => Some((
                address,
                Arc::new(Self::new(shared, None, &ports, |_| true)?),
            )),
            None => None,
        };
        Ok((listeners, hbone))
    }

    fn new(
        shared: &Arc<Shared>,
        own: Option<AppPort>,
        ports: &Arc<[AppPort]>,
        reachable: impl Fn(&AppPort) -> bool,
    ) -> Result<Self, ProxyError> {
        let knock: Arc<[u16]> = ports
            .iter()
            .filter(|port| reachable(port))
            .map(|port| port.number)
            .collect();
        let gate = Gate::new(shared, &knock);
        let tls = mesh_server_config(&shared.identity, gate.policy())?;
        Ok(Self {
            own,
            ports: Arc::clone(ports),
            knock,
            acceptor: TlsAcceptor::from(tls),
        })
    }

    /// The port with this number.
    pub(crate) fn port(&self, number: u16) -> Option<AppPort> {
        self.ports
            .iter()
            .find(|port| port.number == number)
            .copied()
    }
}

/// Serves one connection of a peer until it ends.
pub(crate) async fn connection(
    accepted: Accepted,
    inbound: Arc<Inbound>,
    handshake: OwnedSemaphorePermit,
) {
    let (socket, session) = Session::begin(accepted, Direction::Inbound);
    // Boxed: its state is large, and is gone once the connection serves.
    let Some((tls, peer)) = Box::pin(shake(&session, &inbound, socket)).await else {
        return;
    };
    drop(handshake);
    let peer = Arc::new(peer);
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    // Without HTTP/2 there are no tunnels, and so nothing but the listener's own port.
    let ports = match inbound.own.filter(|_| !http2) {
        Some(own) => Arc::from([own.number]),
        None => Arc::clone(&inbound.knock),
    };
    if !bind(&session, ports, &peer) {
        return;
    }
    let shared = &session.worker.shared;
    let end = peer.not_after.min(shared.identity.not_after());
    let left = end - time::OffsetDateTime::now_utc();
    session.ends_in(left.try_into().unwrap_or_default());
    session.watch.read_within(shared.config.limits.idle_timeout);
    let port = inbound.own;
    let caller = Caller::new(Arc::clone(&session), Arc::clone(&inbound), peer, port);
    match port.map(|port| port.protocol) {
        _ if http2 => Box::pin(serve::http2(session, tls, caller)).await,
        // Bytes without a tunnel around them; everything else on this listener is HTTP.
        Some(Protocol::Tcp) => pipeline::tcp(caller, tls).await,
        Some(_) => serve::http1(session, tls, caller).await,
        None => {}
    }
}

/// The handshake: whoever comes out of it is a workload that has an edge to us.
async fn shake(
    session: &Session,
    inbound: &Inbound,
    socket: TcpStream,
) -> Option<(TlsStream<Gulped<TcpStream>>, Peer)> {
    let tls = match inbound.acceptor.accept(Gulped::new(socket)).await {
        Ok(tls) => tls,
        Err(error) => {
            refused(session, inbound, &error);
            return None;
        }
    };
    let chain = tls.get_ref().1.peer_certificates()?;
    let peer = Peer::from_chain(chain).ok()?;
    Some((tls, peer))
}

/// Puts the connection under supervision, and looks once more: the state may have changed during the handshake.
fn bind(session: &Session, ports: Arc<[u16]>, peer: &Arc<Peer>) -> bool {
    let worker = &session.worker;
    let Some(task) = worker.watches.task(session.id) else {
        return false;
    };
    let bond = Bond::Caller {
        peer: Arc::clone(peer),
        ports,
    };
    let cut = Some(Arc::clone(&session.cut));
    worker.live.add(session.id, bond.clone(), task, cut);
    let snapshot = worker.shared.state.snapshot.load();
    let now = time::OffsetDateTime::now_utc();
    bond.broken(&worker.shared.workload, &snapshot, now)
        .is_none()
}

/// Records a refused handshake, with the caller where its certificate was genuine.
fn refused(session: &Session, inbound: &Inbound, error: &std::io::Error) {
    let shared = &session.worker.shared;
    shared.metrics.handshake_failures.inc();
    let refused = ringwall_tls::peer_refused(error);
    let caller = refused.and_then(|refused| refused.peer());
    let text = error.to_string();
    let mut flow = Flow::new(
        Direction::Inbound,
        FlowKind::Connection,
        (caller.map_or("", |caller| caller.path()), &shared.workload),
        inbound.own.map_or(0, |port| port.number),
        session.peer,
    );
    flow.refusal = Some(if caller.is_some() {
        "edge-denied"
    } else {
        "handshake"
    });
    flow.flag = "UAEX";
    flow.reason = Some(&text);
    session.worker.finished(&flow);
}
