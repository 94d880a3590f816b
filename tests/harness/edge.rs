//! Clients for the gateway's public listener.
//!
//! Owns: trust in the local certificate authority, the resolution of the three public hosts (glibc on
//! Debian 12 does not resolve `*.localhost`), and one loopback source address per client, so that
//! limits counted per address in one scenario do not reach another.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::stack::StackInfo;

/// A loopback source address that no other client of this run uses: 127.9.x.y.
fn next_source() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 9, high, low))
}

/// An HTTP client for the public hosts. It follows no redirect by itself and keeps cookies.
pub fn client(stack: &StackInfo) -> Result<reqwest::Client> {
    builder(stack)?
        .cookie_store(true)
        .build()
        .context("cannot build the HTTP client")
}

/// The same without a cookie jar, for requests that bring their own `Cookie` header.
pub fn bare_client(stack: &StackInfo) -> Result<reqwest::Client> {
    builder(stack)?
        .build()
        .context("cannot build the HTTP client")
}

fn builder(stack: &StackInfo) -> Result<reqwest::ClientBuilder> {
    let tls = Arc::unwrap_or_clone(tls_config(stack)?);
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .local_address(next_source())
        .no_proxy();
    for host in [&stack.app_host(), &stack.api_host(), &stack.auth_host()] {
        builder = builder.resolve(host, stack.public_address());
    }
    Ok(builder)
}

/// TLS settings that trust the platform's own certificate authority, without ALPN: hyper adds it.
pub fn tls_config(stack: &StackInfo) -> Result<Arc<rustls::ClientConfig>> {
    ringwall_tls::edge_client_config(&stack.ca_bundle()).context("cannot load the local CA")
}

/// A raw TLS connection to the gateway, for requests that no well-behaved client can send.
pub async fn raw_tls(stack: &StackInfo, host: &str) -> Result<TlsStream<TcpStream>> {
    let tcp = raw_tcp(stack.public_address()).await?;
    tls_over(stack, host, tcp).await
}

/// The same over a connection that is there.
pub async fn tls_over(
    stack: &StackInfo,
    host: &str,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let mut config = Arc::unwrap_or_clone(tls_config(stack)?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).context("not a server name")?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect(name, tcp)
        .await
        .context("the TLS handshake failed")
}

/// A raw TLS connection that names `host`, or nobody, and believes whatever certificate comes back:
/// so that a refusal is the server's and not the client's.
pub async fn credulous_tls(
    stack: &StackInfo,
    address: SocketAddr,
    host: Option<&str>,
) -> Result<TlsStream<TcpStream>> {
    let mut config = Arc::unwrap_or_clone(tls_config(stack)?);
    config.enable_sni = host.is_some();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(AnyServer));
    let name = ServerName::try_from(host.unwrap_or("nobody.example").to_owned())?;
    let tcp = raw_tcp(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect(name, tcp)
        .await
        .context("the TLS handshake failed")
}

/// A TCP connection from a source address of its own.
pub async fn raw_tcp(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // A container is no neighbour of loopback.
    if address.ip().is_loopback() {
        socket.bind(SocketAddr::new(next_source(), 0))?;
    }
    socket
        .connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))
}

/// Sends `request` as it stands and returns what comes back until the peer closes or 5 s pass.
pub async fn raw_exchange(stack: &StackInfo, host: &str, request: &[u8]) -> Result<String> {
    let mut stream = raw_tls(stack, host).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    // A closing peer may skip close_notify: what was read until then is the answer.
    let _ = tokio::time::timeout(
        std::time::Duration::from_secs(5),
        stream.read_to_end(&mut answer),
    )
    .await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Believes every server: for clients that look for what a server lets pass.
#[derive(Debug)]
pub(crate) struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
