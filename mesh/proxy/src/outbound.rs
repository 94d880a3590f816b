//! The application's calls, on their way to other services: the one function to read is [`proxy`].
//!
//! Owns: the order of the steps. Each is a verb in a file of its own under `outbound/`; steps hand each other evidence
//! ([`admit::Admitted`], [`destine::Destined`], [`permit::Permitted`], [`enter::Placed`]), and only a permitted call has a
//! destination to be sent to: forgetting the edge does not compile.
//! Must not: hold logic of its own, trust what the application says about itself.
//! Read next: `outbound/attempts.rs` (retries), `outbound/tcp.rs` (opaque bytes), `resilience.rs` (what is known of callees).

mod admit;
mod attempts;
mod captured;
mod destine;
mod direct;
mod enter;
mod exchange;
mod forward;
mod metrics;
mod permit;
mod prepare;
mod replay;
mod respond;
mod switch;
mod tcp;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::{Request, Response};
use parking_lot::Mutex;

pub(crate) use self::captured::{Led, Way, captured};
pub(crate) use self::destine::EGRESS;
use self::exchange::Exchange;
pub(crate) use self::metrics::OutboundMetrics;
pub(crate) use self::tcp::{TcpTarget, tcp};
use crate::access_log::Direction;
use crate::body::ProxyBody;
use crate::metrics::EdgeSeries;
use crate::refusal::Refusal;
use crate::serve::{self, Handler, Session, Spoken};
use crate::worker::{Accepted, Shared};

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
    });
    match spoken {
        Spoken::Http1 => serve::http1(session, stream, application).await,
        Spoken::Http2 => Box::pin(serve::http2(session, stream, application)).await,
    }
}

/// Serves one request. It cannot fail: a refusal is a response too.
async fn run(application: &Application, request: Request<ProxyBody>) -> Response<ProxyBody> {
    let mut exchange = Box::new(Exchange::open(&application.session, &request));
    match Box::pin(proxy(&mut exchange, request, &application.way)).await {
        Ok(response) => respond::pass(response, exchange),
        Err(refusal) => respond::refuse(&refusal, exchange),
    }
}

async fn proxy(
    exchange: &mut Exchange,
    request: Request<ProxyBody>,
    way: &Way,
) -> Result<Response<ProxyBody>, Refusal> {
    let session = Arc::clone(&exchange.session);
    let snapshot = session.worker.shared.state.snapshot.load_full();
    let admitted = admit::admit(&session, request, way)?;
    let destined = destine::destine(&session, &snapshot, admitted, way, exchange)?;
    let permitted = permit::permit(&session, &snapshot, destined)?;
    let placed = enter::enter(&session, &snapshot, permitted)?;
    let outgoing = prepare::prepare(placed, exchange);
    forward::forward(&session, outgoing, exchange).await
}
