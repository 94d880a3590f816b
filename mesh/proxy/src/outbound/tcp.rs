//! Opaque bytes: a listener on loopback for each declared service.
//!
//! Owns: the life of one connection, read top to bottom in [`carry`]. Nothing is read from the application before the way
//! to the service is open, so that servers may speak first and nobody waits for bytes that tell a protocol.
//! Must not: look at bytes, or end a connection for being idle unless the listener says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::Method;
use tokio::net::TcpStream;

use super::attempts::{Plan, Progress, run};
use super::direct::{self, Direct};
use super::forward::refusal;
use super::switch::Opaque;
use super::{destine, permit};
use crate::access_log::{Direction, Flow, FlowKind};
use crate::metrics::{EdgeSeries, OpenConnection};
use crate::plugins::{facts, tcp as plugins};
use crate::refusal::Refusal;
use crate::resilience::deadline::Deadline;
use crate::resilience::policy::Rules;
use crate::resilience::{Attempt, Callee, Entered};
use crate::serve::Session;
use crate::serve::live::Bond;
use crate::snapshot::{Protocol, Service};
use crate::tunnel::{Moved, TunnelStream, splice};
use crate::worker::Accepted;

/// One declared service for opaque bytes.
#[derive(Debug)]
pub(crate) struct TcpTarget {
    pub(crate) service: Arc<str>,
    /// Default: the service's first `tcp` port.
    pub(crate) port: Option<u16>,
    /// Default: a connection may be silent for ever.
    pub(crate) idle: Option<Duration>,
}

/// The open way to a service.
enum Far {
    Tunnel(TunnelStream, Attempt),
    /// A service without a proxy, which speaks TLS of its own with the application.
    Direct(TcpStream),
}

/// Carries one connection of the application to the service of its listener.
pub(crate) async fn tcp(accepted: Accepted, target: Arc<TcpTarget>) {
    let (socket, session) = Session::begin(accepted, Direction::Outbound);
    session.watch.read_whenever();
    // Busy: a drain waits for it.
    let _in_flight = session.request();
    let mut passage = Passage::open(&session, &target);
    match carry(&session, &target, socket, &mut passage).await {
        Ok(complete) => passage.complete = complete,
        Err(refusal) => passage.refusal = Some(refusal),
    }
}

async fn carry(
    session: &Arc<Session>,
    target: &TcpTarget,
    socket: TcpStream,
    passage: &mut Passage,
) -> Result<bool, Refusal> {
    let shared = &session.worker.shared;
    let snapshot = shared.state.snapshot.load_full();
    let (service, port) = destine::of_listener(session, &snapshot, target)?;
    passage.goes_to(service, port.number);
    permit::edge(session, &snapshot, service, port)?;
    bind(session, service, port.number)?;
    let callee = shared.callees.of(&snapshot, service, port.number);
    let entered = callee
        .enter_connection()
        .map_err(|overloaded| Refusal::Overloaded(overloaded.0))?;
    let filters = shared.filters.load();
    let chain = filters.outbound(&service.name, port.number).clone();
    drop(filters);
    if port.protocol != Protocol::Tcp && !chain.is_empty() {
        // What stands there is for requests, and would not see them.
        return Err(Refusal::Filter("filter-tunnel", None));
    }
    let facts = || facts::outbound(Arc::new(facts::of_a_socket(session)), service, port);
    let plugins = plugins::admit(&session.worker, &chain, facts).await?;
    let far = Box::pin(open(session, service, &callee, port.number, passage)).await?;
    passage.opened = Some(Instant::now());
    let moved = &passage.moved;
    match plugins {
        None => Ok(join(session, socket, far, entered, moved).await),
        Some(plugins) => relay(session, socket, (far, entered), &plugins, moved).await,
    }
}

/// Whatever it is carried by, it ends with its edge.
fn bind(session: &Session, service: &Service, port: u16) -> Result<(), Refusal> {
    let worker = &session.worker;
    let task = worker.watches.task(session.id).ok_or(Refusal::NotReady)?;
    let bond = Bond::Calling {
        service: Arc::clone(&service.name),
        port,
    };
    worker.live.add(session.id, bond, task, None);
    Ok(())
}

