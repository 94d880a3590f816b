//! One client connection, from accept to close.
//!
//! Owns: the TLS handshake and its SNI, the choice of HTTP/1.1 or HTTP/2 by ALPN, hyper's settings, and the log
//! line of a connection whose bytes were refused. Must not: know routes. Next: `pipeline.rs` (a
//! request); in `ringwall_data_path`, `guard` (what bytes may come) and `watch` (how long they may take).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ringwall_data_path::gulp::Gulped;
use ringwall_data_path::io::{GuardedStream, IoLimits};
use ringwall_data_path::permit::Permit;
use ringwall_data_path::watch::Watch;
use ringwall_plugin_host::ConnectionInfo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::abuse::Offence;
use crate::config::ConnectionLimits;
use crate::pipeline;
use crate::worker::Worker;

/// HTTP/2: bytes that one stream, and one connection, may send ahead of their reader.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Responses held per HTTP/2 stream while the client is slow.
const H2_SEND_BUFFER: usize = 64 * 1024;
/// Streams that a client may reset before they were accepted, and that we may reset for its errors
/// (rapid reset, CVE-2023-44487 and CVE-2025-8671).
const H2_RESETS: usize = 20;

/// What the pipeline knows of the connection that a request came on.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) peer_text: Box<str>,
    /// For limits by address: IPv6 clients own a /64.
    pub(crate) address_hash: u128,
    pub(crate) forwarded_for: HeaderValue,
    /// The host that the handshake named; `None` without TLS.
    pub(crate) sni: Option<Box<str>>,
    /// An address of IPv4 is written as such.
    pub(crate) peer: SocketAddr,
    /// For plugins; made for the first of them.
    facts: OnceLock<Arc<ConnectionInfo>>,
    http2: bool,
    body_idle: Duration,
    _permit: Permit,
}

impl Connection {
    pub(crate) const fn is_tls(&self) -> bool {
        self.sni.is_some()
    }

    pub(crate) const fn is_http2(&self) -> bool {
        self.http2
    }

    pub(crate) fn forwarded_proto(&self) -> HeaderValue {
        HeaderValue::from_static(if self.is_tls() { "https" } else { "http" })
    }

    /// What plugins may ask about it.
    pub(crate) fn facts(&self) -> Arc<ConnectionInfo> {
        let facts = self.facts.get_or_init(|| {
            Arc::new(ConnectionInfo {
                id: self.worker.next_id(),
                source: Some(self.peer),
                server_name: self.sni.as_deref().map(Arc::from),
                ..ConnectionInfo::default()
            })
        });
        Arc::clone(facts)
    }

    /// The idle limit of request bodies that the connection's own watch cannot see.
    pub(crate) fn body_timer(&self) -> Option<Duration> {
        self.http2.then_some(self.body_idle)
    }
}

/// How a listener speaks.
#[derive(Clone)]
pub(crate) enum Transport {
    Tls(TlsAcceptor),
    Plaintext,
}

/// An accepted socket that is not yet a connection.
pub(crate) struct Accepted {
    pub(crate) worker: Arc<Worker>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) permit: Permit,
}

/// Serves the connection until it ends.
pub(crate) async fn serve(accepted: Accepted, transport: Transport) {
    match transport {
        Transport::Plaintext => {
            let Accepted {
                worker,
                watch,
                socket,
                peer,
                permit,
            } = accepted;
            let connection = describe(worker, watch, peer, permit, None, false);
            http1(socket, connection).await;
        }
        Transport::Tls(acceptor) => Box::pin(serve_tls(accepted, acceptor)).await,
    }
}

