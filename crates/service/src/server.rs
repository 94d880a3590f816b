//! One listener: accept → handshake → identity → HTTP, and the drain of what is open. Behind a service
//! proxy the handshake is the proxy's, and each request says who calls (`loopback.rs`).
//!
//! Owns: the limits of connections, and their end when the peer is believed no more (R34). Used for the mesh port and the admin port alike.
//! Must not: look at requests; `middleware.rs` does.

mod standing;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse};
use http::{HeaderValue, header};
use http_body_util::Limited;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ringwall_tls::{IdentitySource, peer_spiffe_id};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use self::standing::{Lost, Standing};
use crate::{
    loopback::{self, Door},
    metrics::Metrics,
    peer::Peer,
};

/// Named limits of a listener.
#[derive(Debug, Clone)]
pub(crate) struct ServerLimits {
    pub(crate) max_connections: usize,
    pub(crate) handshake_timeout: Duration,
    /// From the first wait for a request until its head is whole; also ends idle HTTP/1 connections.
    pub(crate) header_read_timeout: Duration,
    pub(crate) max_header_bytes: usize,
    pub(crate) max_headers: usize,
    pub(crate) max_body: usize,
    pub(crate) h2_max_streams: u32,
    /// Streams reset by the peer before we have looked at them (rapid reset, CVE-2023-44487).
    pub(crate) h2_max_pending_resets: usize,
    /// Streams that we had to reset because of the peer's errors.
    pub(crate) h2_max_local_resets: usize,
    pub(crate) h2_keep_alive: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            handshake_timeout: Duration::from_secs(5),
            header_read_timeout: Duration::from_secs(10),
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            max_body: crate::app::DEFAULT_MAX_BODY,
            h2_max_streams: 256,
            h2_max_pending_resets: 20,
            h2_max_local_resets: 64,
            h2_keep_alive: Duration::from_secs(20),
        }
    }
}

/// How a listener learns who calls.
pub(crate) enum Entrance {
    /// By the certificate of the handshake, as long as `identity` finds it genuine.
    Mesh {
        config: Arc<ServerConfig>,
        identity: Arc<IdentitySource>,
    },
    /// From the service proxy beside us, in plaintext.
    Loopback(Arc<Door>),
}

/// Accepts until `stop`; every connection then gets a graceful shutdown. `open` counts connections:
/// wait for it to drain. Cancelling `kill` ends what has not drained.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) entrance: Entrance,
    pub(crate) router: Router,
    pub(crate) limits: ServerLimits,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    pub(crate) kill: CancellationToken,
    pub(crate) open: TaskTracker,
}

impl Server {
    pub(crate) async fn run(self) {
        let permits = Arc::new(Semaphore::new(self.limits.max_connections));
        let shared = Arc::new(Shared {
            entrance: self.entrance,
            router: self.router,
            limits: self.limits,
            metrics: self.metrics,
            stop: self.stop.clone(),
        });
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = accept(&self.listener, &permits) => accepted,
            };
            let Some((stream, permit)) = accepted else {
                continue;
            };
            let (shared, kill) = (Arc::clone(&shared), self.kill.clone());
            self.open.spawn(async move {
                shared.metrics.connections.inc();
                tokio::select! {
                    () = kill.cancelled() => {}
                    () = Arc::clone(&shared).connection(stream) => {}
                }
                shared.metrics.connections.dec();
                drop(permit);
            });
        }
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // A connection that is already gone concerns nobody; want of descriptors needs a pause.
            if !matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            ) {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        }
    }
}

