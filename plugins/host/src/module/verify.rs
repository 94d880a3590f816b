//! Whether a module is the one that was meant.
//!
//! Owns: the pinned digest and the ed25519 signature (RFC 8032), which is detached and over the module's bytes.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, ParsedPublicKey};

use crate::error::Error;

/// What a module must show before it is compiled.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    sha256: Option<[u8; 32]>,
    keys: Vec<PublicKey>,
    signature: Option<Vec<u8>>,
}

/// An ed25519 public key.
#[derive(Debug, Clone)]
pub struct PublicKey(ParsedPublicKey);

impl PublicKey {
    /// From its 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |_| Error::BadKey(bytes.len());
        if bytes.len() != 32 {
            return Err(Error::BadKey(bytes.len()));
        }
        Ok(Self(ParsedPublicKey::new(&ED25519, bytes).map_err(wrong)?))
    }
}

impl Verification {
    /// Anything goes: for a plugin under development.
    pub fn none() -> Self {
        Self::default()
    }

    /// The module has exactly this SHA-256.
    #[must_use]
    pub fn pinned(mut self, sha256: [u8; 32]) -> Self {
        self.sha256 = Some(sha256);
        self
    }

    /// The module is signed by one of `keys`, of which there is at least one; without a signature it is refused.
    #[must_use]
    pub fn signed(mut self, keys: Vec<PublicKey>, signature: Option<Vec<u8>>) -> Self {
        self.keys = keys;
        self.signature = Some(signature.unwrap_or_default());
        self
    }

    /// Whether these bytes are what was meant; they need not be a module.
    pub fn verify(&self, bytes: &[u8]) -> Result<(), Error> {
        let digest = digest::digest(&digest::SHA256, bytes);
        self.check(bytes, digest.as_ref())
    }

    pub(super) fn check(&self, bytes: &[u8], digest: &[u8]) -> Result<(), Error> {
        if let Some(pinned) = self.sha256
            && pinned != digest
        {
            return Err(Error::DigestMismatch {
                actual: hex::encode(digest),
                pinned: hex::encode(pinned),
            });
        }
        let Some(signature) = &self.signature else {
            return Ok(());
        };
        if signature.is_empty() {
            return Err(Error::Unsigned);
        }
        let mut keys = self.keys.iter();
        if keys.any(|key| key.0.verify_sig(bytes, signature).is_ok()) {
            return Ok(());
        }
        Err(Error::BadSignature {
            keys: self.keys.len(),
        })
    }
}
