//! Step 6: the request as the next hop will see it.
//!
//! Owns: removal of hop-by-hop fields (RFC 9110 §7.6.1) and of what only proxies may say, the trace context, and the form
//! of HTTP/2 (RFC 9113 §8.3.1). Must not: touch the body.

use http::header::{self, HeaderName};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Uri};
use ringwall_data_path::fields;
use ringwall_data_path::trace::TRACEPARENT;
use ringwall_http_io::headers::is_hop_by_hop;
use ringwall_proto::headers::TRACESTATE;

use super::admit::Admitted;
use super::enter::Placed;
use super::exchange::Exchange;
use super::filter::Filtered;
use crate::pipeline::strip::is_ours;
use crate::plugins::tcp;
use crate::resilience::deadline::GRPC_TIMEOUT;

const TRACE: HeaderName = HeaderName::from_static(TRACEPARENT);
const STATE: HeaderName = HeaderName::from_static(TRACESTATE);
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// A call that is ready to be sent. Only a permitted one becomes one.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) placed: Placed,
    /// Scheme, authority and path.
    pub(super) uri: Uri,
    /// The key of an RFC 6455 handshake, which ends here.
    pub(super) websocket_key: Option<HeaderValue>,
    /// The plugins of a tunnel's bytes.
    pub(super) bytes: Option<tcp::Plugins>,
}

pub(super) fn prepare(filtered: Filtered, exchange: &mut Exchange) -> Outgoing {
    let Filtered {
        mut placed, bytes, ..
    } = filtered;
    let Admitted { parts, target, .. } = &mut placed.admitted;
    let headers = &mut parts.headers;
    let takes_trailers = takes_trailers(headers);
    let websocket_key = headers.remove(header::SEC_WEBSOCKET_KEY);
    fields::remove(headers, ends_here);
    if takes_trailers {
        headers.insert(header::TE, TRAILERS);
    }
    headers.insert(TRACE, exchange.trace.header());
    if !exchange.trace.is_continued() && headers.contains_key(&STATE) {
        headers.remove(&STATE);
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(parts.uri.scheme().cloned().unwrap_or(Scheme::HTTP));
    uri.authority = Some(target.authority.clone());
    let path = parts.uri.path_and_query().cloned();
    uri.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
    let uri = Uri::from_parts(uri).unwrap_or_default();
    exchange.tap(parts);
    Outgoing {
        placed,
        uri,
        websocket_key,
        bytes,
    }
}

/// RFC 9110 §10.1.4; the one member of TE that HTTP/2 has.
fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

fn ends_here(name: &HeaderName) -> bool {
    let text = name.as_str();
    match text.as_bytes().first() {
        Some(b'x') => is_ours(text),
        Some(b'c' | b'k' | b'p' | b't' | b'u') => {
            // What trailers there will be concerns both ends.
            is_hop_by_hop(name) && *name != header::TRAILER
        }
        Some(b'e') => *name == header::EXPECT,
        // The name is in `:authority`.
        Some(b'h') => *name == header::HOST || text == "http2-settings",
        // Told anew for each attempt.
        Some(b'g') => *name == GRPC_TIMEOUT,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(names: &[&str]) -> Vec<String> {
        let mut headers: HeaderMap = names
            .iter()
            .map(|name| (name.parse().unwrap(), HeaderValue::from_static("v")))
            .collect();
        fields::remove(&mut headers, ends_here);
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn attack_what_only_a_proxy_may_say_never_leaves() {
        let forged = [
            "x-forwarded-client-cert",
            "x_forwarded_client-cert",
            "x-ringwall-loopback",
            "x-ringwall_loopback",
            "connection",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "expect",
            "host",
            "http2-settings",
            "grpc-timeout",
        ];
        assert_eq!(left(&forged), Vec::<String>::new());
    }

    #[test]
    fn what_the_application_has_to_say_leaves() {
        let said = [
            "authorization",
            "content-length",
            "cookie",
            "grpc-encoding",
            "idempotency-key",
            "trailer",
            "x-api-key",
            "x-ringwall-user-context",
        ];
        assert_eq!(left(&said), said);
    }

    #[test]
    fn trailers_are_asked_for_on() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::TE, HeaderValue::from_static(value));
            takes_trailers(&headers)
        };
        assert!(takes("trailers") && takes("deflate, Trailers"));
        assert!(!takes("deflate") && !takes_trailers(&HeaderMap::new()));
    }
}
