//! Between the components: who may dial whom, and with what.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh;
use e2e::stack::StackInfo;
use http::Request;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Every edge that `ringwall.yaml` declares: callee, then who may dial it.
const DECLARED: [(&str, &[&str]); 8] = [
    (
        "authz-server",
        &["gateway", "spa-proxy", "orders", "tokenizer", "payments"],
    ),
    ("tokenizer", &["orders", "payments"]),
    ("inventory", &["orders"]),
    ("payments", &["orders"]),
    ("orders", &["gateway", "notifications"]),
    ("notifications", &["gateway"]),
    (
        "spa-proxy",
        &[
            "gateway",
            "authz-server",
            "tokenizer",
            "inventory",
            "payments",
            "orders",
            "notifications",
        ],
    ),
    ("gateway", &["orders", "notifications"]),
];

/// R50: the handshake passes exactly where an edge is declared.
pub(super) async fn r50_undeclared_edges_are_refused_in_the_handshake(
    stack: Arc<StackInfo>,
) -> Result<()> {
    for (callee, callers) in DECLARED {
        for (caller, _) in DECLARED {
            if caller == callee {
                continue;
            }
            let outcome = mesh::call_as(&stack, caller, callee, get("/")?).await;
            let declared = callers.contains(&caller);
            ensure!(
                outcome.is_ok() == declared,
                "{caller} → {callee}: declared {declared}, but the handshake says {outcome:?}"
            );
        }
    }
    Ok(())
}

pub(super) async fn r71_a_foreign_trust_domain_is_refused(stack: Arc<StackInfo>) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let forged = mesh::forged_identity(&stack, "evil.example", "gateway", HOUR, now)?;
    let outcome = mesh::call(&stack, forged.path(), "orders", get("/v1/orders")?).await;
    mesh::refused_in_the_handshake(outcome)
}

pub(super) async fn r71_the_right_name_from_another_authority_is_refused(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let forged = mesh::forged_identity(&stack, "ringwall.local", "gateway", HOUR, now)?;
    let outcome = mesh::call(&stack, forged.path(), "orders", get("/v1/orders")?).await;
    mesh::refused_in_the_handshake(outcome)
}

pub(super) async fn r71_an_expired_identity_is_refused(stack: Arc<StackInfo>) -> Result<()> {
    let long_ago = OffsetDateTime::now_utc() - time::Duration::days(2);
    let forged = mesh::forged_identity(&stack, "ringwall.local", "gateway", HOUR, long_ago)?;
    let outcome = mesh::call(&stack, forged.path(), "orders", get("/v1/orders")?).await;
    mesh::refused_in_the_handshake(outcome)
}

/// R15: a dial of a service past the gateway, with no identity at all, and in plaintext.
pub(super) async fn r15_a_direct_dial_without_identity_is_refused(
    stack: Arc<StackInfo>,
) -> Result<()> {
    for component in stack
        .components()
        .iter()
        .filter(|component| component.name != "postgres")
    {
        for address in [Some(component.address), component.admin]
            .into_iter()
            .flatten()
        {
            if address == stack.public_address() {
                continue;
            }
            let answer = plaintext(address).await?;
            ensure!(
                !answer.contains("HTTP/1.1 200"),
                "{}: {answer}",
                component.name
            );
            ensure!(
                !answer.contains("HTTP/1.1 4"),
                "{} speaks plaintext: {answer}",
                component.name
            );
            let config = e2e::edge::tls_config(&stack)?;
            let answer = anonymous_tls(address, config).await;
            ensure!(
                !answer.as_ref().is_ok_and(|text| text.contains("HTTP/1.1")),
                "{} at {address} answered without a client certificate: {answer:?}",
                component.name
            );
        }
    }
    Ok(())
}

/// R15: the gateway is the only component that listens on more than loopback would allow to be
/// configured; here every listener of the platform is on loopback.
pub(super) async fn r59_only_the_gateway_is_public(stack: Arc<StackInfo>) -> Result<()> {
    let gateway = stack.component("gateway")?;
    for component in stack.components() {
        ensure!(
            e2e::stack::is_loopback(&component.address),
            "{} is public",
            component.name
        );
    }
    ensure!(
        gateway.address != stack.public_address(),
        "the mesh listener is the public one"
    );
    Ok(())
}

const HOUR: Duration = Duration::from_secs(3600);

fn get(path: &str) -> Result<Request<Bytes>> {
    Request::get(path)
        .body(Bytes::new())
        .context("not a request")
}

async fn plaintext(address: std::net::SocketAddr) -> Result<String> {
    let mut stream = e2e::edge::raw_tcp(address).await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    // A reset instead of an answer is what a TLS listener may do.
    let _ = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut answer)).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn anonymous_tls(
    address: std::net::SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<String> {
    // The mesh certificates carry `<service>.mesh.ringwall.local`; a wrong name fails as well, which
    // would hide a missing client check, so the verifier here accepts every server.
    let mut config = Arc::unwrap_or_clone(config);
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(AnyServer));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = e2e::edge::raw_tcp(address).await?;
    let name = rustls_pki_types::ServerName::try_from("anyone.example")?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A client that trusts every server: it looks for servers that ask nothing of a client.
#[derive(Debug)]
struct AnyServer;

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
