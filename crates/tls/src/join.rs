//! TLS before a node has an identity: the control plane's bootstrap listener and whoever joins there.
//!
//! Owns: the two configurations of that one connection. The server proves itself by its SVID; the
//! client proves itself by a join token in the request, so that no certificate is asked for.
//! Must not: be used for anything but `Attestation.Join`.
//! Read next: `mesh.rs` for every other connection.

use std::path::Path;
use std::sync::Arc;

use ringwall_identity::SpiffeId;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::provider::provider;
use crate::verify::JoinVerifier;
use crate::{IdentitySource, TlsError, pem};

/// For the bootstrap listener: TLS 1.3, our own SVID, no client certificate, `h2` alone.
///
/// # Errors
/// [`TlsError::Rustls`] when the cryptographic provider cannot do TLS 1.3.
pub fn join_server_config(source: &Arc<IdentitySource>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(source) as _);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For a node that joins: the server must have a chain to the roots in `bundle_pem` and the id `peer`.
///
/// # Errors
/// [`TlsError`] when the roots cannot be read.
pub fn join_client_config(
    bundle_pem: &Path,
    peer: SpiffeId,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = JoinVerifier {
        roots: pem::roots(bundle_pem)?,
        expected: peer,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // Its own verifier: SPIFFE IDs are not DNS names, which is all that webpki matches.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Workload, authority, connect, id};

    #[tokio::test]
    async fn r71_a_joining_node_verifies_the_control_plane_by_bundle_and_id() {
        let root = authority("ringwall.local");
        let plane = Workload::new(&root, &id("control-plane"), root.cert_pem());
        let bundle = plane.dir.path().join("bundle.pem");
        let join = |peer| join_client_config(&bundle, id(peer)).unwrap();
        let server = join_server_config(&plane.source).unwrap();
        let met = connect(&server, &join("control-plane"), "127.0.0.1")
            .await
            .unwrap()
            .met;
        assert_eq!(met.client_saw, Some(id("control-plane")));
        assert_eq!(
            (met.server_saw, met.alpn.as_deref()),
            (None, Some(&b"h2"[..]))
        );
        let why = connect(&server, &join("orders"), "127.0.0.1").await.err();
        assert!(
            why.unwrap()
                .contains("but spiffe://ringwall.local/orders was dialled")
        );
        let stranger = authority("ringwall.local");
        let rogue = Workload::new(&stranger, &id("control-plane"), stranger.cert_pem());
        let server = join_server_config(&rogue.source).unwrap();
        let why = connect(&server, &join("control-plane"), "127.0.0.1")
            .await
            .err();
        assert!(why.unwrap().contains("UnknownIssuer"));
    }
}
