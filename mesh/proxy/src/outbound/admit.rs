//! Step 1: is this our application, and is its message one that everybody reads alike?
//!
//! Owns: the proof that it is the workload beside us that calls, the checks of a parsed head that hyper and h2 leave to
//! their user, and the purpose of the request. Must not: look at services.

use http::request::Parts;
use http::uri::Authority;
use http::{Method, Request, Version, header};
use hyper::upgrade::OnUpgrade;
use ringwall_data_path::fields;

use super::captured::Way;
use crate::body::ProxyBody;
use crate::pipeline::admit::is_grpc;
use crate::refusal::Refusal;
use crate::serve::Session;

/// Evidence: the workload itself asks, and this is what for.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) parts: Parts,
    pub(super) body: ProxyBody,
    pub(super) target: Target,
    pub(super) purpose: Purpose,
}

/// Whom the application named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) port: Option<u16>,
    /// In lower case.
    pub(super) authority: Authority,
}

impl Target {
    pub(super) fn host(&self) -> &str {
        self.authority.host()
    }
}

/// What a request wants.
#[derive(Debug)]
pub(super) enum Purpose {
    Request {
        /// Answers have a status of gRPC's own.
        grpc: bool,
    },
    WebSocket(Switch),
    /// Opaque bytes (CONNECT).
    Tunnel(Switch),
}

/// How bytes flow once the request is answered.
#[derive(Debug)]
pub(super) enum Switch {
    /// HTTP/1.1: the connection itself.
    Upgrade(OnUpgrade),
    /// HTTP/2: the stream.
    Stream,
}

pub(super) fn admit(
    session: &Session,
    request: Request<ProxyBody>,
    way: &Way,
) -> Result<Admitted, Refusal> {
    let (mut parts, body) = request.into_parts();
    // Whose connection was captured is known: the kernel has led it here from the application's control group.
    let loopback = session.worker.shared.loopback.as_ref();
    let loopback = loopback.filter(|_| matches!(way, Way::Named));
    if loopback.is_some_and(|token| !token.is_shown_in(&parts.headers)) {
        return Err(Refusal::Loopback);
    }
    check_form(&parts)?;
    fields::check_framing(&parts.headers, parts.version).map_err(Refusal::Malformed)?;
    let target = target(&parts)?;
    let purpose = purpose(&mut parts)?;
    if matches!(
        (way, &purpose),
        (Way::Bound(_) | Way::Outside, Purpose::Tunnel(_))
    ) {
        // Its destination is known already, and is not the proxy.
        return Err(Refusal::Malformed("connect-when-captured"));
    }
    Ok(Admitted {
        parts,
        body,
        target,
        purpose,
    })
}

/// A plugin's own call: a request, of whatever host it names.
pub(super) fn of_a_plugin(request: Request<ProxyBody>) -> Result<Admitted, Refusal> {
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Refusal::Upgrade);
    }
    check_form(&parts)?;
    fields::check_framing(&parts.headers, parts.version).map_err(Refusal::Malformed)?;
    let target = target(&parts)?;
    match purpose(&mut parts)? {
        purpose @ Purpose::Request { .. } => Ok(Admitted {
            parts,
            body,
            target,
            purpose,
        }),
        Purpose::WebSocket(_) | Purpose::Tunnel(_) => Err(Refusal::Upgrade),
    }
}

/// RFC 9112 §3.2: a target form that fits the method, and a scheme of ours.
fn check_form(parts: &Parts) -> Result<(), Refusal> {
    let uri = &parts.uri;
    if parts.method == Method::TRACE {
        return Err(Refusal::Malformed("trace"));
    }
    let plain_connect =
        parts.method == Method::CONNECT && parts.extensions.get::<h2::ext::Protocol>().is_none();
    match uri.scheme_str() {
        None if plain_connect && uri.authority().is_some() => Ok(()),
        _ if plain_connect => Err(Refusal::Malformed("connect-without-authority")),
        None if uri.authority().is_some() => Err(Refusal::Malformed("authority-form")),
        None | Some("http" | "https") => Ok(()),
        Some(_) => Err(Refusal::Malformed("scheme")),
    }
}

