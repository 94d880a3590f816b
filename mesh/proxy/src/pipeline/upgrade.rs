//! WebSocket (RFC 6455, RFC 8441): two connections become one stream of bytes.
//!
//! Owns: the handshake to the application, always an HTTP/1.1 upgrade, and the answer in the form in which the peer
//! asked. Must not: read frames.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::admit::WebSocket;
use super::exchange::Exchange;
use super::forward::{failed, no_lease};
use super::strip::strip_response;
use crate::body::ProxyBody;
use crate::inbound::AppPort;
use crate::inbound::apps::Lease;
use crate::inbound::caller::Caller;
use crate::refusal::Refusal;
use crate::serve::live::Bond;
use crate::tunnel::{ReadBody, feed};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
/// RFC 6455 §4.2.2.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub(super) async fn forward(
    caller: &Arc<Caller>,
    port: AppPort,
    mut parts: Parts,
    body: ProxyBody,
    how: WebSocket,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let made_key = announce(&mut parts, caller);
    let key = parts.headers.get(&KEY).cloned();
    let request = Request::from_parts(parts, ProxyBody::empty());
    let worker = &caller.session.worker;
    // Never a pooled connection: this one does not come back.
    let mut lease = worker
        .inbound
        .apps
        .pool(port.app)
        .dial()
        .await
        .map_err(no_lease)?;
    let limit = worker.shared.config.limits.response_timeout;
    let response = match tokio::time::timeout(limit, lease.sender.try_send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(failed(&error.into_error())),
        Err(_elapsed) => return Err(Refusal::Timeout),
    };
    exchange.answered();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let mut response = response.map(ProxyBody::http1);
        strip_response(response.headers_mut());
        exchange.lease = Some(lease);
        return Ok(response);
    }
    check(response.headers(), key.as_ref())?;
    let mut response = response;
    let app = hyper::upgrade::on(&mut response);
    let mut headers = std::mem::take(response.headers_mut());
    strip_response(&mut headers);
    match how {
        WebSocket::Upgrade(peer) => {
            let record = caller.session.request();
            caller.session.watch.set_upgraded();
            caller.session.beside(caller.bond(port), async move {
                let _record = record;
                if let Ok((peer, app)) = tokio::try_join!(peer, app) {
                    join(peer, app).await;
                }
                drop(lease);
            });
            Ok(switching(headers))
        }
        WebSocket::Stream => {
            let app = app.await.map_err(|error| failed(&error))?;
            // The peer made no key, so that it wants no answer to one (RFC 8441 §5).
            if made_key {
                headers.remove(&ACCEPT);
            }
            let bond = caller.bond(port);
            let app = (app, lease);
            Ok(streaming(caller, bond, exchange, body, app, headers))
        }
    }
}

/// Makes the request an HTTP/1.1 handshake; says whether the key is our own.
fn announce(parts: &mut Parts, caller: &Caller) -> bool {
    parts.method = Method::GET;
    let headers = &mut parts.headers;
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
    if headers.contains_key(&KEY) {
        return false;
    }
    let random = &caller.session.worker.random;
    let nonce = [random.next().to_le_bytes(), random.next().to_le_bytes()].concat();
    // Base64 is visible ASCII.
    if let Ok(key) = HeaderValue::from_str(&STANDARD.encode(nonce)) {
        headers.insert(KEY, key);
    }
    true
}

/// The application switched to what was asked for, and knows that it did (RFC 6455 §4.1).
fn check(headers: &HeaderMap, key: Option<&HeaderValue>) -> Result<(), Refusal> {
    let websocket = headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let expected = key.map(|key| {
        let text = [key.as_bytes(), GUID.as_bytes()].concat();
        STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
    });
    let accepted = headers.get(&ACCEPT).map(HeaderValue::as_bytes);
    if websocket && expected.is_some() && accepted == expected.as_ref().map(String::as_bytes) {
        Ok(())
    } else {
        Err(Refusal::Failed(
            "the application switched to another protocol".into(),
        ))
    }
}

fn switching(headers: HeaderMap) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response.headers_mut().insert(header::CONNECTION, UPGRADE);
    response.headers_mut().insert(header::UPGRADE, WEBSOCKET);
    response
}

fn streaming(
    caller: &Arc<Caller>,
    bond: Bond,
    exchange: &mut Exchange,
    body: ProxyBody,
    (app, lease): (Upgraded, Lease),
    headers: HeaderMap,
) -> Response<ProxyBody> {
    let body = exchange.count(body);
    let (reader, writer) = tokio::io::split(TokioIo::new(app));
    let (answer, link) = ReadBody::linked(reader);
    caller.session.beside(bond, async move {
        if feed(body, writer).await.is_ok() {
            link.done();
        }
        drop(lease);
    });
    let mut response = Response::new(ProxyBody::socket(answer));
    *response.headers_mut() = headers;
    response
}

async fn join(peer: Upgraded, app: Upgraded) {
    let (peer_reader, peer_writer) = tokio::io::split(TokioIo::new(peer));
    let (app_reader, app_writer) = tokio::io::split(TokioIo::new(app));
    let up = feed(ReadBody::new(peer_reader), app_writer);
    let down = feed(ReadBody::new(app_reader), peer_writer);
    // Either side's end is the end; there is nobody left to tell about an error.
    let _ended = tokio::try_join!(up, down);
}
