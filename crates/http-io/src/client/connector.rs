//! One connection to the client's one address, with or without TLS, within the connect timeout. One to a workload of
//! the mesh may be bound to our trust in it (R34).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use ringwall_tls::{LiveServers, Severable};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::address::Address;

/// Dials one address; the URI that the pool passes in is ignored on purpose.
#[derive(Clone)]
pub(super) struct Connector {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    live: Option<Arc<LiveServers>>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn plain(address: Address, timeout: Duration) -> Self {
        Self {
            address,
            tls: None,
            live: None,
            timeout,
        }
    }

    pub(super) fn tls(
        address: Address,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
        timeout: Duration,
    ) -> Self {
        Self {
            address,
            tls: Some((config.into(), name)),
            live: None,
            timeout,
        }
    }

    /// Its connections end when the other end is believed no more.
    pub(super) fn bound(mut self, live: &Arc<LiveServers>) -> Self {
        self.live = Some(Arc::clone(live));
        self
    }

    async fn connect(self) -> io::Result<Stream> {
        let tcp = match &self.address {
            Address::Ip(address) => TcpStream::connect(address).await?,
            Address::Name { host, port } => TcpStream::connect((host.as_ref(), *port)).await?,
        };
        tcp.set_nodelay(true)?;
        let Some((connector, name)) = self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        Ok(match self.live {
            None => Stream::Tls(Box::new(connector.connect(name, tcp).await?)),
            Some(live) => Stream::Bound(Box::new(live.connect(&connector, name, tcp).await?)),
        })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (connector, limit) = (self.clone(), self.timeout);
        Box::pin(async move {
            match tokio::time::timeout(limit, connector.connect()).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_elapsed) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {limit:?}"),
                )),
            }
        })
    }
}

/// A connected stream of any kind.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Bound(Box<Severable<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let tls = match self {
            Self::Plain(_) => return Connected::new(),
            Self::Tls(tls) => tls,
            Self::Bound(bound) => bound.get_ref(),
        };
        match tls.get_ref().1.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Bound(bound) => Pin::new(bound).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Bound(bound) => Pin::new(bound).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Bound(bound) => Pin::new(bound).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Bound(bound) => Pin::new(bound).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Bound(bound) => Pin::new(bound).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
            Self::Bound(bound) => bound.is_write_vectored(),
        }
    }
}
