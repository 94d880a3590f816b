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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{HOUR, authority, connect, now};
    use ringwall_identity::authority::Authority;
    use ringwall_secret::private_file;
    use rustls::{CipherSuite, NamedGroup, ProtocolVersion};
    use tempfile::TempDir;

    /// An edge with the platform's three hosts under one certificate.
    struct Edge {
        dir: TempDir,
        authority: Authority,
        configured: EdgeCertificate,
    }

    const HOSTS: [&str; 3] = ["app.localhost", "api.localhost", "auth.localhost"];

    impl Edge {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let configured = EdgeCertificate {
                hosts: HOSTS.map(str::to_owned).to_vec(),
                chain: dir.path().join("chain.pem"),
                key: dir.path().join("key.pem"),
            };
            let edge = Self {
                dir,
                authority: authority("ringwall.local"),
                configured,
            };
            edge.issue(&HOSTS, now());
            private_file::write(&edge.roots(), edge.authority.cert_pem().as_bytes()).unwrap();
            edge
        }

        fn issue(&self, hosts: &[&str], at: OffsetDateTime) {
            let dns: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let issued = self.authority.issue_server(&dns, &[], HOUR, at).unwrap();
            private_file::write(&self.configured.key, issued.key_pem.as_bytes()).unwrap();
            private_file::write(&self.configured.chain, issued.chain_pem.as_bytes()).unwrap();
        }

        fn roots(&self) -> PathBuf {
            self.dir.path().join("roots.pem")
        }

        fn load(&self) -> Result<Arc<EdgeCertificates>, TlsError> {
            EdgeCertificates::load(std::slice::from_ref(&self.configured))
        }

        fn server(&self, alpn: Alpn) -> Arc<ServerConfig> {
            edge_server_config(self.load().unwrap(), alpn)
        }

        /// A browser that trusts the root and offers both HTTP versions.
        fn browser(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
            let mut config = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(pem::roots(&self.roots()).unwrap())
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            config
        }
    }

    #[tokio::test]
    async fn r26_each_declared_host_is_served() {
        let edge = Edge::new();
        let server = edge.server(Alpn::Http2AndHttp1);
        let browser = Arc::new(edge.browser(&[&TLS13, &TLS12]));
        for host in [
            "app.localhost",
            "api.localhost",
            "auth.localhost",
            "API.localhost",
        ] {
            let met = connect(&server, &browser, host).await.unwrap().met;
            assert_eq!(met.version, ProtocolVersion::TLSv1_3);
            assert_eq!(met.group, NamedGroup::X25519MLKEM768);
            assert_eq!(met.suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
            assert_eq!(met.alpn.as_deref(), Some(b"h2".as_slice()));
            assert_eq!(met.server_saw, None, "no client certificate at the edge");
        }
        let inside = edge_client_config(&edge.roots()).unwrap();
        let met = connect(&server, &inside, "api.localhost")
            .await
            .unwrap()
            .met;
        assert_eq!(met.alpn.as_deref(), Some(b"http/1.1".as_slice()));
        let met = connect(&edge.server(Alpn::Http1), &browser, "api.localhost")
            .await
            .unwrap()
            .met;
        assert_eq!(met.alpn.as_deref(), Some(b"http/1.1".as_slice()));
    }

    #[tokio::test]
    async fn r26_unknown_or_missing_sni_is_closed() {
        let edge = Edge::new();
        let server = edge.server(Alpn::Http2AndHttp1);
        let browser = Arc::new(edge.browser(&[&TLS13, &TLS12]));
        // An IP address is not sent as SNI (RFC 6066 §3), so the last one names no host.
        for name in ["localhost", "evil.example", "x.api.localhost", "127.0.0.1"] {
            let verdict = connect(&server, &browser, name).await.err().unwrap();
            assert!(
                verdict.contains("no server certificate chain resolved"),
                "{name}: {verdict}"
            );
        }
        let mut silent = edge.browser(&[&TLS13]);
        silent.enable_sni = false;
        let verdict = connect(&server, &Arc::new(silent), "api.localhost")
            .await
            .err()
            .unwrap();
        assert!(
            verdict.contains("no server certificate chain resolved"),
            "{verdict}"
        );
    }

    #[tokio::test]
    async fn r43_older_browsers_get_tls_1_2() {
        let edge = Edge::new();
        let browser = Arc::new(edge.browser(&[&TLS12]));
        let met = connect(&edge.server(Alpn::Http1), &browser, "app.localhost")
            .await
            .unwrap()
            .met;
        assert_eq!(met.version, ProtocolVersion::TLSv1_2);
    }

    #[tokio::test]
    async fn edge_client_believes_its_roots_alone() {
        let edge = Edge::new();
        let stranger = Edge::new();
        let client = edge_client_config(&stranger.roots()).unwrap();
        let server = edge.server(Alpn::Http1);
        let verdict = connect(&server, &client, "api.localhost")
            .await
            .err()
            .unwrap();
        assert!(verdict.contains("invalid peer certificate"), "{verdict}");
        assert!(edge_client_config(&edge.dir.path().join("none")).is_err());
    }

    #[tokio::test]
    async fn r33_edge_certificates_are_replaced_while_they_serve() {
        let edge = Edge::new();
        let certificates = edge.load().unwrap();
        let server = edge_server_config(Arc::clone(&certificates), Alpn::Http1);
        let browser = Arc::new(edge.browser(&[&TLS13]));
        let leaf = |open: &crate::fixture::Open| {
            open.client.get_ref().1.peer_certificates().unwrap()[0].clone()
        };
        let before = connect(&server, &browser, "api.localhost").await.unwrap();
        edge.issue(&HOSTS, now());
        assert!(certificates.reload().unwrap());
        let fresh = Arc::new(edge.browser(&[&TLS13])); // Without a session to resume.
        let after = connect(&server, &fresh, "api.localhost").await.unwrap();
        assert_ne!(leaf(&before), leaf(&after));
        edge.issue(&["elsewhere.localhost"], now());
        assert!(certificates.reload().is_err());
        let fresh = Arc::new(edge.browser(&[&TLS13]));
        let still = connect(&server, &fresh, "api.localhost").await.unwrap();
        assert_eq!(leaf(&after), leaf(&still), "the last good certificate");
    }

    #[test]
    fn edge_certificates_that_cannot_serve_stop_the_start() {
        let edge = Edge::new();
        let refusal = |configured: &[EdgeCertificate]| {
            EdgeCertificates::load(configured).unwrap_err().to_string()
        };
        assert!(refusal(&[]).contains("no host"));
        let one = edge.configured.clone();
        assert!(refusal(&[one.clone(), one.clone()]).contains("stands twice"));
        let mut more = one.clone();
        more.hosts.push("shop.localhost".to_owned());
        assert!(refusal(&[more]).contains("does not cover the host \"shop.localhost\""));
        edge.issue(&HOSTS, now() - 2 * HOUR);
        assert!(refusal(std::slice::from_ref(&one)).contains("expired"));
        private_file::write(&one.key, b"not a key").unwrap();
        assert!(refusal(&[one]).contains("not a PEM private key"));
    }
}
