//! Step 6: what a client may not say is taken out.
//!
//! Owns: removal of hop-by-hop fields (RFC 9110 §7.6.1), of identity fields and their underscore twins, and of the
//! access token where the route keeps it. Must not: add anything. Next: `contextualise.rs`.

use http::HeaderMap;
use http::header::{self, HeaderName};
use http::request::Parts;
use hyper::body::Incoming;
use ringwall_data_path::fields;
use ringwall_http_io::headers::{is_hop_by_hop, is_trusted_header};

use super::admit::Admitted;
use crate::snapshot::Route;

/// A request that says only what its client may say.
#[derive(Debug)]
pub(crate) struct Stripped {
    pub(crate) parts: Parts,
    pub(crate) body: Incoming,
    pub(crate) host: Box<str>,
    pub(crate) websocket: bool,
}

pub(crate) fn strip(admitted: Admitted, route: &Route) -> Stripped {
    let Admitted {
        request,
        host,
        websocket,
    } = admitted;
    let (mut parts, body) = request.into_parts();
    fields::remove(&mut parts.headers, ends_here);
    if !route.forward_access_token {
        parts.headers.remove(header::AUTHORIZATION);
    }
    Stripped {
        parts,
        body,
        host,
        websocket,
    }
}

pub(super) fn ends_here(name: &HeaderName) -> bool {
    let text = name.as_str();
    match text.as_bytes().first() {
        Some(b'x' | b'f' | b'v') => is_trusted_header(text),
        Some(b'c' | b'k' | b'p' | b't' | b'u') => is_hop_by_hop(name),
        Some(b'e') => *name == header::EXPECT,
        Some(b'h') => text == "http2-settings",
        _ => false,
    }
}

/// Takes out of a response what ends here and what tells about the upstream.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    let ends = |name: &HeaderName| match name.as_str().as_bytes().first() {
        Some(b'c' | b'k' | b'p' | b't' | b'u') => is_hop_by_hop(name),
        Some(b's') => *name == header::SERVER,
        Some(b'x') => name.as_str() == "x-powered-by" || is_trusted_header(name.as_str()),
        _ => false,
    };
    fields::remove(headers, ends);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn map(names: &[&'static str]) -> HeaderMap {
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")))
            .collect()
    }

    #[test]
    fn r14_identity_fields_and_their_twins_never_pass() {
        let mut headers = map(&[
            "x-ringwall-user-context",
            "x_ringwall_user_context",
            "x-ringwall_user-context",
            "x-forwarded-for",
            "x-forwarded-host",
            "x_forwarded_for",
            "forwarded",
            "via",
            "x-real-ip",
            "te",
            "upgrade",
            "keep-alive",
            "proxy-authorization",
            "expect",
            "accept",
            "x-ringwall-csrf",
            "idempotency-key",
            "cookie",
        ]);
        fields::remove(&mut headers, ends_here);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["accept", "cookie", "idempotency-key", "x-ringwall-csrf"]
        );
    }

    #[test]
    fn fields_listed_in_connection_end_here() {
        let mut headers = map(&["x-hop", "accept", "content-length"]);
        headers.append(header::CONNECTION, HeaderValue::from_static("close, x-hop"));
        headers.append(
            header::CONNECTION,
            HeaderValue::from_static("content-length"),
        );
        fields::remove(&mut headers, ends_here);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length"]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_shared_rules(names in proptest::collection::vec(
            "(x|f|v|c|k|p|t|u|a)[a-z_-]{0,8}|x[-_]forwarded[-_][a-z]{1,5}|x[-_]ringwall[-_][a-z]{1,5}|via|te|forwarded|upgrade", 0..30)) {
            let mut ours = HeaderMap::new();
            for name in &names {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    ours.append(name, HeaderValue::from_static("v"));
                }
            }
            let mut theirs = ours.clone();
            fields::remove(&mut ours, ends_here);
            ringwall_http_io::headers::strip_hop_by_hop(&mut theirs);
            ringwall_http_io::headers::strip_trusted(&mut theirs);
            prop_assert_eq!(ours, theirs);
        }
    }
}
