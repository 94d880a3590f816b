//! Opening one connection to an upstream.
//!
//! Owns: TCP, mTLS with the gateway's own identity against exactly one peer (R15), which lasts no longer than our trust
//! in that peer (R34), and the handshake of HTTP/1.1, or of HTTP/2 for the calls of plugins. Must not: pool or retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringwall_http_io::Address;
use ringwall_plugin_host::CalloutBody;
use ringwall_tls::{
    IdentitySource, LiveServers, TlsError, mesh_client_config, mesh_grpc_client_config,
    mesh_server_name,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pipeline::body::UpstreamBody;
use crate::snapshot::Target;

/// Response heads beyond this are refused: the upstream is ours, but not beyond error.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Why a connection could not be opened.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("connect: {0}")]
    Tcp(std::io::Error),
    #[error("TLS handshake: {0}")]
    Handshake(std::io::Error),
    #[error("TLS configuration: {0}")]
    Tls(#[from] TlsError),
    #[error("HTTP handshake: {0}")]
    Http(#[from] hyper::Error),
}

/// How to reach one target.
pub(crate) struct Dialer {
    address: Address,
    tls: Option<TlsConnector>,
    /// The same with ALPN `h2`.
    http2: Option<TlsConnector>,
    live: Arc<LiveServers>,
    timeout: Duration,
}

/// An open connection.
pub(crate) struct Dialled {
    pub(crate) sender: SendRequest<UpstreamBody>,
    /// For how long it should be given new requests, where its certificate says so.
    pub(crate) usable_for: Option<Duration>,
}

/// An open connection that speaks HTTP/2.
pub(crate) struct Http2 {
    pub(crate) sender: http2::SendRequest<CalloutBody>,
    pub(crate) usable_for: Option<Duration>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Counts a connection as open for as long as its task lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dialer {
    pub(crate) fn new(
        identity: &Arc<IdentitySource>,
        live: &Arc<LiveServers>,
        target: &Target,
        timeout: Duration,
    ) -> Result<Self, DialError> {
        let (tls, http2) = match target {
            Target::Mesh { peer, .. } => (
                Some(mesh_client_config(identity, peer.clone())?),
                Some(mesh_grpc_client_config(identity, peer.clone())?),
            ),
            Target::Plain { .. } => (None, None),
        };
        Ok(Self {
            address: target.address().clone(),
            tls: tls.map(TlsConnector::from),
            http2: http2.map(TlsConnector::from),
            live: Arc::clone(live),
            timeout,
        })
    }

    /// Opens a connection; `open` counts it until it closes.
    pub(crate) async fn dial(&self, open: Arc<AtomicUsize>) -> Result<Dialled, DialError> {
        open.fetch_add(1, Ordering::Relaxed);
        let open = Open(open);
        tokio::time::timeout(self.timeout, self.connect(open))
            .await
            .map_err(|_elapsed| DialError::Timeout(self.timeout))?
    }

    /// The same, speaking HTTP/2.
    pub(crate) async fn dial_http2(&self, open: Arc<AtomicUsize>) -> Result<Http2, DialError> {
        open.fetch_add(1, Ordering::Relaxed);
        let open = Open(open);
        tokio::time::timeout(self.timeout, self.connect_http2(open))
            .await
            .map_err(|_elapsed| DialError::Timeout(self.timeout))?
    }

    async fn connect_http2(&self, open: Open) -> Result<Http2, DialError> {
        let tcp = self.tcp().await?;
        match &self.http2 {
            None => Ok(Http2 {
                sender: handshake_http2(tcp, open).await?,
                usable_for: None,
            }),
            Some(tls) => {
                let name = mesh_server_name(tcp.peer_addr().map_err(DialError::Tcp)?);
                let stream = self.live.connect(tls, name, tcp).await;
                let stream = stream.map_err(DialError::Handshake)?;
                Ok(Http2 {
                    usable_for: Some(stream.usable_for()),
                    sender: handshake_http2(stream, open).await?,
                })
            }
        }
    }

    async fn tcp(&self) -> Result<TcpStream, DialError> {
        let tcp = match &self.address {
            Address::Ip(address) => TcpStream::connect(address).await,
            // Resolved at each connect; who answers is decided by TLS, not by the name service.
            Address::Name { host, port } => TcpStream::connect((&**host, *port)).await,
        };
        let tcp = tcp.map_err(DialError::Tcp)?;
        tcp.set_nodelay(true).map_err(DialError::Tcp)?;
        Ok(tcp)
    }

    async fn connect(&self, open: Open) -> Result<Dialled, DialError> {
        let tcp = self.tcp().await?;
        match &self.tls {
            None => Ok(Dialled {
                sender: handshake(tcp, open).await?,
                usable_for: None,
            }),
            Some(tls) => {
                let name = mesh_server_name(tcp.peer_addr().map_err(DialError::Tcp)?);
                let stream = self.live.connect(tls, name, tcp).await;
                let stream = stream.map_err(DialError::Handshake)?;
                Ok(Dialled {
                    usable_for: Some(stream.usable_for()),
                    sender: handshake(stream, open).await?,
                })
            }
        }
    }
}

async fn handshake<S>(stream: S, open: Open) -> Result<SendRequest<UpstreamBody>, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // An error reaches the request that waits; an idle connection that ends is simply gone.
        let _ended = connection.with_upgrades().await;
        drop(open);
    });
    Ok(sender)
}

async fn handshake_http2<S>(
    stream: S,
    open: Open,
) -> Result<http2::SendRequest<CalloutBody>, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limit = u32::try_from(MAX_RESPONSE_HEAD).unwrap_or(u32::MAX);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(limit)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // As above.
        let _ended = connection.await;
        drop(open);
    });
    Ok(sender)
}