async fn open(
    session: &Session,
    service: &Arc<Service>,
    callee: &Arc<Callee>,
    port: u16,
    passage: &mut Passage,
) -> Result<Far, Refusal> {
    if service.endpoints.is_empty() && !service.direct.is_empty() {
        let Direct { stream, address } = direct::dial(service, callee).await?;
        passage.progress.endpoint = Some(address);
        return Ok(Far::Direct(stream));
    }
    let worker = &session.worker;
    let rules = Rules::of(&service.traffic, &Method::CONNECT, "");
    let plan = Plan {
        callee,
        random: &worker.random,
        rules: Rules {
            hedge: None,
            ..rules
        },
        deadline: Deadline::new(callee.now(), rules.timeout, None),
        idempotent: true,
    };
    let authority = format!("{}:{port}", service.name);
    let opaque = Opaque {
        tunnels: &worker.tunnels,
        service,
        callee,
        authority: &authority,
    };
    let (tunnel, attempt) = run(&plan, &opaque, &mut passage.progress)
        .await
        .map_err(refusal)?;
    Ok(Far::Tunnel(tunnel, attempt))
}

/// Copies until both directions have ended; whether they ended well.
async fn join(
    session: &Session,
    socket: TcpStream,
    far: Far,
    entered: Entered,
    moved: &Moved,
) -> bool {
    let watch = &session.watch;
    let ended = match far {
        Far::Tunnel(tunnel, _attempt) => {
            let socket = direct::Watched::new(socket, Arc::clone(watch));
            splice(socket, tunnel, moved).await
        }
        Far::Direct(far) => direct::splice(socket, far, moved, watch).await,
    };
    drop(entered);
    ended.is_ok()
}

/// The same past plugins; an end of theirs is a refusal.
async fn relay(
    session: &Session,
    socket: TcpStream,
    (far, _entered): (Far, Entered),
    plugins: &plugins::Plugins,
    moved: &Moved,
) -> Result<bool, Refusal> {
    let watch = &session.watch;
    let ended = match far {
        Far::Tunnel(tunnel, _attempt) => {
            plugins::relay(plugins, socket, tunnel, moved, watch).await
        }
        Far::Direct(far) => plugins::relay(plugins, socket, far, moved, watch).await,
    };
    match ended {
        Ok(()) => Ok(true),
        Err(why @ Refusal::Filter(..)) => Err(why),
        Err(_) => Ok(false),
    }
}

/// The record of one connection.
struct Passage {
    session: Arc<Session>,
    started: Instant,
    opened: Option<Instant>,
    callee: Arc<str>,
    port: u16,
    series: Option<(Arc<EdgeSeries>, OpenConnection)>,
    progress: Progress,
    moved: Moved,
    refusal: Option<Refusal>,
    complete: bool,
}

impl Passage {
    fn open(session: &Arc<Session>, target: &TcpTarget) -> Self {
        Self {
            session: Arc::clone(session),
            started: Instant::now(),
            opened: None,
            callee: Arc::clone(&target.service),
            port: target.port.unwrap_or(0),
            series: None,
            progress: Progress::default(),
            moved: Moved::default(),
            refusal: None,
            complete: false,
        }
    }

    fn goes_to(&mut self, service: &Service, port: u16) {
        let worker = &self.session.worker;
        let series = worker.outbound.edge(&worker.shared, &service.name);
        let open = series.opened();
        self.series = Some((series, open));
        self.port = port;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let up = self.moved.up.load(Ordering::Relaxed);
        let down = self.moved.down.load(Ordering::Relaxed);
        let status = match (&self.refusal, self.opened) {
            (Some(refusal), _) => refusal.status().as_u16(),
            (None, Some(_)) => 200,
            (None, None) => 0,
        };
        if let Some((series, _)) = &self.series {
            series.served(status, took, up, down);
        }
        let worker = &self.session.worker;
        let edge = (&*worker.shared.workload, &*self.callee);
        let peer: SocketAddr = self.session.peer;
        let reason = self.refusal.as_ref().and_then(Refusal::reason);
        let mut flow = Flow::new(Direction::Outbound, FlowKind::Tcp, edge, self.port, peer);
        flow.refusal = self.refusal.as_ref().map(Refusal::name);
        flow.flag = self.refusal.as_ref().map_or("-", Refusal::flag);
        flow.reason = reason.as_deref();
        flow.bytes_in = up;
        flow.bytes_out = down;
        flow.took = took;
        flow.upstream = self
            .opened
            .map(|opened| opened.saturating_duration_since(self.started));
        flow.attempts = self.progress.attempts;
        flow.endpoint = self.progress.endpoint;
        flow.complete = self.complete;
        worker.finished(&flow);
    }
}
