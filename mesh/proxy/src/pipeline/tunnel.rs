//! Tunnels (HBONE) and bare bytes: CONNECT to a port of the application.
//!
//! Owns: two ways behind one 200: for an opaque port, a TCP connection to the application, whose bytes begin at once,
//! so that a server may speak first; for a port of HTTP, the same pipeline again inside the tunnel, so that a tunnel
//! leads around no policy. Must not: look into opaque bytes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::Response;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::authorize::authorize_bytes;
use super::exchange::Exchange;
use crate::access_log::{Direction, Flow, FlowKind};
use crate::body::ProxyBody;
use crate::inbound::caller::Caller;
use crate::inbound::{AppPort, nested};
use crate::plugins::{facts, tcp as plugins};
use crate::refusal::Refusal;
use crate::snapshot::Protocol;
use crate::tunnel::{Moved, ReadBody, feed};

pub(super) async fn forward(
    caller: &Arc<Caller>,
    port: AppPort,
    body: ProxyBody,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let body = exchange.count(body);
    if port.protocol != Protocol::Tcp {
        let answer = nested::serve(caller, port, body).ok_or(Refusal::Overloaded("connections"))?;
        exchange.answered();
        return Ok(Response::new(answer));
    }
    let plugins = admit(caller, port).await?;
    let app = dial(caller, port).await?;
    exchange.answered();
    if let Some(plugins) = plugins {
        let (bond, late) = (caller.bond(port), exchange.late());
        let answer = plugins::beside(&caller.session, bond, (body, app), plugins, late);
        return Ok(Response::new(answer));
    }
    let (reader, writer) = app.into_split();
    let (answer, link) = ReadBody::linked(reader);
    caller.session.beside(caller.bond(port), async move {
        if feed(body, writer).await.is_ok() {
            link.done();
        }
    });
    Ok(Response::new(ProxyBody::socket(answer)))
}

/// Asks the port's plugins about a new connection.
async fn admit(caller: &Caller, port: AppPort) -> Result<Option<plugins::Plugins>, Refusal> {
    let worker = &caller.session.worker;
    let chain = worker.shared.filters.load().inbound(port.number).clone();
    plugins::admit(worker, &chain, || facts::inbound(caller, port.number)).await
}

async fn dial(caller: &Caller, port: AppPort) -> Result<TcpStream, Refusal> {
    let limit = caller.session.worker.shared.config.limits.connect_timeout;
    let dialled = tokio::time::timeout(limit, TcpStream::connect(port.app)).await;
    let stream = dialled
        .map_err(|_| Refusal::Connect("no connection in time".into()))?
        .map_err(|error| Refusal::Connect(error.to_string().into()))?;
    stream
        .set_nodelay(true)
        .map_err(|error| Refusal::Connect(error.to_string().into()))?;
    Ok(stream)
}

/// Bytes of a peer that speaks TLS to an opaque port, without a tunnel around them.
pub(crate) async fn tcp<S>(caller: Arc<Caller>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(port) = caller.port else { return };
    let started = Instant::now();
    let _in_flight = caller.session.request();
    let mut moved = (0, 0);
    let ended = async {
        authorize_bytes(&caller, port)?;
        let filters = admit(&caller, port).await?;
        let mut app = dial(&caller, port).await?;
        let mut stream = stream;
        if let Some(filters) = filters {
            let counted = Moved::default();
            let watch = &caller.session.watch;
            let ended = plugins::relay(&filters, stream, app, &counted, watch).await;
            moved = (
                counted.up.load(Ordering::Relaxed),
                counted.down.load(Ordering::Relaxed),
            );
            return ended;
        }
        moved = tokio::io::copy_bidirectional(&mut stream, &mut app)
            .await
            .map_err(|error| Refusal::Failed(error.to_string().into()))?;
        Ok::<_, Refusal>(())
    }
    .await;
    let worker = &caller.session.worker;
    let edge = (caller.name(), &*worker.shared.workload);
    let peer = caller.session.peer;
    let mut flow = Flow::new(Direction::Inbound, FlowKind::Tcp, edge, port.number, peer);
    let refusal = ended.err();
    let reason = refusal.as_ref().and_then(Refusal::reason);
    flow.refusal = refusal.as_ref().map(Refusal::name);
    flow.flag = refusal.as_ref().map_or("-", Refusal::flag);
    flow.reason = reason.as_deref();
    (flow.bytes_in, flow.bytes_out) = moved;
    flow.took = started.elapsed();
    flow.complete = refusal.is_none();
    worker.finished(&flow);
}
