//! The one HTTP client: pooled per upstream, dialling exactly one address.
//!
//! Owns: connect and request timeouts, the idle pool, and the bound on collected answers. A request
//! names only a path: scheme, authority and address come from the client, so that no header or URL
//! can send it elsewhere. Redirects are never followed.
//! Must not: add headers of its own (but for the pass of [`Client::through`]), retry after the request
//! has reached the upstream, or trace.
//! Read next: [`Call`] for the convenient form, `client/connector.rs` for the connection.

mod address;
mod call;
mod connector;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use ringwall_tls::LiveServers;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use self::connector::Connector;
pub use self::{
    address::Address,
    call::{Call, JsonResponse, Transport},
};
use crate::{
    body::{BodyError, BoxBody, BoxError},
    problem::Problem,
};

/// Named limits of one client. All are per upstream.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// From sending until the head of the answer; for collected answers, until their end.
    pub request_timeout: Duration,
    /// Idle connections kept.
    pub max_idle: usize,
    /// How long an idle connection is kept: less than the 10 s after which our servers close it.
    pub idle_timeout: Duration,
    /// Largest collected answer, in bytes.
    pub max_body: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            max_idle: 16,
            idle_timeout: Duration::from_secs(8),
            max_body: 1024 * 1024,
        }
    }
}

/// Why a call has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request could not be built: a bad path, header value or body.
    #[error("the request is not valid: {0}")]
    Request(String),
    /// No connection: refused, timed out, or the peer is not who it must be.
    #[error("cannot connect to {peer}: {}", root_cause(.source.as_ref()))]
    Connect { peer: Arc<str>, source: BoxError },
    /// No answer within the time limit.
    #[error("{peer} did not answer within {limit:?}")]
    Timeout { peer: Arc<str>, limit: Duration },
    /// The connection broke before the head of the answer.
    #[error("the exchange with {peer} failed: {}", root_cause(.source.as_ref()))]
    Exchange { peer: Arc<str>, source: BoxError },
    /// The body of the answer is too large or broke off.
    #[error("the answer of {peer} is unusable: {source}")]
    Body { peer: Arc<str>, source: BodyError },
    /// An answer outside 2xx.
    #[error("{peer} answered {status}{}", .problem.as_ref().and_then(|p| p.slug()).map(|s| format!(" ({s})")).unwrap_or_default())]
    Refused {
        peer: Arc<str>,
        status: StatusCode,
        problem: Option<Box<Problem>>,
    },
    /// A 2xx answer whose JSON is not what was expected.
    #[error("the answer of {peer} is not what the contract says: {source}")]
    Decode {
        peer: Arc<str>,
        source: serde_json::Error,
    },
}

impl ClientError {
    /// Status of a refusal, when there was one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Problem of a refusal, when the upstream sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => problem.as_deref(),
            _ => None,
        }
    }

    /// Slug of the refusal's problem type.
    pub fn slug(&self) -> Option<&str> {
        self.problem().and_then(Problem::slug)
    }

    /// Whether the upstream cannot have seen the request: only then is a repeat always safe.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// The innermost cause says what happened; the layers above it only say where.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source())
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// A pooled client of one upstream. Clones share the pool.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Connector, BoxBody>,
    limits: Arc<ClientLimits>,
    scheme: Scheme,
    authority: Authority,
    peer: Arc<str>,
    pass: Option<(HeaderName, HeaderValue)>,
}

impl Client {
    /// Client of a mesh workload: `tls` pins its SPIFFE id, so the server name says nothing.
    pub fn mesh(address: impl Into<Address>, tls: Arc<ClientConfig>, limits: ClientLimits) -> Self {
        let address = address.into();
        let authority = address.authority();
        Self::build(
            to_workload(address, tls, &limits),
            Scheme::HTTPS,
            authority,
            limits,
        )
    }

    /// The same for processes that live long: its connections, pooled or in use, end when the workload is believed no
    /// more (R34). `live` is of the identity that `tls` presents.
    pub fn live(
        address: impl Into<Address>,
        tls: Arc<ClientConfig>,
        live: &Arc<LiveServers>,
        limits: ClientLimits,
    ) -> Self {
        let address = address.into();
        let authority = address.authority();
        let connector = to_workload(address, tls, &limits).bound(live);
        Self::build(connector, Scheme::HTTPS, authority, limits)
    }

