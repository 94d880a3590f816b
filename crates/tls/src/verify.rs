//! Whom a handshake believes inside the mesh (R71).
//!
//! Owns: the check of a peer's certificate, in this order: chain to the trust bundle, validity, use
//! and revocation (`chain.rs`); leaf rules and exactly one URI SAN (`ringwall-identity`); the exact SPIFFE ID.
//! Must not: look at DNS names, subjects or addresses. None of them is an identity here.
//! Read next: `mesh.rs`, which puts these verifiers into configurations.

use std::fmt;
use std::sync::Arc;

use ringwall_identity::svid::Svid;
use ringwall_identity::{IdentityError, SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::IdentitySource;
use crate::chain::{self, RevocationLists, Usage};
use crate::provider::provider;

/// Somebody who knows at each handshake who may connect, such as a proxy whose policy changes.
pub trait Gatekeeper: Send + Sync + fmt::Debug {
    /// Asked once the chain is verified and `peer` is read from `leaf`.
    ///
    /// # Errors
    /// Why the handshake is refused; for the log of this side alone.
    fn admit(&self, peer: &SpiffeId, leaf: &CertificateDer<'_>) -> Result<(), &'static str>;
}

/// Which workloads may connect.
#[derive(Clone, Debug)]
pub enum PeerPolicy {
    /// Exactly these; an empty list admits nobody.
    AnyOf(Vec<SpiffeId>),
    /// Every workload of this trust domain.
    AnyInTrustDomain(TrustDomain),
    /// Whoever the gatekeeper lets in.
    Asked(Arc<dyn Gatekeeper>),
}

impl PeerPolicy {
    /// Whether `peer` may connect, which has shown `leaf`.
    fn check(&self, peer: SpiffeId, leaf: &CertificateDer<'_>) -> Result<(), PeerRefused> {
        let allowed = match self {
            Self::AnyOf(ids) => ids.contains(&peer),
            Self::AnyInTrustDomain(domain) => peer.trust_domain() == domain,
            Self::Asked(gatekeeper) => {
                return gatekeeper
                    .admit(&peer, leaf)
                    .map_err(|why| PeerRefused::NotAdmitted { peer, why });
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(PeerRefused::NotACaller(peer))
        }
    }
}

/// Which end of a connection a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSide {
    /// It has dialled us.
    Caller,
    /// We have dialled it.
    Server,
}

/// Why a peer with a genuine certificate is refused. Found inside the handshake's `rustls::Error`,
/// so that the side that refuses can say in its log whom it met.
#[derive(thiserror::Error)]
pub enum PeerRefused {
    /// The certificate carries no usable workload identity.
    #[error("peer certificate refused: {0}")]
    NotAnSvid(#[from] IdentityError),
    /// Another workload answered than the one that was dialled.
    #[error("peer is {seen}, but {expected} was dialled")]
    WrongServer {
        /// Who answered.
        seen: SpiffeId,
        /// Who was meant.
        expected: SpiffeId,
    },
    /// The caller is not among those that this component serves.
    #[error("caller {0} is not among those that may connect here")]
    NotACaller(SpiffeId),
    /// The gatekeeper does not let it in.
    #[error("caller {peer} is not let in: {why}")]
    NotAdmitted {
        /// Who called.
        peer: SpiffeId,
        /// What the gatekeeper says.
        why: &'static str,
    },
}

impl PeerRefused {
    /// The workload that was refused, where its certificate was genuine.
    #[must_use]
    pub fn peer(&self) -> Option<&SpiffeId> {
        match self {
            Self::NotAnSvid(_) => None,
            Self::WrongServer { seen, .. } => Some(seen),
            Self::NotACaller(peer) | Self::NotAdmitted { peer, .. } => Some(peer),
        }
    }
}

/// Why a handshake's peer was refused, if that is why `error` came about.
#[must_use]
pub fn peer_refused(error: &std::io::Error) -> Option<&PeerRefused> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<PeerRefused>()
        }
        _ => None,
    }
}

impl fmt::Debug for PeerRefused {
    /// As `Display`: rustls prints foreign errors by `Debug`, and this one is for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The verified workload at the other end of a finished mesh handshake.
///
/// `None` before the handshake has ended, and on connections without client certificate.
#[must_use]
pub fn peer_spiffe_id(connection: &CommonState) -> Option<SpiffeId> {
    let leaf = connection.peer_certificates()?.first()?;
    Svid::from_der(leaf).ok().map(|svid| svid.id)
}

/// Verifies the server that a client has dialled: one exact identity.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) source: Arc<IdentitySource>,
    pub(crate) expected: SpiffeId,
}

/// Verifies callers of a server: an identity that the policy names.
#[derive(Debug)]
pub(crate) struct CallerVerifier {
    pub(crate) source: Arc<IdentitySource>,
    pub(crate) policy: PeerPolicy,
}

/// How a handshake's signature is checked: the same for both sides, but rustls asks for it in two
/// traits.
macro_rules! check_signatures {
    () => {
        /// Never reached: the configurations offer TLS 1.3 alone. A refusal all the same.
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General(
                "TLS 1.2 is not spoken inside the mesh".to_owned(),
            ))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &provider().signature_verification_algorithms;
            verify_tls13_signature(message, leaf, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}

/// Verifies the server that a node dials before it has an identity: roots from a file, one exact id.
#[derive(Debug)]
pub(crate) struct JoinVerifier {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) expected: SpiffeId,
}

impl ServerCertVerifier for JoinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let none = RevocationLists::default();
        chain::verify(leaf, intermediates, &self.roots, &none, Usage::Server, now)?;
        expect(identity(leaf)?, &self.expected)
    }

    check_signatures!();
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = self
            .source
            .genuine(leaf, intermediates, Usage::Server, now)?;
        expect(seen, &self.expected)
    }

    check_signatures!();
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// No hints: each workload has one certificate, and the roots may change under this reference.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let caller = self
            .source
            .genuine(leaf, intermediates, Usage::Client, now)?;
        self.policy.check(caller, leaf).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    check_signatures!();
}

impl IdentitySource {
    /// Verifies the other end of an open connection again, as the certificates and lists are now.
    /// `chain` is what rustls calls `peer_certificates`. Use: after [`IdentitySource::subscribe`] has
    /// told of a change, to end connections of peers that would not be let in any more (R34).
    ///
    /// # Errors
    /// Why the peer is not genuine any more: revoked, expired, or of a root that is no longer trusted.
    pub fn verify_peer(
        &self,
        chain: &[CertificateDer<'_>],
        side: PeerSide,
        now: UnixTime,
    ) -> Result<SpiffeId, Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let usage = match side {
            PeerSide::Caller => Usage::Client,
            PeerSide::Server => Usage::Server,
        };
        self.genuine(leaf, intermediates, usage, now)
    }

    fn genuine(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<SpiffeId, Error> {
        let material = self.material();
        let (roots, revoked) = (&material.roots, &material.revoked);
        chain::verify(leaf, intermediates, roots, revoked, usage, now)?;
        identity(leaf)
    }
}

fn expect(seen: SpiffeId, expected: &SpiffeId) -> Result<ServerCertVerified, Error> {
    if seen != *expected {
        let expected = expected.clone();
        return Err(refused(PeerRefused::WrongServer { seen, expected }));
    }
    Ok(ServerCertVerified::assertion())
}

fn identity(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    Svid::from_der(leaf)
        .map(|svid| svid.id)
        .map_err(|error| refused(error.into()))
}

fn refused(why: PeerRefused) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}
