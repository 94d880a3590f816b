//! TLS at the public edge: server certificates by host name, no client certificates (R26, R43).
//!
//! Owns: the choice of a certificate by SNI, its hot reload, and the edge's protocol versions.
//! Must not: have a default certificate. A client that names no host, or a host that is not ours,
//! is refused in the handshake (RFC 6066 §3), before any byte of HTTP is read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ringwall_identity::svid::validity_of;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use crate::provider::provider;
use crate::reload::{self, Reload, Versions};
use crate::{TlsError, pem};

/// One certificate of the edge and the hosts that it serves, as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EdgeCertificate {
    /// Exact host names, such as `api.localhost`.
    pub hosts: Vec<String>,
    /// PEM file, leaf first.
    pub chain: PathBuf,
    /// PKCS#8 PEM file, mode 0600.
    pub key: PathBuf,
}

/// Which HTTP versions the edge offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1` alone.
    Http1,
    /// `h2`, then `http/1.1`.
    Http2AndHttp1,
}

/// The certificates of the edge by host name, hot-reloadable.
pub struct EdgeCertificates {
    configured: Vec<EdgeCertificate>,
    files: Vec<PathBuf>,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    by_host: BTreeMap<String, Arc<CertifiedKey>>,
    not_after: OffsetDateTime,
    versions: Versions,
}

/// For the public listener: TLS 1.2 and 1.3, X25519MLKEM768 preferred, no client certificate. The
/// certificate is chosen by SNI; a handshake without SNI, or with an unknown one, is refused.
///
/// # Panics
/// Never: the provider that this crate builds with can do both versions.
#[must_use]
pub fn edge_server_config(certificates: Arc<EdgeCertificates>, alpn: Alpn) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("aws-lc-rs has cipher suites and groups for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = match alpn {
        Alpn::Http1 => vec![b"http/1.1".to_vec()],
        Alpn::Http2AndHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    // RFC 7627: without it, a TLS 1.2 session can be synchronised with another one.
    config.require_ems = true;
    // Returning browsers skip a signature. The keys rotate by themselves and never leave the process.
    if let Ok(ticketer) = Ticketer::new() {
        config.ticketer = ticketer;
    }
    Arc::new(config)
}

/// For dialling the edge from inside (spa-proxy → gateway): verifies the host name against the
/// roots in `roots_pem`. ALPN offers `http/1.1`.
///
/// # Errors
/// [`TlsError`] when the roots cannot be read.
pub fn edge_client_config(roots_pem: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(pem::roots(roots_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl EdgeCertificates {
    /// Reads every configured certificate and checks that it covers its hosts.
    ///
    /// # Errors
    /// [`TlsError`] names the file or the host that is wrong.
    pub fn load(configured: &[EdgeCertificate]) -> Result<Arc<Self>, TlsError> {
        let files: Vec<_> = configured
            .iter()
            .flat_map(|one| [one.chain.clone(), one.key.clone()])
            .collect();
        let loaded = Loaded::read(configured, &files)?;
        Ok(Arc::new(Self {
            configured: configured.to_vec(),
            files,
            current: ArcSwap::from_pointee(loaded),
        }))
    }

    /// Polls the files every `every` and takes over what is good. Call it inside a tokio runtime.
    pub fn spawn_reload(self: &Arc<Self>, every: Duration) -> JoinHandle<()> {
        reload::spawn(self, every)
    }

    /// Reads the files again if they have changed; `true` when new certificates are in use.
    ///
    /// # Errors
    /// As [`EdgeCertificates::load`]; the last good certificates stay in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        if Versions::of(&self.files)? == self.current.load().versions {
            return Ok(false);
        }
        self.current
            .store(Arc::new(Loaded::read(&self.configured, &self.files)?));
        Ok(true)
    }

    /// When the first of the certificates in use ends.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.current.load().not_after
    }
}

impl Loaded {
    fn read(configured: &[EdgeCertificate], files: &[PathBuf]) -> Result<Self, TlsError> {
        let versions = Versions::of(files)?;
        let mut by_host = BTreeMap::new();
        let mut ends = Vec::new();
        for one in configured {
            let pair = pem::certified_key(&one.chain, &one.key)?;
            ends.push(end_of(&one.chain, &pair)?);
            for host in &one.hosts {
                check_covers(&one.chain, &pair, host)?;
                if by_host
                    .insert(host.to_ascii_lowercase(), Arc::clone(&pair))
                    .is_some()
                {
                    return Err(TlsError::Hosts(format!("host {host:?} stands twice")));
                }
            }
        }
        match ends.into_iter().min() {
            Some(not_after) if !by_host.is_empty() => Ok(Self {
                by_host,
                not_after,
                versions,
            }),
            _ => Err(TlsError::Hosts(
                "there is no host in the configuration".to_owned(),
            )),
        }
    }
}

fn end_of(path: &Path, pair: &CertifiedKey) -> Result<OffsetDateTime, TlsError> {
    let (_, not_after) =
        validity_of(pair.end_entity_cert()?).map_err(|source| TlsError::Identity {
            path: path.to_owned(),
            source,
        })?;
    if not_after <= OffsetDateTime::now_utc() {
        return Err(TlsError::Expired {
            path: path.to_owned(),
            not_after,
        });
    }
    Ok(not_after)
}

fn check_covers(path: &Path, pair: &CertifiedKey, host: &str) -> Result<(), TlsError> {
    let leaf = ParsedCertificate::try_from(pair.end_entity_cert()?)?;
    let covered =
        ServerName::try_from(host).is_ok_and(|name| verify_server_name(&leaf, &name).is_ok());
    if covered {
        Ok(())
    } else {
        Err(TlsError::HostNotCovered {
            path: path.to_owned(),
            host: host.to_owned(),
        })
    }
}

impl Reload for EdgeCertificates {
    const WHAT: &'static str = "edge certificates";

    fn reload(&self) -> Result<bool, TlsError> {
        Self::reload(self)
    }
}

impl ResolvesServerCert for EdgeCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name()?.to_ascii_lowercase();
        self.current.load().by_host.get(&host).cloned()
    }
}

impl fmt::Debug for EdgeCertificates {
    /// Leaves the keys out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeCertificates")
            .field("configured", &self.configured)
            .finish_non_exhaustive()
    }
}
