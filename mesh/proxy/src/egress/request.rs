//! A request on its way out: read, checked, and written again in the one form that the server gets.
//!
//! Owns: the target with one reading, the removal of everything that is the platform's own, the rule's credential in its
//! place, and the limit of the body. Must not: decide whether the request may go (`rules.rs`).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use ringwall_data_path::path;
use ringwall_http_io::body::BoxError;
use ringwall_http_io::headers::{strip_hop_by_hop, strip_trusted};
use ringwall_http_io::{BoxBody, body};
use ringwall_secret::SecretProvider;

use super::config::TlsMode;
use super::refusal::Refusal;
use super::rules::Rule;
use super::target::{Host, Target};

/// Fields that are the platform's own affair, beside the trusted and the hop-by-hop ones: its API keys, and its traces,
/// which would show strangers how requests go on inside.
const INTERNAL: [HeaderName; 4] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

/// Where a request goes, before any rule was asked.
pub(crate) fn target(parts: &Parts) -> Result<Target, Refusal> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(Refusal::Kind(
            "CONNECT and TRACE are no requests to a server outside",
        ));
    }
    if parts.headers.contains_key(header::UPGRADE) {
        return Err(Refusal::Kind("an upgrade; tunnels go through CONNECT"));
    }
    let known = [None, Some("http"), Some("https")];
    if !known.contains(&parts.uri.scheme_str()) {
        return Err(Refusal::Kind("neither http nor https"));
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::HostMismatch),
        (Some(host), None) => Some(parse(host.to_str().map_err(|_| Refusal::HostMismatch)?)?),
        (None, None) => None,
    };
    let authority = parts
        .uri
        .authority()
        .map(|authority| parse(authority.as_str()))
        .transpose()?;
    match (authority, host) {
        (Some(authority), Some(host)) if authority != host => Err(Refusal::HostMismatch),
        (Some(target), _) | (None, Some(target)) => Ok(target),
        (None, None) => Err(Refusal::Target(super::target::TargetFault::Missing)),
    }
}

fn parse(authority: &str) -> Result<Target, Refusal> {
    Target::parse(authority).map_err(Refusal::Target)
}

/// The path that rules are asked about; it has one reading.
pub(crate) fn checked_path(uri: &Uri) -> Result<&str, Refusal> {
    // Absolute-form without a path means `/` (RFC 9112 §3.2.2).
    let path = if uri.path().is_empty() {
        "/"
    } else {
        uri.path()
    };
    path::check(path).map_err(Refusal::Path)?;
    Ok(path)
}

/// The head as the server gets it, but for what depends on the HTTP version.
pub(crate) fn prepare(
    parts: &mut Parts,
    rule: &Rule,
    secrets: &SecretProvider,
) -> Result<(), Refusal> {
    let headers = &mut parts.headers;
    strip(headers);
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    if let Some(credential) = &rule.credential {
        // The workload's own word has no place here, in whichever spelling.
        strip_twins(headers, std::slice::from_ref(&credential.header));
        let failed = || Refusal::Credential(credential.secret.clone());
        let secret = secrets
            .get_string(&credential.secret)
            .map_err(|_| failed())?;
        let value = zeroizing(&credential.prefix, secret.expose());
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| failed())?;
        value.set_sensitive(true);
        headers.insert(credential.header.clone(), value);
    }
    Ok(())
}

/// Removes what is the platform's own, of a head and of trailers.
fn strip(fields: &mut HeaderMap) {
    strip_hop_by_hop(fields);
    strip_trusted(fields);
    strip_twins(fields, &INTERNAL);
}

fn zeroizing(prefix: &str, secret: &str) -> zeroize::Zeroizing<Vec<u8>> {
    let mut value = zeroize::Zeroizing::new(Vec::with_capacity(prefix.len() + secret.len()));
    value.extend_from_slice(prefix.as_bytes());
    value.extend_from_slice(secret.as_bytes());
    value
}

/// Removes `names` with their underscore twins, which some servers cannot tell apart.
fn strip_twins(headers: &mut HeaderMap, names: &[HeaderName]) {
    let doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let plain = name.as_str().replace('_', "-");
            names
                .iter()
                .any(|doomed| doomed.as_str().replace('_', "-") == plain)
        })
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// Writes the request in the form of its HTTP version. Bodies are given back where it was not sent.
pub(crate) fn form(
    parts: &Parts,
    host: &Host,
    rule: &Rule,
    is_http2: bool,
    body: BoxBody,
) -> Result<Request<BoxBody>, Refusal> {
    let scheme = if rule.tls == TlsMode::None {
        Scheme::HTTP
    } else {
        Scheme::HTTPS
    };
    let default_port = if scheme == Scheme::HTTP { 80 } else { 443 };
    let authority = if rule.port == default_port {
        host.authority()
    } else {
        format!("{}:{}", host.authority(), rule.port)
    };
    let bad = |_| Refusal::Kind("a target that cannot be written");
    let path = parts
        .uri
        .path_and_query()
        .filter(|path| !path.as_str().is_empty());
    let path = path
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    if is_http2 {
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(path);
        *request.uri_mut() = uri.build().map_err(bad)?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        *request.uri_mut() = path.into();
        let host = HeaderValue::from_str(&authority)
            .map_err(|_| Refusal::Kind("a host that cannot be written"))?;
        request.headers_mut().insert(header::HOST, host);
        *request.version_mut() = Version::HTTP_11;
    }
    Ok(request)
}

/// A declared length beyond the limit is refused before a byte is sent.
pub(crate) fn check_length(parts: &Parts, limit: u64) -> Result<(), Refusal> {
    let Some(length) = parts.headers.get(header::CONTENT_LENGTH) else {
        return Ok(());
    };
    let length = length
        .to_str()
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    match length {
        Some(length) if length <= limit => Ok(()),
        Some(_) => Err(Refusal::BodyTooLarge),
        None => Err(Refusal::Kind("a Content-Length that is no number")),
    }
}

/// The body went over its limit.
#[derive(Debug, thiserror::Error)]
#[error("the request body is longer than {limit} bytes")]
pub(crate) struct TooLarge {
    limit: u64,
}

/// A request body that is counted and ends with an error beyond its limit.
pub(crate) struct Counted {
    inner: BoxBody,
    limit: u64,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    pub(crate) fn boxed(inner: BoxBody, limit: u64, bytes: Arc<AtomicU64>) -> BoxBody {
        // A body that is over already stays one without bytes, so that no framing is announced for it.
        if inner.is_end_stream() {
            return inner;
        }
        body::boxed(Self {
            inner,
            limit,
            bytes,
        })
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            strip(trailers);
        }
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let added = data.len() as u64;
            let moved = self
                .bytes
                .fetch_add(added, Ordering::Relaxed)
                .saturating_add(added);
            if moved > self.limit {
                let limit = self.limit;
                return Poll::Ready(Some(Err(Box::new(TooLarge { limit }))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
