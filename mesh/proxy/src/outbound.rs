//! The application's calls, on their way to other services: the one function to read is [`proxy`].
//!
//! Owns: the order of the steps. Each is a verb in a file of its own under `outbound/`; steps hand each other evidence
//! ([`admit::Admitted`], [`destine::Destined`], [`permit::Permitted`], [`enter::Placed`], [`filter::Filtered`]), and only a
//! permitted call has a destination to be sent to: forgetting the edge does not compile.
//! Must not: hold logic of its own, trust what the application says about itself.
//! Read next: `outbound/attempts.rs` (retries), `outbound/tcp.rs` (opaque bytes), `resilience.rs` (what is known of callees).

mod admit;
mod attempts;
mod captured;
mod destine;
mod direct;
mod enter;
mod exchange;
mod filter;
mod forward;
mod metrics;
mod permit;
mod prepare;
mod replay;
mod respond;
mod switch;
mod tcp;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;
use http::{Request, Response};
use parking_lot::Mutex;
use ringwall_plugin_host::ConnectionInfo;

pub(crate) use self::captured::{Bound, Led, Way, captured};
pub(crate) use self::destine::EGRESS;
use self::exchange::Exchange;
use self::filter::Filtered;
pub(crate) use self::metrics::OutboundMetrics;
pub(crate) use self::tcp::{TcpTarget, tcp};
use crate::access_log::Direction;
use crate::body::ProxyBody;
use crate::metrics::EdgeSeries;
use crate::plugins::facts;
use crate::refusal::Refusal;
use crate::serve::{self, Handler, Session, Spoken};
use crate::snapshot::{Protocol, Snapshot};
use crate::worker::{Accepted, Shared, Worker};

/// What outbound keeps per worker: the series of the edges, so that a request does not look them up by three names.
#[derive(Debug, Default)]
pub(crate) struct Local {
    edges: Mutex<HashMap<Arc<str>, Arc<EdgeSeries>, RandomState>>,
}

impl Local {
    fn edge(&self, shared: &Shared, service: &Arc<str>) -> Arc<EdgeSeries> {
        let mut edges = self.edges.lock();
        if let Some(known) = edges.get(service) {
            return Arc::clone(known);
        }
        let series = shared
            .metrics
            .edge(Direction::Outbound, &shared.workload, service);
        edges.insert(Arc::clone(service), Arc::clone(&series));
        series
    }
}

/// The application at the other end of a loopback connection.
#[derive(Debug)]
struct Application {
    session: Arc<Session>,
    way: Way,
    /// For plugins; made for the first of them.
    facts: OnceLock<Arc<ConnectionInfo>>,
}

impl Application {
    fn facts(&self) -> Arc<ConnectionInfo> {
        let made = || Arc::new(facts::of_a_socket(&self.session));
        Arc::clone(self.facts.get_or_init(made))
    }
}

impl Handler for Application {
    async fn handle(self: Arc<Self>, request: Request<ProxyBody>) -> Response<ProxyBody> {
        run(&self, request).await
    }
}

/// Serves one plaintext connection of the application: HTTP/1.1, or HTTP/2 with prior knowledge. Its requests go where
/// the connection was going, if it was captured, else where `Host` says.
pub(crate) async fn http(accepted: Accepted, way: Way) {
    let (socket, session) = Session::begin(accepted, Direction::Outbound);
    let Ok((spoken, stream)) = serve::detect(socket).await else {
        return;
    };
    let application = Arc::new(Application {
        session: Arc::clone(&session),
        way,
        facts: OnceLock::new(),
    });
    match spoken {
        Spoken::Http1 => serve::http1(session, stream, application).await,
        Spoken::Http2 => Box::pin(serve::http2(session, stream, application)).await,
    }
}

/// Serves one request. It cannot fail: a refusal is a response too.
async fn run(application: &Application, request: Request<ProxyBody>) -> Response<ProxyBody> {
    let mut exchange = Box::new(Exchange::open(&application.session, &request));
    match Box::pin(proxy(&mut exchange, request, application)).await {
        Ok(response) => respond::pass(response, exchange),
        Err(refusal) => respond::refuse(&refusal, exchange),
    }
}

async fn proxy(
    exchange: &mut Exchange,
    request: Request<ProxyBody>,
    application: &Application,
) -> Result<Response<ProxyBody>, Refusal> {
    let session = Arc::clone(&exchange.session);
    let way = &application.way;
    let snapshot = session.worker.shared.state.snapshot.load_full();
    let admitted = admit::admit(&session, request, way)?;
    let destined = destine::destine(&session, &snapshot, admitted, way, exchange)?;
    let permitted = permit::permit(&session, &snapshot, destined)?;
    let placed = enter::enter(&session, &snapshot, permitted)?;
    let facts = || application.facts();
    let filtered = match filter::filter(&session, facts, placed, exchange).await? {
        ControlFlow::Continue(filtered) => filtered,
        ControlFlow::Break(answer) => return Ok(answer),
    };
    let plugins = filtered.plugins.clone();
    let outgoing = prepare::prepare(filtered, exchange);
    let raced = {
        // Where it stands, and not moved: it is the largest part of a call's state.
        let sending = pin!(forward::forward(&session, outgoing, exchange));
        plugins.race(sending).await?
    };
    plugins.back(raced, exchange).await
}

/// A plugin's call of a service, named as [`named`] knows it: by the same steps, without the proof of the loopback, which it
/// cannot have, and past no plugin.
///
/// # Errors
/// Whatever would refuse the application's own call.
pub(crate) async fn call(
    worker: &Arc<Worker>,
    name: &str,
    request: Request<ProxyBody>,
) -> Result<Response<ProxyBody>, Refusal> {
    let session = Session::own(worker).ok_or(Refusal::Overloaded("too-many-connections"))?;
    let mut exchange = Box::new(Exchange::open(&session, &request));
    match Box::pin(called(&mut exchange, name, request)).await {
        Ok(response) => Ok(respond::pass(response, exchange)),
        Err(refusal) => {
            exchange.refused(&refusal);
            Err(refusal)
        }
    }
}

async fn called(
    exchange: &mut Exchange,
    name: &str,
    request: Request<ProxyBody>,
) -> Result<Response<ProxyBody>, Refusal> {
    let session = Arc::clone(&exchange.session);
    let snapshot = session.worker.shared.state.snapshot.load_full();
    let bound = named(&snapshot, name).ok_or(Refusal::UnknownPort)?;
    let way = Way::Bound(Arc::new(bound));
    let admitted = admit::of_a_plugin(request)?;
    let destined = destine::destine(&session, &snapshot, admitted, &way, exchange)?;
    let permitted = permit::permit(&session, &snapshot, destined)?;
    let placed = enter::enter(&session, &snapshot, permitted)?;
    let filtered = Filtered::by_a_plugin(placed, exchange);
    let outgoing = prepare::prepare(filtered, exchange);
    forward::forward(&session, outgoing, exchange).await
}

/// The service, and its first port that speaks HTTP, or the one that is named: `payments`, `payments:7106`.
pub(crate) fn named(snapshot: &Snapshot, name: &str) -> Option<Bound> {
    let (service, port) = match name.rsplit_once(':') {
        Some((service, port)) => (service, Some(port.parse::<u16>().ok()?)),
        None => (name, None),
    };
    let service = snapshot.services.get(service)?;
    let mut ports = service.ports.iter();
    let found = ports.find(|known| {
        known.protocol != Protocol::Tcp && port.is_none_or(|port| port == known.number)
    });
    Some(Bound {
        service: Arc::clone(&service.name),
        port: found?.number,
    })
}
