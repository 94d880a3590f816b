//! Clients for the mesh listeners: with a workload's own identity, as a thief of it would have it,
//! and with identities that no authority of the platform has issued.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use ringwall_http_io::{Client, ClientLimits, Transport, body};
use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_secret::{SealKey, sealed};
use ringwall_tls::{IdentitySource, mesh_client_config};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::edge::AnyServer;
use crate::stack::StackInfo;

/// Patience with a hundred handshakes at once on a small machine.
const CONNECT: Duration = Duration::from_secs(10);

/// A bounded answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {:?}", self.body))
    }
}

/// Calls `component` with the identity whose files lie in `identity`.
pub async fn call(
    stack: &StackInfo,
    identity: &Path,
    component: &str,
    request: Request<Bytes>,
) -> Result<Answer> {
    let source = IdentitySource::load(identity).context("cannot load the identity")?;
    let peer = SpiffeId::workload(&trust_domain()?, component)?;
    let config = mesh_client_config(&source, peer)?;
    call_at(stack.component(component)?.address, config, request).await
}

/// Calls the admin listener of `component` as the workload `caller`.
pub async fn admin_call(
    stack: &StackInfo,
    caller: &str,
    component: &str,
    request: Request<Bytes>,
) -> Result<Answer> {
    let source =
        IdentitySource::load(&stack.identity(caller)).context("cannot load the identity")?;
    let peer = SpiffeId::workload(&trust_domain()?, component)?;
    let address = stack
        .component(component)?
        .admin
        .context("it has no admin listener")?;
    call_at(address, mesh_client_config(&source, peer)?, request).await
}

/// A caller that keeps its connection, for many requests.
pub struct Caller(Client);

impl Caller {
    /// With the identity of the workload `caller`.
    pub fn new(stack: &StackInfo, caller: &str, component: &str) -> Result<Self> {
        let source = IdentitySource::load(&stack.identity(caller))?;
        let peer = SpiffeId::workload(&trust_domain()?, component)?;
        let config = mesh_client_config(&source, peer)?;
        Ok(Self::at(stack.component(component)?.address, config))
    }

    fn at(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        let limits = ClientLimits {
            connect_timeout: CONNECT,
            ..ClientLimits::default()
        };
        Self(Client::mesh(address, config, limits))
    }

    pub async fn call(&self, request: Request<Bytes>) -> Result<Answer> {
        let response = self.0.send(request.map(body::full)).await?;
        let (parts, body) = response.into_parts();
        let body = body::collect(body, 4 << 20).await?;
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }
}

/// One request over a connection of its own, with any TLS settings.
pub async fn call_at(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    request: Request<Bytes>,
) -> Result<Answer> {
    Caller::at(address, config).call(request).await
}

/// Calls `component` as the workload `caller`, with the SVID of the running platform.
pub async fn call_as(
    stack: &StackInfo,
    caller: &str,
    component: &str,
    request: Request<Bytes>,
) -> Result<Answer> {
    call(stack, &stack.identity(caller), component, request).await
}

/// Calls `component` with any certificate at all. Nothing on this side looks at it, so that a
/// refusal is the component's.
pub async fn call_with(
    stack: &StackInfo,
    issued: &Issued,
    component: &str,
    request: Request<Bytes>,
) -> Result<Answer> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(chain?, key)?;
    call_at(
        stack.component(component)?.address,
        Arc::new(config),
        request,
    )
    .await
}

/// The platform's own certificate authority, as somebody who has stolen its sealed key has it.
pub fn stolen_authority(stack: &StackInfo) -> Result<Authority> {
    let folder = stack.state_dir.join("ca");
    let seal = SealKey::from_file(&folder.join("root.seal-key"))?;
    let secrets = sealed::read(&folder.join("root.key"), &seal, "ca")?;
    let key = secrets.get("root-key").context("no key of the authority")?;
    let certificate = std::fs::read_to_string(stack.ca_bundle())?;
    Ok(Authority::load(
        &certificate,
        std::str::from_utf8(key.expose())?,
    )?)
}

/// Fails unless the connection itself was refused: no HTTP answer of any status came back.
pub fn refused_in_the_handshake(outcome: Result<Answer>) -> Result<()> {
    match outcome {
        Ok(answer) => bail!("the handshake was not refused: {}", answer.status),
        Err(_) => Ok(()),
    }
}

pub fn trust_domain() -> Result<TrustDomain> {
    Ok(TrustDomain::parse("ringwall.local")?)
}
