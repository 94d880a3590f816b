//! Clients for the mesh listeners: with a workload's own identity, as a thief of it would have it,
//! and with identities that no authority of the platform has issued.
//!
//! Workloads keep their keys in memory, and no file has them: our thief has the key of the
//! intermediate instead, and makes any workload's certificate just like the control plane does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use ringwall_http_io::{Client, ClientLimits, Transport, body};
use ringwall_identity::authority::Issued;
use ringwall_identity::intermediate::Intermediate;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_tls::{IdentityMaterial, IdentitySource, mesh_client_config};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::edge::AnyServer;
use crate::stack::{Component, StackInfo, probe};

/// Patience with a hundred handshakes at once on a small machine.
const CONNECT: Duration = Duration::from_secs(10);
/// Life of what our thief makes.
const HOUR: Duration = Duration::from_secs(3600);

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

/// Calls `component` as the workload `caller`, with the SVID of the running platform.
pub async fn call_as(
    stack: &StackInfo,
    caller: &str,
    component: &str,
    request: Request<Bytes>,
) -> Result<Answer> {
    Caller::new(stack, caller, component)?.call(request).await
}

/// Calls the admin listener of `component` as the workload `caller`.
pub async fn admin_call(
    stack: &StackInfo,
    caller: &str,
    component: &str,
    request: Request<Bytes>,
) -> Result<Answer> {
    let (source, component) = (identity(stack, caller)?, stack.component(component)?);
    let peer = component.peer()?;
    let address = component.admin.context("it has no admin listener")?;
    call_at(address, mesh_client_config(&source, peer)?, request).await
}

/// The identity of a workload: its own files where it has some, as the operator and engines do, else
/// one that our thief makes.
pub fn identity(stack: &StackInfo, workload: &str) -> Result<Arc<IdentitySource>> {
    let files = stack.identity(workload);
    if files.join("svid.pem").is_file() {
        return loaded(&files);
    }
    let id = SpiffeId::workload(&trust_domain()?, workload)?;
    let made = Presented::made(&stolen_authority(stack)?, &id, OffsetDateTime::now_utc())?;
    let material = IdentityMaterial {
        chain: made.chain,
        key: made.key,
        bundle: roots(stack)?,
        crls: Vec::new(),
    };
    Ok(IdentitySource::from_material(material)?)
}

/// The certificate with which a component meets the operator now.
pub async fn served(stack: &StackInfo, component: &Component) -> Result<Vec<u8>> {
    let admin = component.admin.context("no admin port")?;
    let source = identity(stack, "ringwall")?;
    let config = mesh_client_config(&source, component.peer()?)?;
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let name = ringwall_tls::mesh_server_name(admin);
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await?;
    let chain = stream.get_ref().1.peer_certificates();
    let leaf = chain.and_then(|chain| chain.first());
    Ok(leaf.context("no certificate")?.to_vec())
}

/// What our thief makes, for a probe that dials as the workload.
pub fn made_identity(stack: &StackInfo, workload: &str) -> Result<probe::Identity> {
    let id = SpiffeId::workload(&trust_domain()?, workload)?;
    let made = Presented::made(&stolen_authority(stack)?, &id, OffsetDateTime::now_utc())?;
    let der = |list: Vec<CertificateDer<'static>>| list.iter().map(|one| one.to_vec()).collect();
    Ok(probe::Identity {
        chain: der(made.chain),
        key: made.key.secret_der().to_vec(),
        roots: der(roots(stack)?),
    })
}

/// Key and certificate are replaced one after the other: who comes between the two looks again.
fn loaded(files: &Path) -> Result<Arc<IdentitySource>> {
    let mut last = IdentitySource::load(files);
    for _ in 0..5 {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        last = IdentitySource::load(files);
    }
    last.context("cannot load the identity")
}

/// A caller that keeps its connection, for many requests.
pub struct Caller(Client);

impl Caller {
    /// With the identity of the workload `caller`.
    pub fn new(stack: &StackInfo, caller: &str, component: &str) -> Result<Self> {
        let component = stack.component(component)?;
        let config = mesh_client_config(&identity(stack, caller)?, component.peer()?)?;
        Ok(Self::at(component.address, config))
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

/// A certificate and its key, as a client shows them.
pub struct Presented {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Presented {
    /// An SVID for an hour from `now` on.
    pub fn made(authority: &Intermediate, id: &SpiffeId, now: OffsetDateTime) -> Result<Self> {
        let (certified, key) = authority.issue_svid(id, &[], HOUR, now)?;
        Ok(Self {
            chain: certified.chain,
            key: PrivatePkcs8KeyDer::from(key.to_vec()).into(),
        })
    }

    /// The chain as a file has it, leaf first.
    pub fn chain_pem(&self) -> String {
        let block = |der: &CertificateDer<'_>| {
            let text = STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        self.chain.iter().map(block).collect()
    }
}

impl TryFrom<Issued> for Presented {
    type Error = anyhow::Error;

    fn try_from(issued: Issued) -> Result<Self> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).collect();
        Ok(Self {
            chain: chain?,
            key: PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?,
        })
    }
}

/// Calls `component` with any certificate at all. Nothing on this side looks at it, so that a
/// refusal is the component's.
pub async fn call_with(
    stack: &StackInfo,
    presented: Presented,
    component: &str,
    request: Request<Bytes>,
) -> Result<Answer> {
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(presented.chain, presented.key)?;
    call_at(
        stack.component(component)?.address,
        Arc::new(config),
        request,
    )
    .await
}

/// The authority that the control plane signs with, as somebody who has stolen its sealed file has it.
pub fn stolen_authority(stack: &StackInfo) -> Result<Intermediate> {
    let secret = |name: &str| stack.secret("control-plane", name);
    Ok(Intermediate::load(
        &trust_domain()?,
        &secret("intermediate-cert")?,
        &secret("intermediate-key")?,
        &roots(stack)?,
        OffsetDateTime::now_utc(),
    )?)
}

fn roots(stack: &StackInfo) -> Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(stack.ca_bundle())?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    Ok(roots?)
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