    /// Client of a public TLS endpoint, verified by name, dialled at a fixed address.
    pub fn edge(
        address: impl Into<Address>,
        server_name: &str,
        tls: Arc<ClientConfig>,
        limits: ClientLimits,
    ) -> Result<Self, ClientError> {
        let address = address.into();
        let invalid = || ClientError::Request(format!("`{server_name}` is not a server name"));
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| invalid())?;
        let authority = match address.port() {
            443 => server_name.parse::<Authority>(),
            port => format!("{server_name}:{port}").parse(),
        };
        let authority = authority.map_err(|_| invalid())?;
        let connector = Connector::tls(address, name, tls, limits.connect_timeout);
        Ok(Self::build(connector, Scheme::HTTPS, authority, limits))
    }

    /// Client without TLS: a collector or a test on loopback.
    pub fn plain(address: impl Into<Address>, limits: ClientLimits) -> Self {
        let address = address.into();
        let authority = address.authority();
        let connector = Connector::plain(address, limits.connect_timeout);
        Self::build(connector, Scheme::HTTP, authority, limits)
    }

    /// Client of `service` by way of a proxy on this machine, which finds the service by that name.
    /// Every request carries `pass`, which the proxy asks for; its value is kept out of every
    /// compression table (RFC 7541 §7.1.3).
    pub fn through(
        proxy: SocketAddr,
        service: &str,
        (name, mut value): (HeaderName, HeaderValue),
        limits: ClientLimits,
    ) -> Result<Self, ClientError> {
        let invalid = |_| ClientError::Request(format!("`{service}` is no service's name"));
        let authority = service.parse::<Authority>().map_err(invalid)?;
        value.set_sensitive(true);
        let connector = Connector::plain(proxy.into(), limits.connect_timeout);
        Ok(Self {
            pass: Some((name, value)),
            ..Self::build(connector, Scheme::HTTP, authority, limits)
        })
    }

    /// Says `name` instead of the address in errors.
    pub fn named(mut self, name: &str) -> Self {
        self.peer = name.into();
        self
    }

    fn build(
        connector: Connector,
        scheme: Scheme,
        authority: Authority,
        limits: ClientLimits,
    ) -> Self {
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(limits.max_idle)
            .pool_idle_timeout(limits.idle_timeout)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector);
        let peer = authority.as_str().into();
        Self {
            inner,
            limits: Arc::new(limits),
            scheme,
            authority,
            peer,
            pass: None,
        }
    }

    fn absolute(&self, uri: &Uri) -> Result<Uri, ClientError> {
        let path = uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map_err(|error| ClientError::Request(error.to_string()))
    }
}

fn to_workload(address: Address, tls: Arc<ClientConfig>, limits: &ClientLimits) -> Connector {
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    Connector::tls(address, name, tls, limits.connect_timeout)
}

impl Transport for Client {
    async fn send(&self, mut request: Request<BoxBody>) -> Result<Response<Incoming>, ClientError> {
        if request.method() == Method::CONNECT {
            return Err(ClientError::Request("CONNECT is not forwarded".into()));
        }
        *request.uri_mut() = self.absolute(request.uri())?;
        *request.version_mut() = Version::HTTP_11;
        if let Some((name, value)) = &self.pass {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let own = request
            .extensions()
            .get::<RequestTimeout>()
            .map(|own| own.0);
        let limit = own.unwrap_or(self.limits.request_timeout);
        let peer = || self.peer.clone();
        match tokio::time::timeout(limit, self.inner.request(request)).await {
            Err(_elapsed) => Err(ClientError::Timeout {
                peer: peer(),
                limit,
            }),
            Ok(Err(error)) if error.is_connect() => Err(ClientError::Connect {
                peer: peer(),
                source: error.into(),
            }),
            Ok(Err(error)) => Err(ClientError::Exchange {
                peer: peer(),
                source: error.into(),
            }),
            Ok(Ok(response)) => Ok(response),
        }
    }

    fn limits(&self) -> &ClientLimits {
        &self.limits
    }

    fn peer(&self) -> &Arc<str> {
        &self.peer
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Limit of one request, in its extensions; [`Call::timeout`] sets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestTimeout(pub(crate) Duration);

#[cfg(test)]
#[path = "client/tests.rs"]
mod tests;
