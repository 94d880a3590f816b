//! Reading an X.509-SVID: which workload does this certificate name?
//!
//! Owns: the leaf rules of X509-SVID §5.2
//! (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>).
//! Must not: decide whether the certificate is genuine. The chain is verified by `ringwall-tls`
//! before anything here is believed.
//! Read next: `authority.rs`, which issues what is read here.

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::{IdentityError, SpiffeId};

/// What a leaf certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    /// The one URI among the subject alternative names.
    pub id: SpiffeId,
    /// Start of validity, to the second.
    pub not_before: OffsetDateTime,
    /// End of validity, to the second.
    pub not_after: OffsetDateTime,
}

impl Svid {
    /// Reads a leaf certificate in DER form and enforces X509-SVID §5.2: exactly one URI SAN, which
    /// is a SPIFFE ID with a path; not a CA; `digitalSignature` and neither `keyCertSign` nor
    /// `cRLSign`.
    ///
    /// # Errors
    /// [`IdentityError::Svid`] or [`IdentityError::SpiffeId`] names the rule that is broken.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Svid("not valid DER"))?;
        if !rest.is_empty() {
            return Err(IdentityError::Svid("bytes follow the certificate"));
        }
        refuse_authority(&certificate)?;
        let id = SpiffeId::parse(only_uri(&certificate)?)?;
        if !id.is_workload() {
            return Err(IdentityError::Svid("the SPIFFE ID of a leaf needs a path"));
        }
        let (not_before, not_after) = validity(&certificate);
        Ok(Self {
            id,
            not_before,
            not_after,
        })
    }
}

/// Start and end of validity of any certificate in DER form, SVID or not.
///
/// # Errors
/// [`IdentityError::Svid`] when the certificate cannot be parsed.
pub fn validity_of(der: &[u8]) -> Result<(OffsetDateTime, OffsetDateTime), IdentityError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| IdentityError::Svid("not valid DER"))?;
    Ok(validity(&certificate))
}

fn validity(certificate: &X509Certificate<'_>) -> (OffsetDateTime, OffsetDateTime) {
    let validity = certificate.validity();
    (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    )
}

/// X509-SVID §4.1 and §4.3: a leaf neither is a CA nor may sign certificates.
fn refuse_authority(certificate: &X509Certificate<'_>) -> Result<(), IdentityError> {
    const TWICE: IdentityError = IdentityError::Svid("an extension is malformed or stands twice");
    if certificate
        .basic_constraints()
        .map_err(|_| TWICE)?
        .is_some_and(|c| c.value.ca)
    {
        return Err(IdentityError::Svid("a CA certificate cannot be a leaf"));
    }
    let usage = certificate
        .key_usage()
        .map_err(|_| TWICE)?
        .ok_or(IdentityError::Svid("key usage is missing"))?
        .value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(IdentityError::Svid(
            "a leaf must not have keyCertSign or cRLSign",
        ));
    }
    if !usage.digital_signature() {
        return Err(IdentityError::Svid("a leaf needs digitalSignature"));
    }
    Ok(())
}

/// X509-SVID §2: exactly one URI SAN. Two would let each verifier pick the one that it likes.
fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, IdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Svid("subject alternative names are malformed or stand twice"))?
        .ok_or(IdentityError::Svid("there is no subject alternative name"))?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri),
        (None, _) => Err(IdentityError::Svid("there is no URI among the names")),
        (Some(_), Some(_)) => Err(IdentityError::Svid(
            "there is more than one URI among the names",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

    /// A self-signed certificate with the given URIs, changed by `change`.
    fn leaf(uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec()
    }

    fn rule(der: &[u8]) -> String {
        Svid::from_der(der).unwrap_err().to_string()
    }

    const ORDERS: &str = "spiffe://ringwall.local/orders";

    #[test]
    fn a_leaf_names_its_workload() {
        let svid = Svid::from_der(&leaf(&[ORDERS], |_| {})).unwrap();
        assert_eq!(svid.id.as_str(), ORDERS);
        assert!(svid.not_before < svid.not_after);
    }

    #[test]
    fn every_rule_for_a_leaf_refuses() {
        assert!(rule(&leaf(&[], |_| {})).contains("no subject alternative name"));
        let payments = "spiffe://ringwall.local/payments";
        assert!(rule(&leaf(&[ORDERS, payments], |_| {})).contains("more than one URI"));
        assert!(rule(&leaf(&["https://ringwall.local/x"], |_| {})).contains("begin with spiffe"));
        assert!(rule(&leaf(&["spiffe://ringwall.local"], |_| {})).contains("needs a path"));
        let dns_only = leaf(&[], |p| {
            p.subject_alt_names = vec![SanType::DnsName("orders".try_into().unwrap())];
        });
        assert!(rule(&dns_only).contains("no URI"));
        let ca = leaf(&[ORDERS], |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        });
        assert!(rule(&ca).contains("CA certificate"));
        let signer = leaf(&[ORDERS], |p| {
            p.key_usages.push(KeyUsagePurpose::KeyCertSign)
        });
        assert!(rule(&signer).contains("keyCertSign"));
        let crl = leaf(&[ORDERS], |p| p.key_usages.push(KeyUsagePurpose::CrlSign));
        assert!(rule(&crl).contains("cRLSign"));
        assert!(rule(&leaf(&[ORDERS], |p| p.key_usages.clear())).contains("key usage is missing"));
        let other = leaf(&[ORDERS], |p| {
            p.key_usages = vec![KeyUsagePurpose::KeyAgreement]
        });
        assert!(rule(&other).contains("digitalSignature"));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut der = leaf(&[ORDERS], |_| {});
        der.push(0);
        assert!(rule(&der).contains("bytes follow"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(der in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Svid::from_der(&der);
            let _ = validity_of(&der);
        }
    }
}
