//! Requests for a certificate (PKCS#10, RFC 2986): a public key and the proof that its private half
//! is there.
//!
//! Owns: making a key with such a request ([`NewKey`]), and reading one ([`Request`]).
//! Must not: take a name, an extension or an attribute from a request. Who somebody is, the authority
//! knows; a request says only with which key.
//! Read next: `intermediate.rs`, which certifies the key.

use std::fmt;

use rcgen::{CertificateParams, KeyPair, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::IdentityError;
use crate::certificate::sha256;

/// Longest request that is looked at, in bytes. One for a P-256 key has about 200.
const MAX_REQUEST_BYTES: usize = 4096;

/// A fresh P-256 key with the request that proves it.
pub struct NewKey {
    /// PKCS#8 DER. A secret.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// PKCS#10 DER.
    pub request: Vec<u8>,
}

/// A public key whose private half the sender has proved to hold.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) key: SubjectPublicKeyInfo,
    spki_sha256: [u8; 32],
}

impl NewKey {
    /// Makes both.
    ///
    /// # Errors
    /// [`IdentityError::Issue`] when the library cannot.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok(Self {
            pkcs8: Zeroizing::new(key.serialize_der()),
            request: request.der().to_vec(),
        })
    }
}

impl fmt::Debug for NewKey {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").finish_non_exhaustive()
    }
}

impl Request {
    /// Reads a request in DER form and checks its signature by the key that it brings.
    ///
    /// # Errors
    /// [`IdentityError::Request`] names the rule that is broken: size, form, kind of key (ECDSA on
    /// P-256 with SHA-256, or Ed25519), or the proof of possession.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let refuse = |rule| Err(IdentityError::Request(rule));
        if der.len() > MAX_REQUEST_BYTES {
            return refuse("longer than 4096 bytes");
        }
        let request = match X509CertificationRequest::from_der(der) {
            Ok(([], request)) => request,
            Ok(_) => return refuse("bytes follow it"),
            Err(_) => return refuse("not PKCS#10 in DER form"),
        };
        let key = &request.certification_request_info.subject_pki;
        let algorithm = &key.algorithm.algorithm;
        let signature = &request.signature_algorithm.algorithm;
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|p| p.as_oid().ok());
        let p256 = *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve.is_some_and(|curve| curve == OID_EC_P256)
            && *signature == OID_SIG_ECDSA_WITH_SHA256;
        let ed25519 = *algorithm == OID_SIG_ED25519 && *signature == OID_SIG_ED25519;
        if !p256 && !ed25519 {
            return refuse("its key is neither ECDSA P-256 nor Ed25519");
        }
        if request.verify_signature().is_err() {
            return refuse("its signature is not by the key that it brings");
        }
        let spki = SubjectPublicKeyInfo::from_der(key.raw)
            .map_err(|_| IdentityError::Request("its key cannot be read"))?;
        Ok(Self {
            spki_sha256: sha256(key.raw),
            key: spki,
        })
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo: the certificate will have the same.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, IsCa, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

    fn refusal(der: &[u8]) -> String {
        Request::from_der(der).unwrap_err().to_string()
    }

    fn request_of(key: &KeyPair) -> Vec<u8> {
        let request = CertificateParams::default().serialize_request(key).unwrap();
        request.der().to_vec()
    }

    #[test]
    fn a_new_key_proves_itself() {
        let new = NewKey::generate().unwrap();
        let request = Request::from_der(&new.request).unwrap();
        assert_ne!(request.spki_sha256(), [0; 32]);
        assert!(!format!("{new:?}").contains("pkcs8"));
    }

    #[test]
    fn ed25519_is_taken_and_other_keys_are_not() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        assert!(Request::from_der(&request_of(&key)).is_ok());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(refusal(&request_of(&key)).contains("neither ECDSA P-256 nor Ed25519"));
    }

    #[test]
    fn names_and_extensions_are_read_past() {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(
            "spiffe://ringwall.local/payments".try_into().unwrap(),
        )];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params.serialize_request(&key).unwrap().der().to_vec();
        assert!(Request::from_der(&der).is_ok());
    }

    #[test]
    fn attack_a_key_without_proof_is_refused() {
        let mine = request_of(&KeyPair::generate().unwrap());
        // Somebody else's public key, taken from a certificate that everybody sees.
        let (theirs, mine_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut forged = request_of(&mine_key);
        let at = forged
            .windows(65)
            .position(|window| window == mine_key.public_key_raw())
            .unwrap();
        forged[at..at + 65].copy_from_slice(theirs.public_key_raw());
        assert!(refusal(&forged).contains("signature"));
        let mut broken = mine.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert!(Request::from_der(&broken).is_err());
        assert!(refusal(&[mine, vec![0]].concat()).contains("bytes follow"));
        assert!(refusal(&[0; 5000]).contains("longer"));
        assert!(refusal(b"nonsense").contains("PKCS#10"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(der in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Request::from_der(&der).is_err());
        }

        #[test]
        fn a_changed_byte_is_never_accepted_as_another_key(at in 0_usize..200, flip in 1_u8..) {
            let new = NewKey::generate().unwrap();
            let good = Request::from_der(&new.request).unwrap();
            let mut der = new.request.clone();
            let at = at % der.len();
            der[at] ^= flip;
            if let Ok(request) = Request::from_der(&der) {
                prop_assert_eq!(request.spki_sha256(), good.spki_sha256());
            }
        }
    }
}
