//! Step 7: what we say about the request, in the form that the application reads.
//!
//! Owns: the caller's identity (`x-forwarded-client-cert`), our own proof, the trace context, and the version and target
//! form of the way to the application. Everything here was stripped from the peer's own fields before.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Uri, Version};
use ringwall_data_path::permit::Permit;
use ringwall_data_path::trace::TRACEPARENT;
use ringwall_proto::headers::{CLIENT_CERT, LOOPBACK, TRACESTATE};

use super::admit::Purpose;
use super::exchange::Exchange;
use super::filter::Filtered;
use super::strip::Stripped;
use crate::body::ProxyBody;
use crate::inbound::AppPort;
use crate::inbound::caller::Caller;
use crate::snapshot::Protocol;

const XFCC: HeaderName = HeaderName::from_static(CLIENT_CERT);
const PROOF: HeaderName = HeaderName::from_static(LOOPBACK);
const TRACE: HeaderName = HeaderName::from_static(TRACEPARENT);
const STATE: HeaderName = HeaderName::from_static(TRACESTATE);
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// A request as the application will see it. Only an authorized one becomes one.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(super) parts: Parts,
    pub(super) body: ProxyBody,
    pub(super) port: AppPort,
    pub(super) purpose: Purpose,
    /// HTTP/2 with prior knowledge, rather than HTTP/1.1.
    pub(super) http2: bool,
    pub(super) permit: Permit,
}

pub(crate) fn speak(caller: &Caller, filtered: Filtered, exchange: &mut Exchange) -> Outgoing {
    let Filtered {
        stripped, permit, ..
    } = filtered;
    let Stripped {
        mut parts,
        body,
        port,
        purpose,
        takes_trailers,
    } = stripped;
    let shared = &caller.session.worker.shared;
    // Before our own proof is in it, which no operator needs to see.
    exchange.tap(&parts);
    let headers = &mut parts.headers;
    headers.insert(XFCC, caller.client_cert.clone());
    if let Some(loopback) = &shared.loopback {
        headers.insert(PROOF, loopback.value());
    }
    headers.insert(TRACE, exchange.trace.header());
    if !exchange.trace.is_continued() && headers.contains_key(&STATE) {
        headers.remove(&STATE);
    }
    let http2 = match purpose {
        Purpose::Request { grpc } => {
            port.protocol == Protocol::Http2 || (grpc && parts.version == Version::HTTP_2)
        }
        Purpose::Tunnel | Purpose::WebSocket(_) => false,
    };
    if takes_trailers {
        parts.headers.insert(header::TE, TRAILERS);
        if !http2 {
            parts
                .headers
                .insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    match (http2, &purpose) {
        (_, Purpose::Tunnel) => {}
        (true, _) => absolute_form(&mut parts),
        (false, _) => origin_form(&mut parts),
    }
    Outgoing {
        parts,
        body,
        port,
        purpose,
        http2,
        permit,
    }
}

/// HTTP/2 and absolute-form requests become HTTP/1.1 in origin form (RFC 9112 §3.2.1).
fn origin_form(parts: &mut Parts) {
    if parts.version == Version::HTTP_11 && parts.uri.authority().is_none() {
        return;
    }
    if let Some(authority) = parts.uri.authority()
        && !parts.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    parts.uri = Uri::from(path_of(parts));
    parts.version = Version::HTTP_11;
    join_cookies(parts);
}

/// Everything becomes HTTP/2 (RFC 9113 §8.3.1).
fn absolute_form(parts: &mut Parts) {
    let host = parts.headers.remove(header::HOST);
    let named = host.and_then(|host| host.to_str().ok().and_then(|text| text.parse().ok()));
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = parts.uri.authority().cloned().or(named);
    uri.path_and_query = Some(path_of(parts));
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::TRANSFER_ENCODING);
}

fn path_of(parts: &Parts) -> PathAndQuery {
    let path = parts.uri.path_and_query().cloned();
    path.unwrap_or(PathAndQuery::from_static("/"))
}

/// HTTP/2 may split the cookie field; HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(parts: &mut Parts) {
    let crumbs: Vec<&[u8]> = parts
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        parts.headers.insert(header::COOKIE, joined);
    }
}