async fn serve_tls(accepted: Accepted, acceptor: TlsAcceptor) {
    let Accepted {
        worker,
        watch,
        socket,
        peer,
        permit,
    } = accepted;
    let stream = match acceptor.accept(Gulped::new(socket)).await {
        Ok(stream) => stream,
        Err(error) => {
            worker.shared.metrics.handshake_failed();
            if let Some(offence) = Offence::in_handshake(&error) {
                worker.offended(peer.ip(), offence);
            }
            tracing::debug!(%peer, %error, "TLS handshake refused");
            return;
        }
    };
    let tls = stream.get_ref().1;
    // The certificate was chosen by SNI, so that there is one; without it there is nobody to speak for.
    let Some(sni) = tls.server_name().map(str::to_ascii_lowercase) else {
        return;
    };
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let connection = describe(worker, watch, peer, permit, Some(sni.into()), http2);
    if http2 {
        Box::pin(self::http2(stream, connection)).await;
    } else {
        http1(stream, connection).await;
    }
}

fn describe(
    worker: Arc<Worker>,
    watch: Arc<Watch>,
    peer: SocketAddr,
    permit: Permit,
    sni: Option<Box<str>>,
    http2: bool,
) -> Arc<Connection> {
    let ip = peer.ip().to_canonical();
    let peer_text: Box<str> = ip.to_string().into();
    let network = match ip {
        std::net::IpAddr::V4(v4) => u128::from(u32::from(v4)),
        std::net::IpAddr::V6(v6) => u128::from(v6) >> 64 << 64 | 1,
    };
    Arc::new(Connection {
        address_hash: worker.shared.hash_number(network),
        forwarded_for: HeaderValue::from_str(&peer_text)
            .unwrap_or(HeaderValue::from_static("unknown")),
        body_idle: worker.shared.connections.body_timeout,
        peer_text,
        peer: SocketAddr::new(ip, peer.port()),
        facts: OnceLock::new(),
        worker,
        watch,
        sni,
        http2,
        _permit: permit,
    })
}

pub(crate) fn io_limits(limits: &ConnectionLimits) -> IoLimits {
    IoLimits {
        header: limits.header_timeout,
        body_idle: limits.body_timeout,
        body_min_rate: limits.body_min_rate,
        write: limits.write_timeout,
        max_head: limits.max_head,
    }
}

async fn http1<S>(stream: S, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &connection.worker.shared.connections;
    let guarded = GuardedStream::http1(stream, Arc::clone(&connection.watch), io_limits(limits));
    let offence = guarded.offence();
    let mut server = http1::Builder::new();
    // No timers in hyper: the watch ends slow connections at no cost per request.
    server
        .header_read_timeout(None)
        .max_buf_size(limits.max_head)
        .half_close(false);
    let served = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&served);
        async move { Ok::<_, Infallible>(pipeline::run(connection, request).await) }
    });
    let ended = server
        .serve_connection(TokioIo::new(guarded), service)
        .with_upgrades()
        .await;
    if let Some(violation) = offence.get() {
        refused(&connection, violation.as_str());
    } else if ended.is_err_and(|error| error.is_parse()) {
        refused(&connection, "unparsable");
    }
}

async fn http2<S>(stream: S, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = &connection.worker.shared;
    let limits = &shared.connections;
    let guarded = GuardedStream::http2(stream, Arc::clone(&connection.watch), io_limits(limits));
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_head).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(H2_RESETS)
        .max_local_error_reset_streams(H2_RESETS);
    let served = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&served);
        async move { Ok::<_, Infallible>(pipeline::run(connection, request).await) }
    });
    let serving = server.serve_connection(TokioIo::new(guarded), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shared.draining() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if ended.is_err_and(|error| is_protocol_error(&error)) {
        refused(&connection, "http2-protocol");
    }
}

/// The peer broke HTTP/2, rather than just going away.
fn is_protocol_error(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    error.is_parse() || source.is_some_and(|source| !source.is::<std::io::Error>())
}

/// Records bytes that were refused before they were a request.
fn refused(connection: &Connection, why: &'static str) {
    let worker = &connection.worker;
    worker.shared.metrics.malformed();
    worker.offended(connection.peer.ip(), Offence::MALFORMED);
    worker.log.write(|buffer, stamp| {
        let mut line = crate::access_log::line(buffer, stamp);
        line.number("status", 400);
        line.text("refusal", why);
        line.text("peer", &connection.peer_text);
        line.end();
    });
}
