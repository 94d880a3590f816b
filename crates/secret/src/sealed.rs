//! The sealed file: all secrets of one owner under AES-256-GCM (R73: one key per service).
//!
//! Owns: the format, the key, and reading and writing both.
//! Must not: cache (that is `provider.rs`), or choose where files lie.
//!
//! Format, version 1: `"RWSEAL"`, one version byte, a random nonce of 12 bytes, then ciphertext and
//! tag. The additional data is the header without the nonce, followed by the owner's name, so that
//! one service's file cannot be put in the place of another's, even under the same key. The plain
//! text is a sequence of `name length (u16) name value length (u32) value`, big-endian, by name.
//! A nonce is random for each write; a key stays far below the 2^32 writes of SP 800-38D §8.3.

use std::collections::BTreeMap;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::provider::check_name;
use crate::{Secret, SecretBytes, SecretError, SecretString, private_file};

const MAGIC: &[u8] = b"RWSEAL\x01";
const KEY_BYTES: usize = 32;

/// A 256-bit key that seals files.
#[derive(Clone)]
pub struct SealKey(Secret<[u8; KEY_BYTES]>);

impl SealKey {
    /// A new random key.
    ///
    /// # Errors
    /// [`SecretError::Crypto`] when the system gives no randomness.
    pub fn generate() -> Result<Self, SecretError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(key.as_mut()).map_err(|_| SecretError::Crypto("making a key"))?;
        Ok(Self(Secret::new(*key)))
    }

    /// Reads a key that [`SealKey::to_hex`] wrote; a trailing newline is allowed.
    ///
    /// # Errors
    /// As [`private_file::read`], and [`SecretError::SealKey`] when it is not 64 hex digits.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let text = private_file::read(path)?;
        Self::parse(text.expose(), || path.display().to_string())
    }

    /// Parses 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`SecretError::SealKey`]; the text is not in the error.
    pub fn from_hex(text: &SecretString) -> Result<Self, SecretError> {
        Self::parse(text.expose().as_bytes(), || "the given text".to_owned())
    }

    /// The key as 64 hexadecimal digits, for a file of mode 0600.
    #[must_use]
    pub fn to_hex(&self) -> SecretString {
        Secret::new(hex::encode(self.0.expose()))
    }

    fn parse(text: &[u8], place: impl Fn() -> String) -> Result<Self, SecretError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim_ascii_end(), key.as_mut())
            .map_err(|_| SecretError::SealKey { place: place() })?;
        Ok(Self(Secret::new(*key)))
    }

    pub(crate) const fn from_bytes(key: [u8; KEY_BYTES]) -> Self {
        Self(Secret::new(key))
    }

    pub(crate) fn cipher(&self) -> Result<LessSafeKey, SecretError> {
        UnboundKey::new(&AES_256_GCM, self.0.expose())
            .map(LessSafeKey::new)
            .map_err(|_| SecretError::Crypto("preparing a cipher"))
    }
}

/// Seals `secrets` for `owner` and replaces `path` atomically, mode 0600.
///
/// # Errors
/// [`SecretError::Name`] when a name is not valid, [`SecretError::Write`] when the file cannot be
/// replaced, [`SecretError::Crypto`] without randomness.
pub fn write(
    path: &Path,
    key: &SealKey,
    owner: &str,
    secrets: &BTreeMap<String, SecretBytes>,
) -> Result<(), SecretError> {
    let mut text = encode(secrets)?;
    let mut nonce = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SecretError::Crypto("making a nonce"))?;
    let tag = key
        .cipher()?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            additional_data(owner),
            &mut text,
        )
        .map_err(|_| SecretError::Crypto("sealing"))?;
    let file = [MAGIC, &nonce, &text, tag.as_ref()].concat();
    private_file::write(path, &file)
}

/// Opens the sealed file at `path`, which must have been sealed with `key` for `owner`.
///
/// # Errors
/// As [`private_file::read`]; [`SecretError::Format`] for a file of another kind,
/// [`SecretError::Unseal`] for a wrong key, a wrong owner or changed bytes.
pub fn read(
    path: &Path,
    key: &SealKey,
    owner: &str,
) -> Result<BTreeMap<String, SecretBytes>, SecretError> {
    let file = private_file::read(path)?;
    let wrong = |why| SecretError::Format {
        path: path.to_owned(),
        why,
    };
    let rest = file
        .expose()
        .strip_prefix(MAGIC)
        .ok_or_else(|| wrong("the header is not the one that is expected"))?;
    let (nonce, sealed) = rest
        .split_first_chunk::<NONCE_LEN>()
        .ok_or_else(|| wrong("the file is cut short"))?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let plain = key
        .cipher()?
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            additional_data(owner),
            &mut buffer,
        )
        .map_err(|_| SecretError::Unseal {
            path: path.to_owned(),
            owner: owner.to_owned(),
        })?;
    decode(plain).ok_or_else(|| wrong("the content is not a list of secrets"))
}

fn additional_data(owner: &str) -> Aad<Vec<u8>> {
    Aad::from([MAGIC, owner.as_bytes()].concat())
}

