//! The workload at the other end of a mutual TLS connection.
//!
//! Owns: [`Peer`], read once per handshake, and the question whether it is still believed.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use ringwall_identity::leaf::{self, Leaf};
use ringwall_identity::{IdentityError, SpiffeId};
use ringwall_tls::{IdentitySource, PeerSide};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};

use crate::snapshot::Revocations;

/// Who it is, and by what it can be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: SpiffeId,
    pub(crate) serial: Vec<u8>,
    pub(crate) spki_sha256: [u8; 32],
    pub(crate) not_after: OffsetDateTime,
    /// SHA-256 of the certificate, in hexadecimal: Envoy's `Hash`.
    pub(crate) fingerprint: Box<str>,
    /// Leaf first: to be verified again when roots or revocation lists change.
    chain: Vec<CertificateDer<'static>>,
}

impl Peer {
    /// Reads the chain that a handshake has verified.
    ///
    /// # Errors
    /// When its leaf is no SVID.
    pub(crate) fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::Svid("there is none"))?;
        let mut peer = Self::from_der(leaf)?;
        peer.chain = chain
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        Ok(peer)
    }

    /// Whether roots and revocation lists, as they are now, still speak for the peer.
    pub(crate) fn is_genuine(&self, source: &IdentitySource, side: PeerSide) -> bool {
        source
            .verify_peer(&self.chain, side, UnixTime::now())
            .is_ok()
    }

    /// Reads a leaf alone, for one look.
    ///
    /// # Errors
    /// When it is no SVID.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let leaf = Leaf::from_der(der)?;
        let mut fingerprint = String::with_capacity(64);
        for byte in digest(&SHA256, der).as_ref() {
            // Writing into a string does not fail.
            let _written = write!(fingerprint, "{byte:02x}");
        }
        let spki = digest(&SHA256, &leaf.public_key_info);
        Ok(Self {
            id: leaf.svid.id,
            serial: leaf.serial,
            spki_sha256: spki.as_ref().try_into().unwrap_or_default(),
            not_after: leaf.svid.not_after,
            chain: Vec::new(),
            fingerprint: fingerprint.into(),
        })
    }

    /// Name of the workload.
    pub(crate) fn name(&self) -> &str {
        self.id.path()
    }

    /// Subject of its certificate, where that is still at hand.
    pub(crate) fn subject(&self) -> Option<String> {
        leaf::subject(self.chain.first()?)
    }

    pub(crate) fn is_revoked(&self, revocations: &Revocations) -> bool {
        revocations.name(&self.serial, &self.id, &self.spki_sha256)
    }

    pub(crate) fn is_expired(&self, now: OffsetDateTime) -> bool {
        now >= self.not_after
    }
}
