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
    let verifier = ServerVerifier {
        source: Arc::clone(source),
        expected: peer,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // Its own verifier: SPIFFE IDs are not DNS names, which is all that webpki matches.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(source) as _);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// A server name to hand to rustls for a mesh connection to `address`.
#[must_use]
pub fn mesh_server_name(address: SocketAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.ip().into())
}