fn encode(secrets: &BTreeMap<String, SecretBytes>) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let size = secrets
        .iter()
        .map(|(name, value)| 6 + name.len() + value.expose().len())
        .sum();
    let mut text = Zeroizing::new(Vec::with_capacity(size));
    for (name, value) in secrets {
        check_name(name)?;
        let too_long = |_| SecretError::Crypto("sealing: a value is longer than 4 GiB");
        // A checked name has at most 64 bytes.
        text.extend_from_slice(&u16::try_from(name.len()).map_err(too_long)?.to_be_bytes());
        text.extend_from_slice(name.as_bytes());
        let value = value.expose();
        text.extend_from_slice(&u32::try_from(value.len()).map_err(too_long)?.to_be_bytes());
        text.extend_from_slice(value);
    }
    Ok(text)
}

fn decode(mut text: &[u8]) -> Option<BTreeMap<String, SecretBytes>> {
    let mut secrets = BTreeMap::new();
    while !text.is_empty() {
        let (length, rest) = text.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (value, rest) = rest.split_at_checked(length)?;
        secrets.insert(
            String::from_utf8(name.to_vec()).ok()?,
            Secret::new(value.to_vec()),
        );
        text = rest;
    }
    Some(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn secrets() -> BTreeMap<String, SecretBytes> {
        [
            ("api-key", b"value-of-key".to_vec()),
            ("pepper", vec![0, 255, 10]),
        ]
        .map(|(name, value)| (name.to_owned(), Secret::new(value)))
        .into()
    }

    fn sealed() -> (tempfile::TempDir, PathBuf, SealKey) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.sealed");
        let key = SealKey::generate().unwrap();
        write(&path, &key, "orders", &secrets()).unwrap();
        (dir, path, key)
    }

    fn refusal(path: &Path, key: &SealKey, owner: &str) -> String {
        read(path, key, owner).err().unwrap().to_string()
    }

    #[test]
    fn what_is_sealed_opens_for_its_owner() {
        let (_dir, path, key) = sealed();
        let opened = read(&path, &key, "orders").unwrap();
        assert_eq!(opened.len(), 2);
        assert!(opened["api-key"].ct_eq(b"value-of-key"));
        assert!(opened["pepper"].ct_eq(&[0, 255, 10]));
        let file = std::fs::read(&path).unwrap();
        assert!(
            !file.windows(7).any(|w| w == b"api-key" || w == b"value-o"),
            "nothing is clear"
        );
    }

    #[test]
    fn another_key_or_owner_is_refused() {
        let (_dir, path, key) = sealed();
        assert!(refusal(&path, &key, "payments").contains("cannot be unsealed"));
        let other = SealKey::generate().unwrap();
        assert!(refusal(&path, &other, "orders").contains("cannot be unsealed"));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (_dir, path, key) = sealed();
        let file = std::fs::read(&path).unwrap();
        for position in 0..file.len() {
            let mut changed = file.clone();
            changed[position] ^= 1;
            private_file::write(&path, &changed).unwrap();
            assert!(read(&path, &key, "orders").is_err(), "byte {position}");
        }
        for length in [0, 6, 7, 18, 19, file.len() - 1] {
            private_file::write(&path, &file[..length]).unwrap();
            assert!(read(&path, &key, "orders").is_err(), "length {length}");
        }
    }

    #[test]
    fn two_seals_of_the_same_text_differ() {
        let (_dir, path, key) = sealed();
        let first = std::fs::read(&path).unwrap();
        write(&path, &key, "orders", &secrets()).unwrap();
        assert_ne!(first, std::fs::read(&path).unwrap());
    }

    #[test]
    fn names_are_checked_before_anything_is_written() {
        let (_dir, path, key) = sealed();
        let before = std::fs::read(&path).unwrap();
        let bad = BTreeMap::from([("../x".to_owned(), Secret::new(vec![1]))]);
        assert!(matches!(
            write(&path, &key, "orders", &bad),
            Err(SecretError::Name(_))
        ));
        assert_eq!(before, std::fs::read(&path).unwrap());
    }

    #[test]
    fn keys_survive_their_file_and_refuse_others() {
        let (dir, path, key) = sealed();
        let file = dir.path().join("orders.seal-key");
        let text = format!("{}\n", key.to_hex().expose());
        private_file::write(&file, text.as_bytes()).unwrap();
        assert!(read(&path, &SealKey::from_file(&file).unwrap(), "orders").is_ok());
        assert!(SealKey::from_hex(&key.to_hex()).is_ok());
        for bad in ["", "zz", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            private_file::write(&file, bad.as_bytes()).unwrap();
            let error = SealKey::from_file(&file).err().unwrap();
            assert!(
                matches!(error, SecretError::SealKey { .. }),
                "{bad:?}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_content_round_trips(
            pairs in proptest::collection::btree_map(
                "[a-z0-9-]{1,64}",
                proptest::collection::vec(any::<u8>(), 0..100),
                0..6,
            )
        ) {
            let secrets: BTreeMap<_, _> =
                pairs.iter().map(|(n, v)| (n.clone(), Secret::new(v.clone()))).collect();
            let decoded = decode(&encode(&secrets).unwrap()).unwrap();
            prop_assert_eq!(decoded.len(), pairs.len());
            for (name, value) in &pairs {
                prop_assert!(decoded[name].ct_eq(value));
            }
        }

        #[test]
        fn arbitrary_plain_text_never_panics(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&text);
        }
    }
}
