//! Small secrets at rest in a database, each sealed on its own under AES-256-GCM (R73).
//!
//! Owns: the format of such a value, and deriving its key from a secret of the owner.
//! Must not: know the database. Read next: `sealed.rs` for the format of whole files.
//!
//! Format, version 1: `"RWBLOB"`, one version byte, a random nonce of 12 bytes, then ciphertext and
//! tag. The additional data is the header without the nonce, followed by the purpose, so that one
//! value cannot be put in the place of another.

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use crate::{SealKey, Secret, SecretBytes, SecretError};

const MAGIC: &[u8] = b"RWBLOB\x01";
/// Shortest secret that a key is derived from: 32 characters of base64url hold 192 bits.
const MIN_SECRET_BYTES: usize = 32;

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

impl SealKey {
    /// The key for `purpose` that belongs to a high-entropy secret (HKDF-SHA256, RFC 5869).
    ///
    /// # Errors
    /// [`SecretError::TooShort`] when the secret has less than 32 bytes.
    pub fn derive(secret: &SecretBytes, purpose: &str) -> Result<Self, SecretError> {
        if secret.expose().len() < MIN_SECRET_BYTES {
            return Err(SecretError::TooShort {
                purpose: purpose.to_owned(),
                least: MIN_SECRET_BYTES,
            });
        }
        let failed = |_| SecretError::Crypto("deriving a key");
        let mut key = Zeroizing::new([0; 32]);
        Salt::new(HKDF_SHA256, b"ringwall seal key")
            .extract(secret.expose())
            .expand(&[purpose.as_bytes()], KeyLength)
            .map_err(failed)?
            .fill(key.as_mut())
            .map_err(failed)?;
        Ok(Self::from_bytes(*key))
    }

    /// Seals `plain` for `purpose`.
    ///
    /// # Errors
    /// [`SecretError::Crypto`] without randomness.
    pub fn seal(&self, purpose: &str, plain: &SecretBytes) -> Result<Vec<u8>, SecretError> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SecretError::Crypto("making a nonce"))?;
        // Encrypted where it lies: no second copy of the plain text is left behind.
        let mut text = Zeroizing::new(plain.expose().clone());
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                additional_data(purpose),
                &mut text,
            )
            .map_err(|_| SecretError::Crypto("sealing"))?;
        Ok([MAGIC, &nonce, &text, tag.as_ref()].concat())
    }

    /// Opens what [`SealKey::seal`] made for the same purpose under the same key.
    ///
    /// # Errors
    /// [`SecretError::Envelope`] for anything else.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<SecretBytes, SecretError> {
        let refuse = || SecretError::Envelope {
            purpose: purpose.to_owned(),
        };
        let rest = sealed.strip_prefix(MAGIC).ok_or_else(refuse)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(refuse)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let plain = self
            .cipher()?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                additional_data(purpose),
                &mut buffer,
            )
            .map_err(|_| refuse())?;
        Ok(Secret::new(plain.to_vec()))
    }
}

fn additional_data(purpose: &str) -> Aad<Vec<u8>> {
    Aad::from([MAGIC, purpose.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(text: &[u8]) -> SecretBytes {
        Secret::new(text.to_vec())
    }

    fn key() -> SealKey {
        SealKey::derive(&secret(&[7; 43]), "keys").unwrap()
    }

    #[test]
    fn r73_what_was_sealed_opens_again() {
        let sealed = key().seal("jwt", &secret(b"plain")).unwrap();
        assert!(!sealed.windows(5).any(|window| window == b"plain"));
        assert_eq!(key().open("jwt", &sealed).unwrap().expose(), b"plain");
        assert_ne!(sealed, key().seal("jwt", &secret(b"plain")).unwrap());
    }

    #[test]
    fn r73_another_key_purpose_or_byte_does_not_open() {
        let sealed = key().seal("jwt", &secret(b"plain")).unwrap();
        assert!(key().open("policy", &sealed).is_err());
        let other = SealKey::derive(&secret(&[8; 43]), "keys").unwrap();
        assert!(other.open("jwt", &sealed).is_err());
        let other = SealKey::derive(&secret(&[7; 43]), "others").unwrap();
        assert!(other.open("jwt", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert!(key().open("jwt", &broken).is_err(), "{at}");
        }
    }

    #[test]
    fn a_short_secret_makes_no_key() {
        let error = SealKey::derive(&secret(&[7; 31]), "keys").err().unwrap();
        assert!(error.to_string().contains("32"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_open(sealed in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(key().open("jwt", &sealed).is_err());
        }
    }
}