struct Shared {
    entrance: Entrance,
    router: Router,
    limits: ServerLimits,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        // Delayed small answers would cost more than the packets they save.
        let _unsupported = stream.set_nodelay(true);
        match &self.entrance {
            Entrance::Mesh { config, identity } => {
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                Box::pin(self.encrypted(acceptor, identity, stream)).await;
            }
            Entrance::Loopback(door) => {
                let caller = Caller::Named(Arc::clone(door));
                let speaks = speaks_http2(&stream);
                match tokio::time::timeout(self.limits.handshake_timeout, speaks).await {
                    Ok(Ok(true)) => self.http2(stream, caller, &self.stop).await,
                    Ok(Ok(false)) => self.http1(stream, caller, &self.stop).await,
                    // Gone, or silent: there is nobody to answer.
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        }
    }

    async fn encrypted(
        &self,
        acceptor: TlsAcceptor,
        identity: &Arc<IdentitySource>,
        stream: TcpStream,
    ) {
        let changes = identity.subscribe();
        let handshake = acceptor.accept(stream);
        let tls = match tokio::time::timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return self.refused(&error.to_string()),
            Err(_elapsed) => return self.refused("the handshake took too long"),
        };
        let Some(id) = peer_spiffe_id(tls.get_ref().1) else {
            return self.refused("the peer has no workload identity");
        };
        let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let standing = Standing::of(identity, changes, tls.get_ref().1);
        let caller = Caller::Known(Peer(id.clone()));
        // Cancelled by the drain too.
        let waning = self.stop.child_token();
        let serving = async {
            if is_h2 {
                self.http2(tls, caller, &waning).await
            } else {
                self.http1(tls, caller, &waning).await
            }
        };
        tokio::select! {
            () = serving => {}
            lost = standing.lost(&waning) => match lost {
                Lost::Expired => {
                    tracing::info!(peer = %id, "a live connection was cut: its peer's certificate has ended");
                }
                Lost::Disbelieved(why) => {
                    self.metrics.handshake_failures.inc();
                    tracing::warn!(peer = %id, reason = %why, "a live connection was cut: its peer is believed no more");
                }
            }
        }
    }

    fn refused(&self, reason: &str) {
        self.metrics.handshake_failures.inc();
        tracing::warn!(reason, "connection refused in the handshake");
    }

    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        caller: Caller,
        waning: &CancellationToken,
    ) {
        let service = service_fn(|request| {
            let (answer, waning) = (self.serve(request, caller.clone()), waning.clone());
            async move {
                let mut answer = answer.await?;
                // Whoever asks is told, so that no request meets a connection that ends (RFC 9112 §9.6).
                if waning.is_cancelled() {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read_timeout)
            .max_buf_size(self.limits.max_header_bytes)
            .max_headers(self.limits.max_headers)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        closed(result);
    }

    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        caller: Caller,
        waning: &CancellationToken,
    ) {
        let service = service_fn(|request| self.serve(request, caller.clone()));
        let max_header_list = u32::try_from(self.limits.max_header_bytes).unwrap_or(u32::MAX);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.h2_max_streams)
            .max_header_list_size(max_header_list)
            .max_pending_accept_reset_streams(self.limits.h2_max_pending_resets)
            .max_local_error_reset_streams(self.limits.h2_max_local_resets)
            .keep_alive_interval(self.limits.h2_keep_alive)
            .keep_alive_timeout(self.limits.h2_keep_alive)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = waning.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        closed(result);
    }

    /// The service of every request. The future owns what it needs: HTTP/2 runs it in its own task.
    fn serve(
        &self,
        request: http::Request<Incoming>,
        caller: Caller,
    ) -> impl Future<Output = Result<axum::response::Response, Infallible>> + Send + use<> {
        let max_body = self.limits.max_body;
        let mut request = request.map(|body| Body::new(Limited::new(body, max_body)));
        let admitted = caller.admit(&mut request);
        let (router, refusals) = (self.router.clone(), self.metrics.loopback_refusals.clone());
        async move {
            match admitted {
                Ok(peer) => {
                    request.extensions_mut().insert(peer);
                    router.oneshot(request).await
                }
                Err(reason) => {
                    refusals.inc();
                    tracing::warn!(%reason, "request refused on loopback");
                    Ok(loopback::refusal().into_response())
                }
            }
        }
    }
}

/// Who calls on a connection: known from the handshake, or named by each request.
#[derive(Clone)]
enum Caller {
    Known(Peer),
    Named(Arc<Door>),
}

impl Caller {
    fn admit<B>(&self, request: &mut http::Request<B>) -> Result<Peer, loopback::Refused> {
        match self {
            Self::Known(peer) => Ok(peer.clone()),
            Self::Named(door) => door.admit(request),
        }
    }
}

/// Whether the connection begins with HTTP/2's preface (RFC 9113 §3.4): its first letters are no
/// method of HTTP/1.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI ";
    /// A preface in several packets is rare; meanwhile the socket stays readable.
    const PAUSE: Duration = Duration::from_millis(2);
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        let seen = first.get(..seen).unwrap_or_default();
        if seen == PREFACE {
            return Ok(true);
        }
        if seen.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(seen) {
            return Ok(false);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn closed(result: hyper::Result<()>) {
    if let Err(error) = result {
        // Peers close idle connections and vanish; that is their right and not our fault.
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
#[path = "server/tests.rs"]
mod tests;
