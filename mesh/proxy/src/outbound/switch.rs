//! Connections that become bytes: WebSocket (RFC 6455, RFC 8441) and CONNECT.
//!
//! Owns: the handshake on both sides, since between proxies there is HTTP/2 alone: an upgrade of HTTP/1.1 becomes an
//! extended CONNECT, whose answer has no key to accept, so that the answer to the application's key is made here.
//! Must not: read frames. Read next: `respond.rs`, which begins the copying when the head of the answer is ready.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;

use super::admit::{Switch, Target};
use super::attempts::{Carrier, Fault, Judgement, Plan, run};
use super::destine::EGRESS;
use super::exchange::Exchange;
use super::forward::{fault, judge, refusal, stream};
use crate::body::ProxyBody;
use crate::pipeline::strip::strip_response;
use crate::plugins::tcp;
use crate::refusal::Refusal;
use crate::resilience::breaker::Outcome;
use crate::resilience::policy::Rules;
use crate::resilience::retry::Failure;
use crate::resilience::{Callee, Entered};
use crate::serve::Session;
use crate::snapshot::{Endpoint, Port, Service};
use crate::tunnel::{ReadBody, SendError, Switched, TunnelStream, Tunnels, feed};

const ACCEPT: HeaderName = header::SEC_WEBSOCKET_ACCEPT;
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Where the bytes go, and by which rules.
pub(super) struct Way<'a> {
    pub(super) session: &'a Arc<Session>,
    pub(super) service: &'a Arc<Service>,
    pub(super) plan: &'a Plan<'a>,
    pub(super) entered: Entered,
}

/// What the application says to open a WebSocket.
pub(super) struct Handshake {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// Of HTTP/1.1.
    pub(super) key: Option<HeaderValue>,
}

/// Two ends that wait for each other: the application's connection after its answer, and the tunnel.
#[derive(Debug)]
pub(super) struct Joint {
    pub(super) application: OnUpgrade,
    pub(super) tunnel: TunnelStream,
    /// What the bytes pass.
    pub(super) plugins: Option<tcp::Plugins>,
}

pub(super) async fn websocket(
    way: Way<'_>,
    handshake: Handshake,
    how: Switch,
    body: ProxyBody,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let worker = &way.session.worker;
    let carrier = WebSocket {
        tunnels: &worker.tunnels,
        service: way.service,
        callee: way.plan.callee,
        uri: handshake.uri,
        headers: handshake.headers,
    };
    let plan = Plan {
        rules: Rules {
            hedge: None,
            ..way.plan.rules
        },
        // Nothing has happened before the answer; whatever the form of the handshake, it is a GET.
        idempotent: true,
        ..*way.plan
    };
    let (answer, attempt) = run(&plan, &carrier, &mut exchange.progress)
        .await
        .map_err(refusal)?;
    exchange.answered(attempt, way.entered);
    let (mut parts, switched) = answer.into_parts();
    parts.version = Version::HTTP_11;
    strip_response(&mut parts.headers);
    let tunnel = match switched {
        Switched::Stream(tunnel) => tunnel,
        Switched::Declined(body) => {
            return Ok(Response::from_parts(parts, ProxyBody::http2(body)));
        }
    };
    if let Switch::Upgrade(_) = how {
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        let headers = &mut parts.headers;
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONNECTION, UPGRADE);
        headers.insert(header::UPGRADE, WEBSOCKET);
        if let Some(accept) = handshake.key.as_ref().and_then(accept) {
            headers.insert(ACCEPT, accept);
        }
    }
    let body = join(way.session, how, body, (tunnel, None), exchange);
    Ok(Response::from_parts(parts, body))
}

pub(super) async fn tunnel(
    way: Way<'_>,
    authority: String,
    how: Switch,
    (body, plugins): (ProxyBody, Option<tcp::Plugins>),
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let carrier = Opaque {
        tunnels: &way.session.worker.tunnels,
        service: way.service,
        callee: way.plan.callee,
        authority: &authority,
    };
    let (tunnel, attempt) = run(way.plan, &carrier, &mut exchange.progress)
        .await
        .map_err(refusal)?;
    exchange.answered(attempt, way.entered);
    let body = join(way.session, how, body, (tunnel, plugins), exchange);
    Ok(Response::new(body))
}

/// What a tunnel is opened to: a port of the service, or through the egress gateway what the application named.
pub(super) fn authority(service: &Service, port: Port, target: &Target) -> String {
    if &*service.name == EGRESS && target.host() != EGRESS {
        return target.authority.to_string();
    }
    format!("{}:{}", service.name, port.number)
}

