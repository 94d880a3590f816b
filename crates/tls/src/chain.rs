//! Which certificates are genuine: chain to the trust bundle, validity, use, revocation (RFC 5280).
//!
//! Owns: the one call of webpki for both sides of the mesh, and the rules for revocation lists:
//! a certificate that a list of its issuer names is refused, at every place of the chain. A status is
//! unknown only where there is no list of that issuer, and then the certificate is believed: lists come
//! after certificates (a new intermediate, a bundle of another root). A list that is past its
//! `nextUpdate` still counts: when the control plane is away, what was revoked stays revoked.
//! Must not: look at names; `verify.rs` does.

use std::sync::Arc;

use rustls::{CertRevocationListError, CertificateError, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::provider::provider;

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// It is shown by the side that was dialled.
    Server,
    /// It is shown by the side that dials.
    Client,
}

/// Revocation lists, parsed and ready to be asked.
#[derive(Debug, Default)]
pub(crate) struct RevocationLists(Vec<CertRevocationList<'static>>);

impl RevocationLists {
    /// Parses DER lists. Their signatures are verified when one of them refuses a certificate, since
    /// only then its issuer is at hand.
    ///
    /// # Errors
    /// What webpki says about the first list that it cannot use.
    pub(crate) fn parse(lists: &[CertificateRevocationListDer<'_>]) -> Result<Self, String> {
        lists
            .iter()
            .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from))
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Whether some list names a serial number of this chain. Almost always none does, and the
    /// signatures of the lists need not be verified in every handshake.
    fn may_name(&self, leaf: &EndEntityCert<'_>, intermediates: &[CertificateDer<'_>]) -> bool {
        let named = |serial: &[u8]| {
            let found = |list: &CertRevocationList<'_>| {
                // An entry that cannot be read might be the one: ask webpki in full.
                !matches!(list.find_serial(serial), Ok(None))
            };
            self.0.iter().any(found)
        };
        named(leaf.serial())
            || intermediates.iter().any(|der| {
                EndEntityCert::try_from(der).map_or(true, |certificate| named(certificate.serial()))
            })
    }
}

/// Verifies `leaf` for `usage` against `roots`.
///
/// # Errors
/// The reason as rustls words it.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    lists: &RevocationLists,
    usage: Usage,
    now: UnixTime,
) -> Result<(), Error> {
    let certificate = EndEntityCert::try_from(leaf).map_err(refused)?;
    let lists: Vec<&CertRevocationList<'_>> = if lists.may_name(&certificate, intermediates) {
        lists.0.iter().collect()
    } else {
        Vec::new()
    };
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options
            .with_status_policy(UnknownStatusPolicy::Allow)
            .build()
    });
    let usage = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    certificate
        .verify_for_usage(
            provider().signature_verification_algorithms.all,
            &roots.roots,
            intermediates,
            now,
            usage,
            revocation,
            None,
        )
        .map(drop)
        .map_err(refused)
}

/// webpki's reason in rustls's words, so that the peer gets the alert that fits.
fn refused(error: webpki::Error) -> Error {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding.into(),
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        E::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }.into()
        }
        E::InvalidCertValidity => CertificateError::Expired.into(),
        E::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        E::CertRevoked => CertificateError::Revoked.into(),
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        E::InvalidCrlSignatureForPublicKey => CertRevocationListError::BadSignature.into(),
        E::IssuerNotCrlSigner => CertRevocationListError::IssuerInvalidForCrl.into(),
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}