/// The one name that `Host` and the target agree on (RFC 9110 §7.2, RFC 9113 §8.3.1).
fn target(parts: &Parts) -> Result<Target, Refusal> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (field, None) => field,
        _ => return Err(Refusal::Malformed("repeated-host")),
    };
    let named = match (parts.uri.authority(), field) {
        (Some(target), None) => target.clone(),
        // RFC 9112 §3.2.2: the absolute form counts, but two names are two readings.
        (Some(target), Some(field)) => {
            if !target
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(field.as_bytes())
            {
                return Err(Refusal::Malformed("host-differs-from-target"));
            }
            target.clone()
        }
        (None, Some(field)) => Authority::try_from(field.as_bytes())
            .map_err(|_| Refusal::Malformed("host-not-a-name"))?,
        (None, None) => return Err(Refusal::Malformed("host-missing")),
    };
    read(named).ok_or(Refusal::Malformed("host-not-a-name"))
}

fn read(authority: Authority) -> Option<Target> {
    let sound = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'[' | b']')
    };
    let host = authority.host();
    if host.is_empty() || !authority.as_str().bytes().all(sound) {
        return None;
    }
    let rest = authority.as_str().strip_prefix(host)?;
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return None,
        Some(digits) => Some(digits.parse().ok().filter(|port| *port != 0)?),
    };
    let upper = authority.as_str().bytes().any(|b| b.is_ascii_uppercase());
    let authority = if upper {
        authority.as_str().to_ascii_lowercase().parse().ok()?
    } else {
        authority
    };
    Some(Target { port, authority })
}

fn purpose(parts: &mut Parts) -> Result<Purpose, Refusal> {
    if parts.method == Method::CONNECT {
        let protocol = parts.extensions.remove::<h2::ext::Protocol>();
        return match protocol.as_ref().map(h2::ext::Protocol::as_str) {
            None if parts.uri.port().is_none() => Err(Refusal::Malformed("connect-without-port")),
            None => Ok(Purpose::Tunnel(switch(parts)?)),
            Some("websocket") => Ok(Purpose::WebSocket(Switch::Stream)),
            Some(_) => Err(Refusal::Upgrade),
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
    if is_websocket(parts) {
        return Ok(Purpose::WebSocket(switch(parts)?));
    }
    Err(Refusal::Upgrade)
}

fn switch(parts: &mut Parts) -> Result<Switch, Refusal> {
    if parts.version == Version::HTTP_2 {
        return Ok(Switch::Stream);
    }
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    upgrade.map(Switch::Upgrade).ok_or(Refusal::Upgrade)
}

/// RFC 6455 §4.1.
fn is_websocket(parts: &Parts) -> bool {
    let headers = &parts.headers;
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let only = upgrades
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && upgrades.next().is_none();
    only && parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && headers.contains_key(header::SEC_WEBSOCKET_KEY)
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn named(uri: &str, hosts: &[&str]) -> Result<(String, Option<u16>), &'static str> {
        match target(&parts(uri, hosts)) {
            Ok(target) => Ok((target.host().to_owned(), target.port)),
            Err(Refusal::Malformed(why)) => Err(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_target_is_named_once() {
        let inventory = || ("inventory".to_owned(), None);
        assert_eq!(named("/", &["inventory"]), Ok(inventory()));
        assert_eq!(named("/", &["Inventory"]), Ok(inventory()));
        assert_eq!(
            named("/", &["inventory:7106"]),
            Ok(("inventory".to_owned(), Some(7106)))
        );
        assert_eq!(named("http://inventory/", &["inventory"]), Ok(inventory()));
        assert_eq!(named("http://inventory/", &[]), Ok(inventory()));
        assert_eq!(
            named("http://[::1]:80/", &[]),
            Ok(("[::1]".to_owned(), Some(80)))
        );
    }

    #[test]
    fn attack_two_readings_of_a_target_are_refused() {
        assert_eq!(named("/", &[]), Err("host-missing"));
        assert_eq!(named("/", &["a", "b"]), Err("repeated-host"));
        assert_eq!(named("/", &["a", "a"]), Err("repeated-host"));
        assert_eq!(
            named("http://inventory/", &["payments"]),
            Err("host-differs-from-target")
        );
        for host in [
            "user@inventory",
            "inventory:0",
            "inventory:99999",
            "inventory:",
            "inv%65ntory",
            "inventory/x",
            "a,b",
        ] {
            assert_eq!(named("/", &[host]), Err("host-not-a-name"), "{host}");
        }
    }

    proptest! {
        #[test]
        fn any_host_has_one_reading_or_none(host in "[ -~]{0,30}") {
            if let Ok((name, port)) = named("/", &[&host]) {
                let again = match port {
                    Some(port) => format!("{name}:{port}"),
                    None => name,
                };
                // Leading zeros of a port are the one thing that is lost.
                let same = again.eq_ignore_ascii_case(&host) || host.contains(":0");
                prop_assert!(same, "{again} of {host}");
            }
        }
    }
}
