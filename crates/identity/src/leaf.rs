//! What a verifier needs of a peer's leaf beyond its name: how it may be revoked, and when it ends.
//!
//! Owns: serial number and public key of an X.509-SVID. Must not: decide whether the certificate is genuine (as in
//! `svid.rs`), or hash: callers have the vetted cryptography.

use x509_parser::certificate::X509Certificate;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::FromDer;

use crate::IdentityError;
use crate::svid::Svid;

/// A leaf certificate, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Who it names, and from when to when.
    pub svid: Svid,
    /// Serial number, big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// SubjectPublicKeyInfo, DER (RFC 5280 §4.1.2.7).
    pub public_key_info: Vec<u8>,
}

impl Leaf {
    /// Reads a leaf certificate in DER form under the rules of [`Svid::from_der`].
    ///
    /// # Errors
    /// As [`Svid::from_der`].
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let svid = Svid::from_der(der)?;
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Svid("not valid DER"))?;
        let serial = certificate.raw_serial();
        let zeros = serial.iter().take_while(|byte| **byte == 0).count();
        Ok(Self {
            svid,
            serial: serial.get(zeros..).unwrap_or_default().to_vec(),
            public_key_info: certificate.public_key().raw.to_vec(),
        })
    }
}

/// The subject of a certificate in DER form, as RFC 2253 §2 writes it: the last part first.
#[must_use]
pub fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let parts: Vec<String> = certificate
        .subject()
        .iter_rdn()
        .map(|part| {
            let values = part.iter().map(|one| {
                let oid = one.attr_type();
                let name = oid2abbrev(oid, oid_registry())
                    .map_or_else(|_| oid.to_id_string(), str::to_owned);
                format!("{name}={}", escaped(one.as_str().unwrap_or_default()))
            });
            values.collect::<Vec<_>>().join("+")
        })
        .collect();
    Some(parts.into_iter().rev().collect::<Vec<_>>().join(","))
}

/// RFC 2253 §2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (place, char) in value.chars().enumerate() {
        let edge = (char == ' ' && (place == 0 || place == last)) || (char == '#' && place == 0);
        if edge || ",+\"\\<>;".contains(char) {
            out.push('\\');
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType};

    #[test]
    fn serial_and_key_are_those_of_the_certificate() {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(
            "spiffe://ringwall.local/orders".try_into().unwrap(),
        )];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(vec![0xf0, 1, 2].into());
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let leaf = Leaf::from_der(&der).unwrap();
        assert_eq!(leaf.svid.id.path(), "orders");
        // DER puts a zero before 0xf0, since integers are signed; a list of revoked numbers does not.
        assert_eq!(leaf.serial, [0xf0, 1, 2]);
        assert_eq!(leaf.public_key_info, key.subject_public_key_info());
    }

    #[test]
    fn a_subject_is_written_with_its_last_part_first() {
        let mut params = CertificateParams::default();
        params.distinguished_name = crate::issue::subject("a, \"b\"");
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(subject(&der).unwrap(), r#"CN=a\, \"b\",O=Ringwall"#);
        assert_eq!(subject(b"no certificate"), None);
    }

    #[test]
    fn what_is_no_svid_is_no_leaf() {
        assert!(Leaf::from_der(b"").is_err());
        let key = KeyPair::generate().unwrap();
        let nameless = CertificateParams::default().self_signed(&key).unwrap();
        assert!(Leaf::from_der(nameless.der()).is_err());
    }
}
