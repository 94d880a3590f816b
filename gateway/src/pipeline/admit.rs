//! Step 1: is this message one that everybody reads alike?
//!
//! Owns: the checks of a parsed head that hyper leaves to its user: host, target form, path, framing fields,
//! upgrades. What is refused here ends its connection. The bytes below were checked by `ringwall_data_path::guard`.
//! Must not: look at routes.

use http::uri::Authority;
use http::{Method, Request, Version, header};
use hyper::body::Incoming;
use ringwall_data_path::fields::check_framing;
use ringwall_data_path::path;

use crate::conn::Connection;
use crate::refusal::Refusal;

/// Evidence: the message is sound and meant for `host`.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) request: Request<Incoming>,
    /// Lower case, without port.
    pub(crate) host: Box<str>,
    /// The client asks for an RFC 6455 connection.
    pub(crate) websocket: bool,
}

pub(crate) fn admit(
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Admitted, Refusal> {
    check_target(&request)?;
    let host = host_of(&request)?;
    check_sni(connection, &host)?;
    path::check(request.uri().path()).map_err(|fault| Refusal::Malformed(fault.as_str()))?;
    check_framing(request.headers(), request.version()).map_err(Refusal::Malformed)?;
    let websocket = check_upgrade(&request)?;
    Ok(Admitted {
        request,
        host,
        websocket,
    })
}

/// RFC 9112 §3.2: origin-form, or absolute-form with a scheme of ours; CONNECT and `*` have no route here.
fn check_target(request: &Request<Incoming>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT || request.method() == Method::TRACE {
        return Err(Refusal::MethodNotAllowed(Vec::new()));
    }
    match request.uri().scheme_str() {
        None if request.uri().authority().is_some() => Err(Refusal::Malformed("authority-form")),
        None | Some("http" | "https") => Ok(()),
        Some(_) => Err(Refusal::Malformed("scheme")),
    }
}

/// The one host that `Host` and the target agree on (RFC 9110 §7.2, RFC 9113 §8.3.1).
fn host_of(request: &Request<Incoming>) -> Result<Box<str>, Refusal> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (field, None) => field,
        _ => return Err(Refusal::Malformed("repeated-host")),
    };
    let field = match field {
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| Refusal::Malformed("host-not-a-name"))?,
        ),
        None => None,
    };
    let target = request.uri().authority().map(Authority::as_str);
    let named = match (field, target) {
        (Some(field), Some(target)) if !field.eq_ignore_ascii_case(target) => {
            return Err(Refusal::Malformed("host-differs-from-target"));
        }
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) => return Err(Refusal::Malformed("host-missing")),
    };
    host_name(named).ok_or(Refusal::Malformed("host-not-a-name"))
}

/// The name of `name[:port]`, lower case; a name is letters, digits, dots and hyphens.
fn host_name(text: &str) -> Option<Box<str>> {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let sound = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    let port_sound = port.is_none_or(|port| {
        port.len() <= 5
            && port
                .parse::<u16>()
                .is_ok_and(|_| port.bytes().all(|b| b.is_ascii_digit()))
    });
    if !sound || !port_sound {
        return None;
    }
    let mut name: Box<str> = name.into();
    name.make_ascii_lowercase();
    Some(name)
}

/// A connection speaks for the host that its handshake named, and for no other (RFC 9110 §15.5.20).
fn check_sni(connection: &Connection, host: &str) -> Result<(), Refusal> {
    match connection.sni.as_deref() {
        Some(sni) if sni != host => Err(Refusal::Misdirected("host-differs-from-sni")),
        _ => Ok(()),
    }
}

/// The only upgrade there is is WebSocket; h2c (RFC 7540 §3.2, withdrawn by RFC 9113) is refused, not ignored.
fn check_upgrade(request: &Request<Incoming>) -> Result<bool, Refusal> {
    let headers = request.headers();
    let Some(upgrade) = headers.get(header::UPGRADE) else {
        if headers.contains_key("http2-settings") {
            return Err(Refusal::Upgrade);
        }
        return Ok(false);
    };
    let sound = upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
        && request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && headers.get_all(header::UPGRADE).iter().count() == 1
        && !headers.contains_key("http2-settings")
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING);
    if sound {
        Ok(true)
    } else {
        Err(Refusal::Upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_lose_case_and_port() {
        for (text, name) in [
            ("api.localhost", "api.localhost"),
            ("API.localhost:8443", "api.localhost"),
            ("a", "a"),
        ] {
            assert_eq!(host_name(text).as_deref(), Some(name), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for text in [
            "", ":80", "a:", "a:b", "a:123456", "a:+1", "user@a", "a/b", "a b", "a,b", "[::1]",
            "a:1:2", "a_b",
        ] {
            assert_eq!(host_name(text), None, "{text:?}");
        }
    }
}
