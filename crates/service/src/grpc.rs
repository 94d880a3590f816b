//! gRPC over mTLS: a channel to exactly one address.
//!
//! Owns: the connector and the limits of a channel. tonic has no TLS of its own here; the rustls
//! configuration comes from `ringwall-tls` and names the one peer that may answer.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use ringwall_http_io::Address;
use ringwall_tls::{LiveServers, mesh_server_name};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// TCP connect and TLS handshake together: as long as our servers grant a handshake. Who dials here is in no hurry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed after this and [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel to `address` over `tls`, connected at first use and again when it must. Calls have no
/// limit of time of their own: streams last. The caller sets one per call.
#[must_use]
pub fn channel(address: Address, tls: Arc<ClientConfig>) -> Channel {
    dial(address, tls, None)
}

/// The same for processes that live long: a connection ends, with the streams on it, when the peer is believed no more
/// (R34). `live` is of the identity that `tls` presents.
#[must_use]
pub fn live_channel(address: Address, tls: Arc<ClientConfig>, live: &Arc<LiveServers>) -> Channel {
    dial(address, tls, Some(Arc::clone(live)))
}

fn dial(address: Address, tls: Arc<ClientConfig>, live: Option<Arc<LiveServers>>) -> Channel {
    let connector = TlsConnector::from(tls);
    let connect = service_fn(move |_| {
        let (address, connector, live) = (address.clone(), connector.clone(), live.clone());
        async move {
            let connecting = connect(address, connector, live);
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_elapsed) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {CONNECT_TIMEOUT:?}"),
                )),
            }
        }
    });
    // The name is sent as `:authority` only; the peer is named by its SPIFFE id.
    Endpoint::from_static("http://mesh")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect)
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bytes for S {}

async fn connect(
    address: Address,
    connector: TlsConnector,
    live: Option<Arc<LiveServers>>,
) -> io::Result<TokioIo<Box<dyn Bytes>>> {
    let tcp = match &address {
        Address::Ip(address) => TcpStream::connect(address).await?,
        Address::Name { host, port } => TcpStream::connect((host.as_ref(), *port)).await?,
    };
    tcp.set_nodelay(true)?;
    let name = mesh_server_name(tcp.peer_addr()?);
    let stream: Box<dyn Bytes> = match live {
        None => Box::new(connector.connect(name, tcp).await?),
        Some(live) => Box::new(live.connect(&connector, name, tcp).await?),
    };
    Ok(TokioIo::new(stream))
}
