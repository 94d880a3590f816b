//! WebSocket pass-through (RFC 6455): two connections become one stream of bytes.
//!
//! Owns: the upgrade handshake in both directions and the copying task, which stays under the connection's watch.
//! Only routes that declare it get here. Must not: read frames.

use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::body::{ProxyBody, UpstreamBody};
use super::contextualise::Outgoing;
use super::forward::{failed, no_lease};
use super::strip::strip_response;
use crate::access_log::Exchange;
use crate::conn::Connection;
use crate::refusal::Refusal;
use crate::snapshot::Route;
use crate::upstream::{Lease, Pool};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

pub(super) async fn forward(
    connection: &Arc<Connection>,
    route: &Route,
    pool: &Arc<Pool>,
    outgoing: Outgoing,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    if !route.websocket {
        return Err(Refusal::Upgrade);
    }
    let mut request = Request::from_parts(outgoing.parts, UpstreamBody::empty());
    let client = on(&mut request);
    announce(request.headers_mut());
    // Never a pooled connection: this one does not come back.
    let mut lease = pool.dial().await.map_err(no_lease)?;
    let response = match timeout(route.timeout, lease.sender.try_send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(failed(&error.into_error())),
        Err(_elapsed) => return Err(Refusal::UpstreamTimeout),
    };
    exchange.upstream_answered();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        strip_response(&mut parts.headers);
        return Ok(Response::from_parts(
            parts,
            ProxyBody::upstream(body, lease),
        ));
    }
    switch(connection, client, lease, response)
}

fn switch<B>(
    connection: &Arc<Connection>,
    client: OnUpgrade,
    lease: Lease,
    mut response: Response<B>,
) -> Result<Response<ProxyBody>, Refusal> {
    let websocket = response
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket || !response.headers().contains_key(&ACCEPT) {
        return Err(Refusal::UpstreamFailed(
            "the upstream switched to another protocol".into(),
        ));
    }
    let upstream = on(&mut response);
    connection.watch.set_upgraded();
    splice(connection, client, upstream, lease);
    let (mut parts, _) = response.into_parts();
    strip_response(&mut parts.headers);
    announce(&mut parts.headers);
    Ok(Response::from_parts(parts, ProxyBody::empty()))
}

fn announce(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
}

/// Copies both ways until one side ends, the drain does, or nothing moves for too long.
fn splice(connection: &Arc<Connection>, client: OnUpgrade, upstream: OnUpgrade, lease: Lease) {
    let worker = Arc::clone(&connection.worker);
    let id = worker.next_id();
    let held = Arc::clone(connection);
    let task = tokio::spawn(async move {
        if let Ok((client, upstream)) = tokio::try_join!(client, upstream) {
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            // Either side's end is the end; there is nobody left to tell about an error.
            let _ended = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        }
        drop(lease);
        held.worker.watches.remove(id);
    });
    worker
        .watches
        .add(id, Arc::clone(&connection.watch), task.abort_handle());
}