/// Lets the bytes flow: after an upgrade once the answer has left, on a stream of HTTP/2 as the bodies of both sides.
fn join(
    session: &Arc<Session>,
    how: Switch,
    body: ProxyBody,
    (tunnel, plugins): (TunnelStream, Option<tcp::Plugins>),
    exchange: &mut Exchange,
) -> ProxyBody {
    match how {
        Switch::Upgrade(application) => {
            exchange.joint = Some(Joint {
                application,
                tunnel,
                plugins,
            });
            ProxyBody::empty()
        }
        Switch::Stream => {
            let body = exchange.count(body);
            if let Some(plugins) = plugins {
                let late = exchange.late();
                return tcp::beside(session, exchange.bond(), (body, tunnel), plugins, late);
            }
            let (reader, writer) = tokio::io::split(tunnel);
            let (answer, link) = ReadBody::linked(reader);
            session.beside(exchange.bond(), async move {
                if feed(body, writer).await.is_ok() {
                    link.done();
                }
            });
            ProxyBody::socket(answer)
        }
    }
}

/// RFC 6455 §4.2.2: the proof that this was understood as a WebSocket.
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let text = [key.as_bytes(), GUID].concat();
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    HeaderValue::from_str(&accept).ok()
}

struct WebSocket<'a> {
    tunnels: &'a Tunnels,
    service: &'a Arc<Service>,
    callee: &'a Arc<Callee>,
    uri: Uri,
    headers: HeaderMap,
}

impl Carrier for WebSocket<'_> {
    type Request = Request<()>;
    type Answer = Response<Switched>;
    type Error = Refusal;

    fn request(&self) -> Option<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        let protocol = h2::ext::Protocol::from_static("websocket");
        request.extensions_mut().insert(protocol);
        Some(request)
    }

    fn can_repeat(&self) -> bool {
        true
    }

    fn can_double(&self) -> bool {
        false
    }

    async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Request<()>,
    ) -> Result<Response<Switched>, Fault<Refusal>> {
        let stream = stream(self.tunnels, self.callee, self.service, endpoint).await?;
        stream.websocket(request).await.map_err(fault)
    }

    fn judge(&self, answer: &Response<Switched>) -> Judgement {
        judge(answer.status().as_u16(), false)
    }
}

/// Opaque bytes to one port. Until the tunnel is open nothing of the application's was sent.
pub(super) struct Opaque<'a> {
    pub(super) tunnels: &'a Tunnels,
    pub(super) service: &'a Arc<Service>,
    pub(super) callee: &'a Arc<Callee>,
    pub(super) authority: &'a str,
}

impl Carrier for Opaque<'_> {
    type Request = ();
    type Answer = TunnelStream;
    type Error = Refusal;

    fn request(&self) -> Option<()> {
        Some(())
    }

    fn can_repeat(&self) -> bool {
        true
    }

    fn can_double(&self) -> bool {
        false
    }

    async fn send(&self, endpoint: &Arc<Endpoint>, (): ()) -> Result<TunnelStream, Fault<Refusal>> {
        let stream = stream(self.tunnels, self.callee, self.service, endpoint).await?;
        stream.connect(self.authority).await.map_err(not_open)
    }

    fn judge(&self, _: &TunnelStream) -> Judgement {
        judge(200, false)
    }
}

/// A refusal is the peer's considered answer, unless it says that it cannot.
fn not_open(error: SendError) -> Fault<Refusal> {
    let refused = match &error {
        SendError::Refused(status) => Some(*status),
        _ => None,
    };
    let fault = fault(error);
    match refused {
        Some(status) if status.is_server_error() => Fault {
            failure: Failure::Unseen,
            outcome: judge(status.as_u16(), false).outcome,
            ..fault
        },
        Some(_) => Fault {
            failure: Failure::Own,
            outcome: Outcome::Neutral,
            ..fault
        },
        None if fault.failure == Failure::Lost => Fault {
            failure: Failure::Unseen,
            ..fault
        },
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::fixture::{http, service};

    #[test]
    fn the_accepted_key_is_that_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn r27_only_the_egress_gateway_is_told_a_foreign_name() {
        let target = |authority: &'static str| Target {
            port: None,
            authority: http::uri::Authority::from_static(authority),
        };
        let (egress, orders) = (
            service(EGRESS, http(7109), &[]),
            service("orders", http(7105), &[]),
        );
        let foreign = target("api.example.com:443");
        assert_eq!(
            authority(&egress, http(7109), &foreign),
            "api.example.com:443"
        );
        assert_eq!(
            authority(&egress, http(7109), &target("egress:7109")),
            "egress:7109"
        );
        assert_eq!(
            authority(&orders, http(7105), &target("orders:7105")),
            "orders:7105"
        );
    }

    #[test]
    fn r30_a_tunnel_that_was_never_open_is_opened_elsewhere() {
        let of = |status| not_open(SendError::Refused(status)).failure;
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE), Failure::Unseen);
        assert_eq!(of(StatusCode::FORBIDDEN), Failure::Own);
        assert_eq!(of(StatusCode::NOT_FOUND), Failure::Own);
        let reset = h2::Error::from(h2::Reason::CANCEL);
        assert_eq!(not_open(SendError::Reset(reset)).failure, Failure::Unseen);
    }
}
