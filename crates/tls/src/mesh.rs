//! Mutual TLS between workloads: TLS 1.3 alone, both sides named by SPIFFE ID (R71).
//!
//! Owns: the two configurations of the mesh. Session resumption is off on both sides, because a
//! resumed session would skip the check of an identity that has meanwhile been rotated or revoked.
//! Read next: `verify.rs` for who is believed.

use std::net::SocketAddr;
use std::sync::Arc;

use ringwall_identity::SpiffeId;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::provider::provider;
use crate::verify::{CallerVerifier, ServerVerifier};
use crate::{IdentitySource, PeerPolicy, TlsError};

/// For the server side of a workload: a client certificate is required, and `callers` decides whose.
/// ALPN offers `h2` and `http/1.1`.
///
/// # Errors
/// [`TlsError::Rustls`] when the cryptographic provider cannot do TLS 1.3.
pub fn mesh_server_config(
    source: &Arc<IdentitySource>,
    callers: PeerPolicy,
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = CallerVerifier {
        source: Arc::clone(source),
        policy: callers,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::clone(source) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For dialling the workload `peer` and nobody else, presenting our own SVID.
///
/// ALPN offers `http/1.1`, which is what the platform's clients speak. Any server name may be given
/// to the connection (see [`mesh_server_name`]): it is neither sent nor checked.
///
/// # Errors
/// [`TlsError::Rustls`] when the cryptographic provider cannot do TLS 1.3.
pub fn mesh_client_config(
    source: &Arc<IdentitySource>,
    peer: SpiffeId,
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(source, peer, b"http/1.1")
}

/// As [`mesh_client_config`] for gRPC: ALPN offers `h2` alone.
///
/// # Errors
/// [`TlsError::Rustls`] when the cryptographic provider cannot do TLS 1.3.
pub fn mesh_grpc_client_config(
    source: &Arc<IdentitySource>,
    peer: SpiffeId,
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(source, peer, b"h2")
}

fn client_config(
    source: &Arc<IdentitySource>,
    peer: SpiffeId,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerVerifier {
        source: Arc::clone(source),
        expected: peer,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // Its own verifier: SPIFFE IDs are not DNS names, which is all that webpki matches.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(source) as _);
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// A server name to hand to rustls for a mesh connection to `address`.
#[must_use]
pub fn mesh_server_name(address: SocketAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.ip().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{
        HOUR, Open, Workload, authority, certified, connect, id, now, write_identity,
    };
    use rcgen::{
        CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
    };
    use ringwall_identity::TrustDomain;
    use ringwall_identity::authority::Authority;
    use ringwall_secret::private_file;
    use rustls::version::TLS12;
    use rustls::{CipherSuite, HandshakeKind, NamedGroup, ProtocolVersion};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A mesh of one trust domain in which `gateway` may call `orders`.
    struct Mesh {
        authority: Authority,
        gateway: Workload,
        orders: Workload,
    }

    impl Mesh {
        fn new() -> Self {
            let authority = authority("ringwall.local");
            let bundle = authority.cert_pem().to_owned();
            let gateway = Workload::new(&authority, &id("gateway"), &bundle);
            let orders = Workload::new(&authority, &id("orders"), &bundle);
            Self {
                authority,
                gateway,
                orders,
            }
        }

        fn server(&self) -> Arc<ServerConfig> {
            let callers = PeerPolicy::AnyOf(vec![id("gateway"), id("notifications")]);
            mesh_server_config(&self.orders.source, callers).unwrap()
        }

        fn client(&self) -> Arc<ClientConfig> {
            mesh_client_config(&self.gateway.source, id("orders")).unwrap()
        }

        async fn call(&self) -> Result<Open, String> {
            connect(&self.server(), &self.client(), "127.0.0.1").await
        }

        /// The verdict on a caller that presents this certificate.
        async fn call_presenting(&self, chain_pem: &str, key_pem: &str) -> String {
            let certificate = certified(chain_pem, key_pem);
            let client = self.gateway.client_presenting(Some(certificate), &TLS13);
            connect(&self.server(), &client, "127.0.0.1")
                .await
                .err()
                .unwrap()
        }

        /// The verdict on a server that presents this certificate to the gateway.
        async fn serve_presenting(&self, chain_pem: &str, key_pem: &str) -> String {
            let server = self
                .orders
                .server_presenting(certified(chain_pem, key_pem), &TLS13);
            connect(&server, &self.client(), "127.0.0.1")
                .await
                .err()
                .unwrap()
        }

        /// A leaf that the root signs although no honest authority would issue it.
        fn odd_leaf(&self, uris: &[&str]) -> (String, String) {
            let key = KeyPair::from_pem(self.authority.key_pem()).unwrap();
            let root = Issuer::from_ca_cert_pem(self.authority.cert_pem(), key).unwrap();
            leaf_by(&root, uris)
        }
    }

    fn leaf_by(issuer: &Issuer<'_, KeyPair>, uris: &[&str]) -> (String, String) {
        let mut params = CertificateParams::default();
        params.not_before = now() - HOUR;
        params.not_after = now() + HOUR;
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate().unwrap();
        (
            params.signed_by(&key, issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    #[tokio::test]
    async fn r71_declared_caller_and_dialled_server_meet() {
        let met = Mesh::new().call().await.unwrap().met;
        assert_eq!(met.client_saw, Some(id("orders")));
        assert_eq!(met.server_saw, Some(id("gateway")));
        assert_eq!(met.version, ProtocolVersion::TLSv1_3);
        assert_eq!(met.group, NamedGroup::X25519MLKEM768);
        assert_eq!(met.suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(met.alpn.as_deref(), Some(b"http/1.1".as_slice()));
    }

    #[tokio::test]
    async fn r71_http2_is_chosen_where_the_client_offers_it() {
        let mesh = Mesh::new();
        let mut client = ClientConfig::clone(&mesh.client());
        client.alpn_protocols = vec![b"h2".to_vec()];
        let met = connect(&mesh.server(), &Arc::new(client), "127.0.0.1")
            .await
            .unwrap()
            .met;
        assert_eq!(met.alpn.as_deref(), Some(b"h2".as_slice()));
    }

    #[tokio::test]
    async fn r71_wrong_trust_domain_is_denied() {
        let mesh = Mesh::new();
        let other = authority("other.example");
        let gateway = SpiffeId::parse("spiffe://other.example/gateway").unwrap();
        let stranger = other.issue_svid(&gateway, &[], HOUR, now()).unwrap();
        // Its root is not in the bundle.
        let verdict = mesh
            .call_presenting(&stranger.chain_pem, &stranger.key_pem)
            .await;
        assert!(verdict.contains("UnknownIssuer"), "{verdict}");
        let verdict = mesh
            .serve_presenting(&stranger.chain_pem, &stranger.key_pem)
            .await;
        assert!(verdict.contains("UnknownIssuer"), "{verdict}");
        // Its root is in the bundle (federation), and still it is another name.
        let both = format!("{}{}", mesh.authority.cert_pem(), other.cert_pem());
        let orders = Workload::new(&mesh.authority, &id("orders"), &both);
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        for policy in [
            PeerPolicy::AnyOf(vec![id("gateway")]),
            PeerPolicy::AnyInTrustDomain(domain),
        ] {
            let server = mesh_server_config(&orders.source, policy).unwrap();
            let client = mesh.gateway.client_presenting(
                Some(certified(&stranger.chain_pem, &stranger.key_pem)),
                &TLS13,
            );
            let verdict = connect(&server, &client, "127.0.0.1").await.err().unwrap();
            assert!(verdict.contains("not among those"), "{verdict}");
        }
    }

    #[tokio::test]
    async fn r71_undeclared_caller_is_denied() {
        let mesh = Mesh::new();
        let payments = mesh
            .authority
            .issue_svid(&id("payments"), &[], HOUR, now())
            .unwrap();
        let verdict = mesh
            .call_presenting(&payments.chain_pem, &payments.key_pem)
            .await;
        assert!(verdict.contains("payments is not among those"), "{verdict}");
        let nobody = mesh_server_config(&mesh.orders.source, PeerPolicy::AnyOf(vec![])).unwrap();
        assert!(connect(&nobody, &mesh.client(), "127.0.0.1").await.is_err());
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let anybody =
            mesh_server_config(&mesh.orders.source, PeerPolicy::AnyInTrustDomain(domain)).unwrap();
        assert!(connect(&anybody, &mesh.client(), "127.0.0.1").await.is_ok());
    }

    #[tokio::test]
    async fn r71_another_workload_in_the_dialled_place_is_denied() {
        let mesh = Mesh::new();
        // A DNS name that fits makes no difference: only the SPIFFE ID counts.
        let dns = ["orders".to_owned(), "localhost".to_owned()];
        let rogue = mesh
            .authority
            .issue_svid(&id("payments"), &dns, HOUR, now())
            .unwrap();
        let verdict = mesh
            .serve_presenting(&rogue.chain_pem, &rogue.key_pem)
            .await;
        assert!(
            verdict.contains("but spiffe://ringwall.local/orders was dialled"),
            "{verdict}"
        );
    }

    #[tokio::test]
    async fn r71_expired_and_future_certificates_are_denied() {
        let mesh = Mesh::new();
        let issue = |at| {
            mesh.authority
                .issue_svid(&id("gateway"), &[], HOUR, at)
                .unwrap()
        };
        let expired = issue(now() - 2 * HOUR);
        let verdict = mesh
            .call_presenting(&expired.chain_pem, &expired.key_pem)
            .await;
        assert!(verdict.contains("expired"), "{verdict}");
        let future = issue(now() + HOUR);
        let verdict = mesh
            .call_presenting(&future.chain_pem, &future.key_pem)
            .await;
        assert!(verdict.contains("not valid yet"), "{verdict}");
        let server = mesh
            .authority
            .issue_svid(&id("orders"), &[], HOUR, now() - 2 * HOUR)
            .unwrap();
        let verdict = mesh
            .serve_presenting(&server.chain_pem, &server.key_pem)
            .await;
        assert!(verdict.contains("expired"), "{verdict}");
    }

    #[tokio::test]
    async fn r71_caller_without_certificate_is_denied() {
        let mesh = Mesh::new();
        let client = mesh.gateway.client_presenting(None, &TLS13);
        let verdict = connect(&mesh.server(), &client, "127.0.0.1")
            .await
            .err()
            .unwrap();
        assert!(verdict.contains("sent no certificates"), "{verdict}");
    }

    #[tokio::test]
    async fn r71_leaf_used_as_authority_is_denied() {
        let mesh = Mesh::new();
        let payments = mesh
            .authority
            .issue_svid(&id("payments"), &[], HOUR, now())
            .unwrap();
        let key = KeyPair::from_pem(&payments.key_pem).unwrap();
        let rogue = Issuer::from_ca_cert_pem(&payments.chain_pem, key).unwrap();
        for name in ["gateway", "orders"] {
            let (leaf, key) = leaf_by(&rogue, &[id(name).as_str()]);
            let chain = format!("{leaf}{}", payments.chain_pem);
            let verdict = match name {
                "gateway" => mesh.call_presenting(&chain, &key).await,
                _ => mesh.serve_presenting(&chain, &key).await,
            };
            assert!(verdict.contains("invalid peer certificate"), "{verdict}");
        }
    }

    #[tokio::test]
    async fn r71_the_root_itself_is_no_workload() {
        let mesh = Mesh::new();
        let (cert, key) = (mesh.authority.cert_pem(), mesh.authority.key_pem());
        let verdict = mesh.call_presenting(cert, key).await;
        assert!(verdict.contains("invalid peer certificate"), "{verdict}");
        let verdict = mesh.serve_presenting(cert, key).await;
        assert!(verdict.contains("invalid peer certificate"), "{verdict}");
    }

    #[tokio::test]
    async fn r71_two_or_no_uri_names_are_denied() {
        let mesh = Mesh::new();
        let (gateway, orders) = (id("gateway"), id("orders"));
        for uris in [
            &[gateway.as_str(), "spiffe://ringwall.local/payments"][..],
            &[gateway.as_str(), gateway.as_str()],
            &[gateway.as_str(), "https://ringwall.local/"],
        ] {
            let (leaf, key) = mesh.odd_leaf(uris);
            let verdict = mesh.call_presenting(&leaf, &key).await;
            assert!(verdict.contains("more than one URI"), "{verdict}");
        }
        let (leaf, key) = mesh.odd_leaf(&[orders.as_str(), gateway.as_str()]);
        let verdict = mesh.serve_presenting(&leaf, &key).await;
        assert!(verdict.contains("more than one URI"), "{verdict}");
        let database = mesh.authority.issue_client("gateway", HOUR, now()).unwrap();
        let verdict = mesh
            .call_presenting(&database.chain_pem, &database.key_pem)
            .await;
        assert!(verdict.contains("no subject alternative name"), "{verdict}");
    }

    #[tokio::test]
    async fn r71_certificate_for_another_use_is_denied() {
        let mesh = Mesh::new();
        let dns = ["orders".to_owned()];
        let edge = mesh.authority.issue_server(&dns, &[], HOUR, now()).unwrap();
        let verdict = mesh.call_presenting(&edge.chain_pem, &edge.key_pem).await;
        assert!(verdict.contains("invalid peer certificate"), "{verdict}");
        let client = mesh.authority.issue_client("orders", HOUR, now()).unwrap();
        let verdict = mesh
            .serve_presenting(&client.chain_pem, &client.key_pem)
            .await;
        assert!(verdict.contains("invalid peer certificate"), "{verdict}");
    }

    #[tokio::test]
    async fn r71_tls_1_2_is_not_spoken_inside() {
        let mesh = Mesh::new();
        let gateway = mesh
            .authority
            .issue_svid(&id("gateway"), &[], HOUR, now())
            .unwrap();
        let certificate = certified(&gateway.chain_pem, &gateway.key_pem);
        let client = mesh.gateway.client_presenting(Some(certificate), &TLS12);
        let verdict = connect(&mesh.server(), &client, "127.0.0.1")
            .await
            .err()
            .unwrap();
        assert!(verdict.contains("Tls12NotOfferedOrEnabled"), "{verdict}");
        let orders = mesh
            .authority
            .issue_svid(&id("orders"), &[], HOUR, now())
            .unwrap();
        let certificate = certified(&orders.chain_pem, &orders.key_pem);
        let server = mesh.orders.server_presenting(certificate, &TLS12);
        assert!(connect(&server, &mesh.client(), "127.0.0.1").await.is_err());
    }

    #[tokio::test]
    async fn r71_every_handshake_is_a_full_one() {
        let mesh = Mesh::new();
        let (server, client) = (mesh.server(), mesh.client());
        for _ in 0..3 {
            let met = connect(&server, &client, "127.0.0.1").await.unwrap().met;
            assert!(matches!(
                met.kind,
                HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest
            ));
        }
    }

    #[tokio::test]
    async fn r33_rotation_leaves_open_connections_and_serves_new_ones() {
        let mesh = Mesh::new();
        let (server, client) = (mesh.server(), mesh.client());
        let mut open = connect(&server, &client, "127.0.0.1").await.unwrap();
        let first = mesh.orders.source.not_after();
        let next = mesh
            .authority
            .issue_svid(&id("orders"), &[], 2 * HOUR, now())
            .unwrap();
        write_identity(mesh.orders.dir.path(), &next, mesh.authority.cert_pem());
        assert!(mesh.orders.source.reload().unwrap());
        assert!(
            !mesh.orders.source.reload().unwrap(),
            "nothing has changed since"
        );
        assert!(mesh.orders.source.not_after() > first);
        open.client.write_all(b"still here").await.unwrap();
        let mut seen = [0; 10];
        open.server.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"still here");
        let again = connect(&server, &client, "127.0.0.1").await.unwrap();
        let leaf = again.client.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(
            leaf,
            certified(&next.chain_pem, &next.key_pem).cert[0],
            "the new certificate"
        );
    }

    #[tokio::test]
    async fn r33_broken_replacement_keeps_the_last_good_one() {
        let mesh = Mesh::new();
        let dir = mesh.orders.dir.path();
        let next = mesh
            .authority
            .issue_svid(&id("orders"), &[], HOUR, now())
            .unwrap();
        let payments = mesh
            .authority
            .issue_svid(&id("payments"), &[], HOUR, now())
            .unwrap();
        let expired = mesh
            .authority
            .issue_svid(&id("orders"), &[], HOUR, now() - 2 * HOUR)
            .unwrap();
        let bundle = mesh.authority.cert_pem();
        let refuse = |what: &str| {
            let error = mesh.orders.source.reload().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        // The first half of a rotation: the key is new, the certificate is not yet.
        private_file::write(&dir.join("svid.key"), next.key_pem.as_bytes()).unwrap();
        refuse("is not the key of the certificate");
        write_identity(dir, &payments, bundle);
        refuse("now names spiffe://ringwall.local/payments");
        write_identity(dir, &expired, bundle);
        refuse("expired");
        write_identity(dir, &next, "not a bundle");
        refuse("there is no certificate in it");
        private_file::write(&dir.join("svid.pem"), b"-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(mesh.orders.source.reload().is_err());
        assert!(mesh.call().await.is_ok(), "the last good one still serves");
        write_identity(dir, &next, bundle);
        assert!(mesh.orders.source.reload().unwrap());
    }

    #[tokio::test]
    async fn r33_new_bundle_ends_trust_in_the_old_root() {
        let mesh = Mesh::new();
        let (server, client) = (mesh.server(), mesh.client());
        assert!(connect(&server, &client, "127.0.0.1").await.is_ok());
        let successor = authority("ringwall.local");
        let orders = successor
            .issue_svid(&id("orders"), &[], HOUR, now())
            .unwrap();
        // Overlap: both roots are trusted everywhere, the server is already certified by the new one.
        let both = format!("{}{}", mesh.authority.cert_pem(), successor.cert_pem());
        write_identity(mesh.orders.dir.path(), &orders, &both);
        private_file::write(&mesh.gateway.dir.path().join("bundle.pem"), both.as_bytes()).unwrap();
        assert!(mesh.orders.source.reload().unwrap() && mesh.gateway.source.reload().unwrap());
        assert!(connect(&server, &client, "127.0.0.1").await.is_ok());
        // The old root goes: the caller's certificate, which it has signed, is worth nothing now.
        write_identity(mesh.orders.dir.path(), &orders, successor.cert_pem());
        assert!(mesh.orders.source.reload().unwrap());
        let verdict = connect(&server, &client, "127.0.0.1").await.err().unwrap();
        assert!(verdict.contains("UnknownIssuer"), "{verdict}");
        let gateway = successor
            .issue_svid(&id("gateway"), &[], HOUR, now())
            .unwrap();
        write_identity(mesh.gateway.dir.path(), &gateway, successor.cert_pem());
        assert!(mesh.gateway.source.reload().unwrap());
        assert!(connect(&server, &client, "127.0.0.1").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn r33_polling_finds_new_files() {
        let mesh = Mesh::new();
        let polling = mesh
            .orders
            .source
            .spawn_reload(std::time::Duration::from_secs(5));
        let first = mesh.orders.source.not_after();
        let next = mesh
            .authority
            .issue_svid(&id("orders"), &[], 2 * HOUR, now())
            .unwrap();
        write_identity(mesh.orders.dir.path(), &next, mesh.authority.cert_pem());
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        assert!(mesh.orders.source.not_after() > first);
        drop(mesh);
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        assert!(polling.is_finished(), "polling ends with its source");
    }

    #[test]
    fn r71_identities_that_cannot_serve_stop_the_start() {
        let root = authority("ringwall.local");
        let dir = tempfile::tempdir().unwrap();
        let refusal = || IdentitySource::load(dir.path()).unwrap_err().to_string();
        assert!(refusal().contains("svid.pem"));
        let good = root.issue_svid(&id("orders"), &[], HOUR, now()).unwrap();
        write_identity(dir.path(), &good, root.cert_pem());
        assert!(IdentitySource::load(dir.path()).is_ok());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(dir.path().join("svid.key"), mode).unwrap();
        assert!(refusal().contains("chmod 600"), "{}", refusal());
        let edge = root
            .issue_server(&["orders".to_owned()], &[], HOUR, now())
            .unwrap();
        write_identity(dir.path(), &edge, root.cert_pem());
        assert!(refusal().contains("no URI"), "{}", refusal());
        let old = root
            .issue_svid(&id("orders"), &[], HOUR, now() - 2 * HOUR)
            .unwrap();
        write_identity(dir.path(), &old, root.cert_pem());
        assert!(refusal().contains("expired"), "{}", refusal());
    }
}
