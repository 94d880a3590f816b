//! Signing keys over time: one signs, the next one is announced, old ones are still published.
//!
//! Owns: rotation with overlap (R12). Announce a key at least one key set lifetime before it signs,
//! and keep the old one published until its last token has expired: then no verifier ever meets a
//! key that it does not know.
//! Must not: read a clock or store itself; callers keep [`KeyRing::to_json`] sealed or 0600.

use std::time::{Duration, SystemTime};

use ringwall_secret::{Secret, SecretString};
use serde::{Deserialize, Serialize};

use crate::jws::Algorithm;
use crate::{JwkSet, SigningKey, TokenError, VerifyingKeys};

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct KeyRing {
    current: SigningKey,
    next: Option<SigningKey>,
    retiring: Vec<Retiring>,
}

/// A key that signs no more but is published until `until`.
#[derive(Clone, Debug)]
struct Retiring {
    key: SigningKey,
    until: SystemTime,
}

impl KeyRing {
    /// A ring with one key.
    #[must_use]
    pub const fn new(current: SigningKey) -> Self {
        Self {
            current,
            next: None,
            retiring: Vec::new(),
        }
    }

    /// A ring with one new key.
    ///
    /// # Errors
    /// As [`SigningKey::generate`].
    pub fn generate(algorithm: Algorithm) -> Result<Self, TokenError> {
        SigningKey::generate(algorithm).map(Self::new)
    }

    /// The key that signs now.
    #[must_use]
    pub const fn current(&self) -> &SigningKey {
        &self.current
    }

    /// Signs with the current key. See [`SigningKey::sign`].
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    pub fn sign<C: Serialize>(&self, typ: &str, claims: &C) -> Result<String, TokenError> {
        self.current.sign(typ, claims)
    }

