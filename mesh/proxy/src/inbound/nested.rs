//! HTTP inside a tunnel: the connection that a peer opens through CONNECT to a port of HTTP.
//!
//! Owns: a session of its own, with deadlines of its own, whose end is the tunnel's. Must not: skip a step of the
//! pipeline.

use std::sync::Arc;

use ringwall_data_path::watch::Watch;
use tokio::io::DuplexStream;

use super::AppPort;
use super::caller::Caller;
use crate::body::ProxyBody;
use crate::serve::{self, Session, Spoken};
use crate::tunnel::{ReadBody, feed};

/// Bytes between the tunnel's stream and its HTTP, per direction.
const PIPE: usize = 16 * 1024;

/// Serves HTTP over `body` and the body that is returned; `None` when there are too many connections.
pub(crate) fn serve(caller: &Arc<Caller>, port: AppPort, body: ProxyBody) -> Option<ProxyBody> {
    let outer = &caller.session;
    let worker = &outer.worker;
    let permit = worker.shared.permit()?;
    let limits = &worker.shared.config.limits;
    let watch = Arc::new(Watch::new(
        Arc::clone(&worker.clock),
        limits.idle_timeout,
        limits.idle_timeout,
        limits.stall_timeout,
    ));
    let session = Session::inside(outer, Arc::clone(&watch), permit);
    let id = session.id;
    let inner = Caller::new(
        Arc::clone(&session),
        Arc::clone(&caller.inbound),
        Arc::clone(&caller.peer),
        Some(port),
    );
    let (near, far) = tokio::io::duplex(PIPE);
    let (reader, writer) = tokio::io::split(near);
    outer.beside(caller.bond(port), async move {
        // Either side's end is told to the other; there is nobody else to tell.
        let _ended = feed(body, writer).await;
    });
    let gone = session.guard();
    let task = tokio::spawn(async move {
        let _gone = gone;
        http(inner, far).await;
    });
    worker
        .live
        .add(id, caller.bond(port), task.abort_handle(), None);
    worker.watches.add(id, watch, task.abort_handle());
    Some(ProxyBody::socket(ReadBody::new(reader)))
}

async fn http(caller: Arc<Caller>, stream: DuplexStream) {
    let session = Arc::clone(&caller.session);
    match serve::detect(stream).await {
        Ok((Spoken::Http1, stream)) => serve::http1(session, stream, caller).await,
        Ok((Spoken::Http2, stream)) => Box::pin(serve::http2(session, stream, caller)).await,
        Err(_) => {}
    }
}
