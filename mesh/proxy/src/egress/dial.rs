//! Connections to servers outside: to checked addresses alone, with the server's name verified.
//!
//! Owns: TCP and TLS within the rule's time, and the HTTP version that was agreed on. Must not: resolve a name.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ringwall_http_io::BoxBody;
use ringwall_tls::external_client_config;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::TlsMode;
use super::refusal::Refusal;
use super::target::Host;

/// Largest response head, in bytes and in fields.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
/// HTTP/2 pings; a server that is gone is noticed after both.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Of the time to connect, what one of several addresses may take at least.
const LEAST_TRY: Duration = Duration::from_millis(500);

/// Where requests of one connection are handed in.
pub(crate) enum Sender {
    Http1(http1::SendRequest<BoxBody>),
    Http2(http2::SendRequest<BoxBody>),
}

/// Dials.
pub(crate) struct Dialer {
    tls: TlsConnector,
}

impl Dialer {
    pub(crate) fn open(roots: &std::path::Path) -> Result<Self, ringwall_tls::TlsError> {
        Ok(Self {
            tls: external_client_config(roots)?.into(),
        })
    }

    /// A connection that takes requests.
    pub(crate) async fn http(
        &self,
        host: &Host,
        addresses: &[SocketAddr],
        mode: TlsMode,
        limit: Duration,
    ) -> Result<Sender, Refusal> {
        let connecting = async {
            let tcp = tcp(addresses, limit).await?;
            if mode == TlsMode::None {
                return http1(tcp).await;
            }
            let name = server_name(host)?;
            let tls = self.tls.connect(name, tcp).await;
            let tls = tls.map_err(|error| Refusal::Tls(error.to_string()))?;
            if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                http2(tls).await
            } else {
                http1(tls).await
            }
        };
        match timeout(limit, Box::pin(connecting)).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(Refusal::Connect(format!("none within {limit:?}"))),
        }
    }
}

/// The first of the addresses that answers.
pub(crate) async fn tcp(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, Refusal> {
    let share = u32::try_from(addresses.len()).unwrap_or(1).max(1);
    let each = (limit / share).max(LEAST_TRY).min(limit);
    let mut last = Refusal::Connect("there is no address".to_owned());
    for address in addresses {
        match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Delayed small packets would cost more than they save.
                let _unsupported = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = Refusal::Connect(format!("{address}: {error}")),
            Err(_elapsed) => last = Refusal::Connect(format!("{address}: none within {each:?}")),
        }
    }
    Err(last)
}

fn server_name(host: &Host) -> Result<ServerName<'static>, Refusal> {
    match host {
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|_| Refusal::Tls("the host is no name of a certificate".to_owned())),
        Host::Ip(IpAddr::V4(address)) => Ok(ServerName::IpAddress((*address).into())),
        Host::Ip(IpAddr::V6(address)) => Ok(ServerName::IpAddress((*address).into())),
    }
}

async fn http1<S>(stream: S) -> Result<Sender, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Refusal::Exchange(error.to_string()))?;
    tokio::spawn(async move {
        // Its requests learn of the end; an idle connection that the server closes concerns nobody.
        let _ended = connection.await;
    });
    Ok(Sender::Http1(sender))
}

async fn http2<S>(stream: S) -> Result<Sender, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Refusal::Exchange(error.to_string()))?;
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    Ok(Sender::Http2(sender))
}
