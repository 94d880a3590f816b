//! A new connection to a proxy: TCP, mutual TLS against exactly one identity, HTTP/2.
//!
//! Owns: the proof that the peer took us: in TLS 1.3 a client learns only from its first read that its certificate
//! was refused, so that a connection counts once a ping has come back. Must not: pool.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, Reason};
use ringwall_data_path::gulp::Gulped;
use ringwall_identity::SpiffeId;
use ringwall_tls::{TlsError, mesh_grpc_client_config, mesh_server_name};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pool::Target;
use super::{Context, MAX_FRAME, SEND_BUFFER, WINDOW_CONNECTION, WINDOW_STREAM};
use crate::config::TunnelLimits;
use crate::serve::peer::Peer;

/// How often a connection that ends before it has served is made anew.
const REDIALS: usize = 2;
/// Response heads beyond this are refused.
const MAX_HEAD: u32 = 64 * 1024;
/// Streams that we assume before the peer has said how many it takes.
const FIRST_STREAMS: usize = 100;
/// Streams reset by us that are remembered for frames of theirs still on the way.
const RESETS: usize = 64;

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("TCP: {0}")]
    Tcp(std::io::Error),
    #[error("TLS configuration: {0}")]
    Tls(#[from] TlsError),
    #[error("TLS handshake: {0}")]
    Handshake(std::io::Error),
    #[error("the peer does not speak HTTP/2")]
    Protocol,
    #[error("the peer carries no workload identity")]
    Nameless,
    #[error("the peer is revoked")]
    Revoked,
    #[error("the peer closed the connection at once")]
    Gone,
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
}

impl DialError {
    /// Whether the peer went away rather than refused: a process that drains has taken the connection from the queue
    /// that its successor serves from now on.
    fn is_departure(&self) -> bool {
        let kind = match self {
            Self::Gone => return true,
            Self::Handshake(error) => error.kind(),
            Self::Http2(error) => match error.get_io() {
                Some(error) => error.kind(),
                None => return error.is_go_away() && error.reason() == Some(Reason::NO_ERROR),
            },
            _ => return false,
        };
        matches!(
            kind,
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
        )
    }
}

/// A socket, with or without TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

type Link = Connection<Box<dyn Duplex>, Bytes>;

/// An open connection that nobody drives yet.
pub(super) struct Dialled {
    pub(super) sender: SendRequest<Bytes>,
    /// `None` is the application beside us.
    pub(super) peer: Option<Arc<Peer>>,
    connection: Link,
    pings: PingPong,
}

/// Dials `address`, where `target` must answer; once more when whoever answers is about to go.
pub(super) async fn dial(
    context: &Context,
    address: SocketAddr,
    target: &Target,
) -> Result<Dialled, DialError> {
    for _ in 0..REDIALS {
        match dial_once(context, address, target).await {
            Err(error) if error.is_departure() => {
                tracing::debug!(%address, %error, "dialled again");
            }
            dialled => return dialled,
        }
    }
    dial_once(context, address, target).await
}

async fn dial_once(
    context: &Context,
    address: SocketAddr,
    target: &Target,
) -> Result<Dialled, DialError> {
    let tcp = TcpStream::connect(address).await.map_err(DialError::Tcp)?;
    tcp.set_nodelay(true).map_err(DialError::Tcp)?;
    match target {
        Target::App => open(Box::new(tcp), None).await,
        Target::Peer { identity, .. } => {
            let (tls, peer) = shake(context, address, identity, tcp).await?;
            let mut dialled = open(Box::new(tls), Some(peer)).await?;
            greet(&mut dialled).await?;
            Ok(dialled)
        }
    }
}

async fn shake(
    context: &Context,
    address: SocketAddr,
    identity: &SpiffeId,
    tcp: TcpStream,
) -> Result<(TlsStream<Gulped<TcpStream>>, Arc<Peer>), DialError> {
    let tls = mesh_grpc_client_config(&context.shared.identity, identity.clone())?;
    let tls = TlsConnector::from(tls)
        .connect(mesh_server_name(address), Gulped::new(tcp))
        .await
        .map_err(DialError::Handshake)?;
    let state = tls.get_ref().1;
    if state.alpn_protocol() != Some(b"h2") {
        return Err(DialError::Protocol);
    }
    let chain = state.peer_certificates().ok_or(DialError::Nameless)?;
    let peer = Peer::from_chain(chain).map_err(|_| DialError::Nameless)?;
    if peer.is_revoked(&context.shared.state.snapshot.load().revocations) {
        return Err(DialError::Revoked);
    }
    Ok((tls, Arc::new(peer)))
}

async fn open(link: Box<dyn Duplex>, peer: Option<Arc<Peer>>) -> Result<Dialled, DialError> {
    let (sender, mut connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(WINDOW_STREAM)
        .initial_connection_window_size(WINDOW_CONNECTION)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_concurrent_reset_streams(RESETS)
        .handshake(link)
        .await?;
    let pings = connection
        .ping_pong()
        .expect("a new connection has not given its pings away");
    Ok(Dialled {
        sender,
        peer,
        connection,
        pings,
    })
}

/// Waits for the peer's settings and for proof that it serves us.
async fn greet(dialled: &mut Dialled) -> Result<(), DialError> {
    let Dialled {
        connection, pings, ..
    } = dialled;
    pings.send_ping(Ping::opaque())?;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
            let error = ended.err().map_or(DialError::Gone, DialError::Http2);
            return Poll::Ready(Err(error));
        }
        let pong = pings.poll_pong(cx);
        pong.map(|pong| pong.map(|_| ()).map_err(DialError::Http2))
    })
    .await
}

impl Dialled {
    /// Moves the connection's frames until it ends: by itself, by `cut`, or because the peer no longer answers.
    pub(super) async fn drive(self, cut: Arc<Notify>, limits: TunnelLimits) {
        let Self {
            sender,
            peer,
            connection,
            pings,
        } = self;
        // The pool's own handles keep the connection open.
        drop(sender);
        let Some(peer) = peer else {
            // Servers of gRPC forbid pings; on loopback nothing is lost in silence.
            let _ended = connection.await;
            return;
        };
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %peer.id, %error, "tunnel ended");
                }
            }
            () = cut.notified() => {}
            () = silence(pings, limits.ping_interval, limits.ping_timeout) => {
                tracing::info!(peer = %peer.id, "tunnel ended: the peer does not answer pings");
            }
        }
    }
}

/// Resolves when a ping is not answered in time.
async fn silence(mut pings: PingPong, interval: Duration, timeout: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        match tokio::time::timeout(timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection itself tells how it ended.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
