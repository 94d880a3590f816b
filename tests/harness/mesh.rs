//! Clients for the mesh listeners: with a workload's own identity, as a thief of it would have it,
//! and with identities that no authority of the platform has issued.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use ringwall_http_io::body;
use ringwall_http_io::client::{Client, ClientLimits};
use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_tls::{IdentitySource, mesh_client_config};
use time::OffsetDateTime;

use crate::stack::{StackInfo, set_mode};

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

async fn call_at(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    request: Request<Bytes>,
) -> Result<Answer> {
    let client = Client::mesh(address, config, ClientLimits::default());
    let response = client.send(request.map(body::full)).await?;
    let (parts, body) = response.into_parts();
    let body = body::collect(body, 4 << 20).await?;
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
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

/// An identity directory with a certificate of our own making.
pub fn forged_identity(
    stack: &StackInfo,
    trust_domain: &str,
    workload: &str,
    lifetime: Duration,
    issued_at: OffsetDateTime,
) -> Result<tempfile::TempDir> {
    let domain = TrustDomain::parse(trust_domain)?;
    let authority = Authority::generate(&domain, issued_at)?;
    let id = SpiffeId::workload(&domain, workload)?;
    let issued = authority.issue_svid(&id, &[], lifetime, issued_at)?;
    // The thief trusts the platform's real authority: only its own certificate is forged.
    let bundle = std::fs::read_to_string(stack.identity("orders").join("bundle.pem"))?;
    write_identity(&issued, &bundle)
}

/// Writes an identity directory as `ringwall up` does.
pub fn write_identity(issued: &Issued, bundle: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("svid.key");
    std::fs::write(&key, &issued.key_pem)?;
    set_mode(&key, 0o600)?;
    std::fs::write(folder.path().join("svid.pem"), &issued.chain_pem)?;
    std::fs::write(folder.path().join("bundle.pem"), bundle)?;
    Ok(folder)
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