    /// Every published public key: current, announced and retiring.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        let retiring = self.retiring.iter().map(|old| &old.key);
        let keys = std::iter::once(&self.current)
            .chain(&self.next)
            .chain(retiring);
        JwkSet {
            keys: keys.map(SigningKey::public_jwk).collect(),
        }
    }

    /// The same keys, ready to verify this issuer's own tokens.
    ///
    /// # Errors
    /// Never in practice: the ring's own keys are usable and distinct.
    pub fn verifying_keys(&self) -> Result<VerifyingKeys, TokenError> {
        VerifyingKeys::from_jwks(&self.jwks())
    }

    /// Whether a key is announced that does not sign yet.
    #[must_use]
    pub const fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Publishes `next` before it signs.
    ///
    /// # Errors
    /// [`TokenError::KeySet`] when its kid stands in the ring already.
    pub fn announce(&mut self, next: SigningKey) -> Result<(), TokenError> {
        if self
            .jwks()
            .keys
            .iter()
            .any(|jwk| jwk.kid.as_deref() == Some(next.kid()))
        {
            return Err(TokenError::KeySet("two keys have the same kid".to_owned()));
        }
        self.next = Some(next);
        Ok(())
    }

    /// Makes the announced key (or a new one of the same algorithm) the current one. The old one
    /// stays published for `overlap`, which must be the longest lifetime of a token it signed.
    ///
    /// # Errors
    /// As [`SigningKey::generate`]; the ring is then unchanged.
    pub fn rotate(&mut self, overlap: Duration, now: SystemTime) -> Result<(), TokenError> {
        let next = match self.next.take() {
            Some(next) => next,
            None => SigningKey::generate(self.current.algorithm())?,
        };
        let key = std::mem::replace(&mut self.current, next);
        self.prune(now);
        self.retiring.push(Retiring {
            key,
            until: now + overlap,
        });
        Ok(())
    }

    /// Forgets keys whose overlap has ended; `true` when there were any.
    pub fn prune(&mut self, now: SystemTime) -> bool {
        let before = self.retiring.len();
        self.retiring.retain(|old| old.until > now);
        self.retiring.len() != before
    }

    /// The whole ring with its private keys, to be kept sealed or 0600 by the caller.
    ///
    /// # Errors
    /// [`TokenError::Sign`] when it cannot be written as JSON.
    pub fn to_json(&self) -> Result<SecretString, TokenError> {
        let stored = StoredRing {
            current: StoredKey::of(&self.current, None),
            next: self.next.as_ref().map(|key| StoredKey::of(key, None)),
            retiring: self
                .retiring
                .iter()
                .map(|old| StoredKey::of(&old.key, Some(old.until)))
                .collect(),
        };
        serde_json::to_string(&stored)
            .map(Secret::new)
            .map_err(|error| TokenError::Sign(error.to_string()))
    }

    /// Reads what [`KeyRing::to_json`] wrote.
    ///
    /// # Errors
    /// [`TokenError::Key`] or [`TokenError::KeySet`] when it is something else; no key is quoted.
    pub fn from_json(json: &SecretString) -> Result<Self, TokenError> {
        let stored: StoredRing = serde_json::from_str(json.expose())
            .map_err(|_| TokenError::KeySet("it is not a stored key ring".to_owned()))?;
        let ring = Self {
            current: stored.current.key()?,
            next: stored.next.as_ref().map(StoredKey::key).transpose()?,
            retiring: stored
                .retiring
                .iter()
                .map(|old| {
                    let until = old
                        .until
                        .ok_or(TokenError::Key("a retiring key has no end"))?;
                    Ok(Retiring {
                        key: old.key()?,
                        until,
                    })
                })
                .collect::<Result<_, TokenError>>()?,
        };
        ring.verifying_keys()?;
        Ok(ring)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRing {
    current: StoredKey,
    next: Option<StoredKey>,
    retiring: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    kid: String,
    alg: Algorithm,
    pkcs8_pem: Pem,
    until: Option<SystemTime>,
}

/// Key text on its way to or from storage, wiped when dropped. Private, so that only the two
/// functions above can serialise a key.
struct Pem(SecretString);

impl Serialize for Pem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for Pem {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

impl StoredKey {
    fn of(key: &SigningKey, until: Option<SystemTime>) -> Self {
        Self {
            kid: key.kid().to_owned(),
            alg: key.algorithm(),
            pkcs8_pem: Pem(key.to_pkcs8_pem()),
            until,
        }
    }

    fn key(&self) -> Result<SigningKey, TokenError> {
        SigningKey::from_pkcs8_pem(&self.kid, self.alg, &self.pkcs8_pem.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: SystemTime = SystemTime::UNIX_EPOCH;
    const MINUTE: Duration = Duration::from_secs(60);

    fn kids(ring: &KeyRing) -> Vec<String> {
        ring.jwks()
            .keys
            .into_iter()
            .map(|jwk| jwk.kid.unwrap())
            .collect()
    }

    #[test]
    fn r12_rotation_overlaps() {
        let mut ring = KeyRing::generate(Algorithm::Es256).unwrap();
        let first = ring.current().kid().to_owned();
        let next = SigningKey::generate(Algorithm::Es256).unwrap();
        let second = next.kid().to_owned();
        ring.announce(next).unwrap();
        assert_eq!(ring.current().kid(), first, "announced, not yet signing");
        assert_eq!(kids(&ring), [first.clone(), second.clone()]);
        ring.rotate(MINUTE, T0).unwrap();
        assert_eq!(ring.current().kid(), second);
        assert_eq!(
            kids(&ring),
            [second.clone(), first.clone()],
            "the old key is still published"
        );
        assert!(!ring.prune(T0 + MINUTE - Duration::from_secs(1)));
        assert!(ring.prune(T0 + MINUTE));
        assert_eq!(kids(&ring), std::slice::from_ref(&second));
        ring.rotate(MINUTE, T0).unwrap();
        assert_ne!(
            ring.current().kid(),
            second,
            "without announcement, a new key is made"
        );
    }

    #[test]
    fn a_key_is_announced_once() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let mut ring = KeyRing::new(key.clone());
        assert!(ring.announce(key).is_err());
    }

    #[test]
    fn a_stored_ring_signs_and_publishes_the_same() {
        let mut ring = KeyRing::generate(Algorithm::Es256).unwrap();
        ring.rotate(MINUTE, T0).unwrap();
        ring.announce(SigningKey::generate(Algorithm::EdDsa).unwrap())
            .unwrap();
        let again = KeyRing::from_json(&ring.to_json().unwrap()).unwrap();
        assert_eq!(again.jwks(), ring.jwks());
        let token = again.sign("JWT", &serde_json::json!({"a": 1})).unwrap();
        let keys = ring.verifying_keys().unwrap();
        assert!(crate::verify_bytes(&token, &keys, "JWT", 1000).is_ok());
    }

    #[test]
    fn a_damaged_ring_is_refused_without_quoting_it() {
        let stored = KeyRing::generate(Algorithm::Es256)
            .unwrap()
            .to_json()
            .unwrap();
        let swapped = stored.expose().replace("ES256", "RS256");
        let cut = stored.expose().replace("PRIVATE KEY", "PUBLIC KEY");
        for bad in ["", "{}", &swapped, &cut] {
            let error = KeyRing::from_json(&Secret::new(bad.to_owned())).unwrap_err();
            assert!(!error.to_string().contains("MIG"), "{error}");
        }
        let debug = format!("{:?}", KeyRing::from_json(&stored).unwrap());
        assert!(!debug.contains("PRIVATE"), "{debug}");
    }
}
