//! What tells one certificate from all others: its serial number and its public key.
//!
//! Owns: serial numbers ([`Serial`]) and the reading of serial number and key of a certificate, which
//! is how revocations name them.
//! Must not: verify anything. Read next: `svid.rs` for the name in it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::IdentityError;

/// RFC 5280 §4.1.2.2: a conforming serial number has at most 20 bytes.
const MAX_SERIAL_BYTES: usize = 20;
/// Bytes of the serial numbers that are made here.
const SERIAL_BYTES: usize = 16;

/// A certificate's serial number: a positive integer, big-endian, without leading zeros.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A random one of 126 bits: nobody can foresee the bytes that an authority will sign
    /// (CA/Browser Forum Baseline Requirements §7.1 ask for 64).
    ///
    /// # Errors
    /// [`IdentityError::Randomness`].
    pub fn random() -> Result<Self, IdentityError> {
        let mut bytes = [0; SERIAL_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IdentityError::Randomness)?;
        let [first, ..] = &mut bytes;
        // Positive, and of the same length always.
        *first = (*first & 0x3f) | 0x40;
        Ok(Self(bytes.to_vec()))
    }

    /// The number that these big-endian bytes mean.
    ///
    /// # Errors
    /// [`IdentityError::Serial`] for zero and for more than 20 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let start = bytes.iter().position(|byte| *byte != 0);
        let digits = start.and_then(|start| bytes.get(start..));
        match digits {
            Some(digits) if digits.len() <= MAX_SERIAL_BYTES => Ok(Self(digits.to_vec())),
            Some(_) => Err(IdentityError::Serial("longer than 20 bytes")),
            None => Err(IdentityError::Serial("it is zero")),
        }
    }

    /// Big-endian bytes without leading zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hexadecimal.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The serial number of a certificate in DER form.
///
/// # Errors
/// [`IdentityError::Certificate`] when it cannot be parsed, [`IdentityError::Serial`] when its number
/// is none of RFC 5280.
pub fn serial_of(der: &[u8]) -> Result<Serial, IdentityError> {
    Serial::from_bytes(parse(der)?.raw_serial())
}

/// SHA-256 of the SubjectPublicKeyInfo of a certificate in DER form (RFC 7469 §2.4).
///
/// # Errors
/// [`IdentityError::Certificate`] when it cannot be parsed.
pub fn spki_sha256_of(der: &[u8]) -> Result<[u8; 32], IdentityError> {
    Ok(sha256(parse(der)?.public_key().raw))
}

/// Every certificate in PEM text.
///
/// # Errors
/// [`IdentityError::Certificate`] when there is none, or when something else stands there.
pub fn from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    const NOT_PEM: IdentityError = IdentityError::Certificate("it is not PEM");
    let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| NOT_PEM)?;
    if found.is_empty() {
        return Err(NOT_PEM);
    }
    Ok(found)
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(IdentityError::Certificate("bytes follow it")),
        Err(_) => Err(IdentityError::Certificate("it is not X.509")),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrustDomain;
    use crate::authority::Authority;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::time::Duration;
    use time::macros::datetime;

    #[test]
    fn serials_are_positive_random_and_equally_long() {
        let serials: HashSet<_> = (0..1000).map(|_| Serial::random().unwrap()).collect();
        assert_eq!(serials.len(), 1000);
        for serial in &serials {
            assert_eq!(serial.as_bytes().len(), SERIAL_BYTES);
            assert_eq!(serial.as_bytes()[0] & 0xc0, 0x40);
        }
    }

    #[test]
    fn a_serial_has_one_spelling() {
        let serial = Serial::from_bytes(&[0, 0, 1, 2]).unwrap();
        assert_eq!(serial, Serial::from_bytes(&[1, 2]).unwrap());
        assert_eq!(serial.to_string(), "0102");
        for wrong in [&[0_u8, 0][..], &[], &[1; 21]] {
            assert!(Serial::from_bytes(wrong).is_err());
        }
        assert!(Serial::from_bytes(&[0, 0xff]).is_ok());
    }

    #[test]
    fn serial_and_key_are_read_from_a_certificate() {
        let now = datetime!(2030-01-01 12:00 UTC);
        let root = Authority::generate(&TrustDomain::parse("a.example").unwrap(), now).unwrap();
        let hour = Duration::from_secs(3600);
        let first = root.issue_client("orders", hour, now).unwrap();
        let second = root.issue_client("orders", hour, now).unwrap();
        let der = |pem: &str| from_pem(pem).unwrap().remove(0);
        let (first_der, second_der) = (der(&first.chain_pem), der(&second.chain_pem));
        assert_eq!(serial_of(&first_der).unwrap(), first.serial);
        assert_ne!(first.serial, second.serial);
        let key = |der: &[u8]| spki_sha256_of(der).unwrap();
        assert_ne!(key(&first_der), key(&second_der));
        assert!(serial_of(b"nonsense").is_err() && spki_sha256_of(b"nonsense").is_err());
        assert!(from_pem("").is_err() && from_pem("nonsense").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(der in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = serial_of(&der);
            let _ = spki_sha256_of(&der);
            let _ = Serial::from_bytes(&der);
        }
    }
}
