//! Step 1: is this message one that everybody reads alike, and what does it want?
//!
//! Owns: the checks of a parsed head that hyper and h2 leave to their user (target form, host, path, framing, upgrades)
//! and the purpose of the request. The bytes below were checked by `ringwall_data_path::guard`.
//! Must not: look at policy.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Version, header};
use hyper::upgrade::OnUpgrade;
use ringwall_data_path::{fields, path};

use super::exchange::Exchange;
use crate::access_log::FlowKind;
use crate::body::ProxyBody;
use crate::inbound::AppPort;
use crate::inbound::caller::Caller;
use crate::refusal::Refusal;
use crate::snapshot::Protocol;

/// Evidence: the message is sound and for one of our ports.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(super) parts: Parts,
    pub(super) body: ProxyBody,
    pub(super) port: AppPort,
    pub(super) purpose: Purpose,
}

/// What a request wants.
#[derive(Debug)]
pub(crate) enum Purpose {
    Request {
        /// Answers have a status of gRPC's own.
        grpc: bool,
    },
    /// Bytes for an opaque port, or connections for one of HTTP (HBONE).
    Tunnel,
    WebSocket(WebSocket),
}

/// How the caller asked for a WebSocket.
#[derive(Debug)]
pub(crate) enum WebSocket {
    /// RFC 6455: `Upgrade` on HTTP/1.1.
    Upgrade(OnUpgrade),
    /// RFC 8441: an extended CONNECT on HTTP/2.
    Stream,
}

impl Purpose {
    pub(crate) const fn is_grpc(&self) -> bool {
        matches!(self, Self::Request { grpc: true })
    }
}

pub(crate) fn admit(
    caller: &Caller,
    request: Request<ProxyBody>,
    exchange: &mut Exchange,
) -> Result<Admitted, Refusal> {
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT && parts.extensions.get::<h2::ext::Protocol>().is_none() {
        let port = target(caller, &parts)?;
        exchange.serves(port, FlowKind::Tcp);
        return Ok(Admitted {
            parts,
            body,
            port,
            purpose: Purpose::Tunnel,
        });
    }
    // On the HBONE port there are tunnels alone, and inside an opaque port no HTTP.
    let port = caller.port.ok_or(Refusal::Upgrade)?;
    if port.protocol == Protocol::Tcp {
        return Err(Refusal::Upgrade);
    }
    check_target(&parts)?;
    check_host(&parts)?;
    path::check(parts.uri.path()).map_err(|fault| Refusal::Malformed(fault.as_str()))?;
    fields::check_framing(&parts.headers, parts.version).map_err(Refusal::Malformed)?;
    let purpose = purpose(&mut parts)?;
    let kind = match purpose {
        Purpose::WebSocket(_) => FlowKind::WebSocket,
        _ => FlowKind::Request,
    };
    exchange.serves(port, kind);
    Ok(Admitted {
        parts,
        body,
        port,
        purpose,
    })
}

/// The port that a CONNECT names. The host is the peer's business: whatever it is, it led here.
fn target(caller: &Caller, parts: &Parts) -> Result<AppPort, Refusal> {
    if parts.version != Version::HTTP_2 {
        return Err(Refusal::Upgrade);
    }
    if caller.session.worker.shared.egress.is_some() {
        // What it names is outside; the egress gateway's own rules decide about that.
        return caller.port.ok_or(Refusal::UnknownPort);
    }
    let number = parts
        .uri
        .authority()
        .and_then(Authority::port_u16)
        .ok_or(Refusal::UnknownPort)?;
    caller.inbound.port(number).ok_or(Refusal::UnknownPort)
}

/// RFC 9112 §3.2: origin-form, or absolute-form with a scheme of ours.
fn check_target(parts: &Parts) -> Result<(), Refusal> {
    if parts.method == Method::TRACE {
        return Err(Refusal::Malformed("trace"));
    }
    if parts.method == Method::CONNECT && parts.version != Version::HTTP_2 {
        return Err(Refusal::Upgrade);
    }
    match parts.uri.scheme_str() {
        None if parts.uri.authority().is_some() => Err(Refusal::Malformed("authority-form")),
        None | Some("http" | "https") => Ok(()),
        Some(_) => Err(Refusal::Malformed("scheme")),
    }
}

/// `Host` and target agree (RFC 9110 §7.2, RFC 9113 §8.3.1), and there is no user in front of it.
fn check_host(parts: &Parts) -> Result<(), Refusal> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (field, None) => field,
        _ => return Err(Refusal::Malformed("repeated-host")),
    };
    let target = parts.uri.authority().map(Authority::as_str);
    let named = match (field, target) {
        (Some(field), Some(target))
            if !field.as_bytes().eq_ignore_ascii_case(target.as_bytes()) =>
        {
            return Err(Refusal::Malformed("host-differs-from-target"));
        }
        (Some(field), _) => field.as_bytes(),
        (None, Some(target)) => target.as_bytes(),
        (None, None) => return Err(Refusal::Malformed("host-missing")),
    };
    let sound = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']')
    };
    if named.is_empty() || !named.iter().all(sound) {
        return Err(Refusal::Malformed("host-not-a-name"));
    }
    Ok(())
}

fn purpose(parts: &mut Parts) -> Result<Purpose, Refusal> {
    if let Some(protocol) = parts.extensions.remove::<h2::ext::Protocol>() {
        return if protocol.as_str() == "websocket" {
            Ok(Purpose::WebSocket(WebSocket::Stream))
        } else {
            Err(Refusal::Upgrade)
        };
    }
    if parts.headers.contains_key("http2-settings") {
        // h2c by upgrade (RFC 7540 §3.2) is withdrawn, and refused rather than ignored.
        return Err(Refusal::Upgrade);
    }
    if !parts.headers.contains_key(header::UPGRADE) {
        return Ok(Purpose::Request {
            grpc: is_grpc(&parts.headers),
        });
    }
    if !is_websocket(parts) {
        return Err(Refusal::Upgrade);
    }
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    upgrade
        .map(|upgrade| Purpose::WebSocket(WebSocket::Upgrade(upgrade)))
        .ok_or(Refusal::Upgrade)
}

/// `application/grpc`, alone or with a message format after it.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

fn is_websocket(parts: &Parts) -> bool {
    let headers = &parts.headers;
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let only = upgrades
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    only && upgrades.next().is_none()
        && parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
