//! Certificates and handshakes for the tests of this crate. Real TLS over an in-memory pipe.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_secret::private_file;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::provider::provider;
use crate::verify::{CallerVerifier, ServerVerifier, peer_spiffe_id};
use crate::{IdentityMaterial, IdentitySource, PeerPolicy};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}

pub(crate) fn authority(domain: &str) -> Authority {
    Authority::generate(&TrustDomain::parse(domain).unwrap(), now() - 24 * HOUR).unwrap()
}

/// Writes an identity directory the way the platform does: key first, each file by rename.
pub(crate) fn write_identity(directory: &Path, issued: &Issued, bundle: &str) {
    private_file::write(&directory.join("bundle.pem"), bundle.as_bytes()).unwrap();
    private_file::write(&directory.join("svid.key"), issued.key_pem.as_bytes()).unwrap();
    private_file::write(&directory.join("svid.pem"), issued.chain_pem.as_bytes()).unwrap();
}

/// What a Workload API would push: the identity, the roots that it believes, and their revocation lists.
pub(crate) fn material(issued: &Issued, roots: &[&Authority], crls: &[String]) -> IdentityMaterial {
    let pem = |text: &str| {
        CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    };
    IdentityMaterial {
        chain: pem(&issued.chain_pem),
        key: PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
        bundle: roots.iter().flat_map(|root| pem(root.cert_pem())).collect(),
        crls: crls
            .iter()
            .map(|crl| CertificateRevocationListDer::from_pem_slice(crl.as_bytes()).unwrap())
            .collect(),
    }
}

/// A workload with its identity directory.
pub(crate) struct Workload {
    pub(crate) dir: TempDir,
    pub(crate) source: Arc<IdentitySource>,
}

impl Workload {
    /// The workload `id`, certified by `authority`, trusting `bundle`.
    pub(crate) fn new(authority: &Authority, id: &SpiffeId, bundle: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issued = authority.issue_svid(id, &[], HOUR, now()).unwrap();
        write_identity(dir.path(), &issued, bundle);
        let source = IdentitySource::load(dir.path()).unwrap();
        Self { dir, source }
    }

    /// A client that presents any certificate at all, or none, and speaks any version: an attacker.
    pub(crate) fn client_presenting(
        &self,
        certificate: Option<CertifiedKey>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let verifier = ServerVerifier {
            source: Arc::clone(&self.source),
            expected: id("orders"),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        Arc::new(match certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)))
            }
            None => builder.with_no_client_auth(),
        })
    }

    /// A server that presents any certificate and speaks any version: an attacker.
    pub(crate) fn server_presenting(
        &self,
        certificate: CertifiedKey,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        let policy = PeerPolicy::AnyInTrustDomain(id("x").trust_domain().clone());
        let verifier = CallerVerifier {
            source: Arc::clone(&self.source),
            policy,
        };
        Arc::new(
            ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate))),
        )
    }
}

pub(crate) fn certified(chain_pem: &str, key_pem: &str) -> CertifiedKey {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    CertifiedKey::from_der(chain, key, &provider()).unwrap()
}

/// What both sides of a successful handshake agree on.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) client_saw: Option<SpiffeId>,
    pub(crate) server_saw: Option<SpiffeId>,
    pub(crate) version: ProtocolVersion,
    pub(crate) group: NamedGroup,
    pub(crate) suite: CipherSuite,
    pub(crate) kind: HandshakeKind,
    pub(crate) alpn: Option<Vec<u8>>,
}

/// An open connection between two workloads.
pub(crate) struct Open {
    pub(crate) met: Met,
    pub(crate) client: tokio_rustls::client::TlsStream<DuplexStream>,
    pub(crate) server: tokio_rustls::server::TlsStream<DuplexStream>,
}

/// A handshake and one byte from server to client. In TLS 1.3 a client learns only from its first
/// read that its certificate was refused, so the byte belongs to the verdict. The error is the text
/// of the side that refused, both sides joined.
pub(crate) async fn connect(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<Open, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(far).await?;
        stream.write_all(b"k").await?;
        stream.flush().await?;
        Ok::<_, std::io::Error>(stream)
    };
    let dial = async {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client))
            .connect(name, near)
            .await?;
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await?;
        Ok::<_, std::io::Error>(stream)
    };
    match tokio::join!(accept, dial) {
        (Ok(server), Ok(client)) => {
            let (_, state) = client.get_ref();
            let met = Met {
                client_saw: peer_spiffe_id(state),
                server_saw: peer_spiffe_id(server.get_ref().1),
                version: state.protocol_version().unwrap(),
                group: state.negotiated_key_exchange_group().unwrap().name(),
                suite: state.negotiated_cipher_suite().unwrap().suite(),
                kind: state.handshake_kind().unwrap(),
                alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            };
            Ok(Open {
                met,
                client,
                server,
            })
        }
        (server, client) => {
            let text =
                |side: Option<std::io::Error>| side.map(|e| e.to_string()).unwrap_or_default();
            Err(format!(
                "server: {}; client: {}",
                text(server.err()),
                text(client.err())
            ))
        }
    }
}
