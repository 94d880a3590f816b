//! Step 8: what the gateway says about the request.
//!
//! Owns: the user-context token (R14), the trace context, the forwarding fields, and the target in origin form.
//! Everything here was stripped from the client's own fields before.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, Version};
use ringwall_data_path::trace::TRACEPARENT;
use ringwall_http_io::headers::X_USER_CONTEXT;

use super::authorize::Authorized;
use super::body::UpstreamBody;
use super::filter::{Filtered, Plugins};
use crate::access_log::Exchange;
use crate::conn::Connection;
use crate::refusal::Refusal;

const USER_CONTEXT: HeaderName = HeaderName::from_static(X_USER_CONTEXT);
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACE: HeaderName = HeaderName::from_static(TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request as the upstream will see it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) parts: Parts,
    pub(crate) body: UpstreamBody,
    pub(crate) websocket: bool,
    pub(crate) plugins: Plugins,
}

pub(crate) fn contextualise(
    connection: &Connection,
    authorized: &Authorized,
    filtered: Filtered,
    exchange: &Exchange,
) -> Result<Outgoing, Refusal> {
    let Filtered {
        mut parts,
        body,
        host,
        websocket,
        plugins,
    } = filtered;
    if parts.version != Version::HTTP_11 || parts.uri.authority().is_some() {
        origin_form(&mut parts, &host)?;
    }
    let headers = &mut parts.headers;
    headers.insert(FORWARDED_FOR, connection.forwarded_for.clone());
    headers.insert(FORWARDED_PROTO, connection.forwarded_proto());
    headers.insert(TRACE, exchange.trace.header());
    if !exchange.trace.is_continued() && headers.contains_key(&TRACESTATE) {
        headers.remove(&TRACESTATE);
    }
    if let Some(token) = authorized.token() {
        let issuer = &connection.worker.shared.user_context;
        let audience = &authorized.route().cluster.audience;
        let value = issuer
            .header_for(token, audience, exchange.now)
            .map_err(|error| Refusal::Internal(error.to_string().into()))?;
        headers.insert(USER_CONTEXT, value);
    }
    Ok(Outgoing {
        parts,
        body,
        websocket,
        plugins,
    })
}

/// HTTP/2, HTTP/1.0 and absolute-form requests become HTTP/1.1 in origin form (RFC 9112 §3.2.1).
fn origin_form(parts: &mut Parts, host: &str) -> Result<(), Refusal> {
    let target = parts
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    if !parts.headers.contains_key(header::HOST) {
        let named = parts
            .uri
            .authority()
            .map_or(host, |authority| authority.as_str());
        let value =
            HeaderValue::from_str(named).map_err(|_| Refusal::Malformed("host-not-a-name"))?;
        parts.headers.insert(header::HOST, value);
    }
    parts.uri = Uri::from(target);
    parts.version = Version::HTTP_11;
    join_cookies(parts);
    Ok(())
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
