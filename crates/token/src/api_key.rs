//! API keys between workloads: never alone, always with the caller's mTLS identity (R20).
//!
//! Owns: the text of a key, its keyed hash at rest, and the check of caller, scope and end.
//! Must not: store a key. The ring holds HMAC-SHA-256 under a pepper that lives with the secrets, so
//! that neither a configuration file nor a stolen pepper alone gives a key.
//!
//! Rotation overlaps by having two entries for one caller until the old one's `not_after`.

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use ringwall_identity::SpiffeId;
use ringwall_secret::{Secret, SecretBytes, SecretString};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::TokenError;
use crate::jws::{decode, encode};

const PREFIX: &str = "rwk_";
const SECRET_BYTES: usize = 32;
const MAX_ID_BYTES: usize = 32;
/// A pepper shorter than the hash would be the weakest part (RFC 2104 §3).
const MIN_PEPPER_BYTES: usize = 32;

/// The public name of a key: 1 to 32 of a-z, 0-9 and '-'. It may stand in logs.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct KeyId(String);

/// One key that is accepted, as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyEntry {
    /// The key's name.
    pub id: KeyId,
    /// HMAC-SHA-256 of the whole key text under the pepper, 64 hex digits (see [`hash`]).
    pub hash: String,
    /// The only workload that may use the key.
    pub caller: SpiffeId,
    /// What the key allows.
    pub scopes: BTreeSet<String>,
    /// End of the key, RFC 3339; without it the key has no end.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>")]
    pub not_after: Option<OffsetDateTime>,
}

/// The keys that a component accepts.
pub struct ApiKeyRing {
    pepper: hmac::Key,
    entries: Vec<Checked>,
}

struct Checked {
    entry: ApiKeyEntry,
    hash: [u8; SECRET_BYTES],
}

/// Why an API key is refused. For logs; clients learn only that the API key layer refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// Not the text of a key.
    #[error("API key is malformed")]
    Malformed,
    /// No such key, or the right name with a wrong secret.
    #[error("API key is not known")]
    Unknown,
    /// The key has ended.
    #[error("API key {0} has expired")]
    Expired(KeyId),
    /// A genuine key in the hands of another workload: a stolen key.
    #[error("API key {id} belongs to {owner}, but {caller} presented it")]
    WrongCaller {
        /// The key.
        id: KeyId,
        /// Whose it is.
        owner: SpiffeId,
        /// Who presented it.
        caller: SpiffeId,
    },
    /// The key does not allow this.
    #[error("API key {id} does not allow {scope:?}")]
    Scope {
        /// The key.
        id: KeyId,
        /// What was asked for.
        scope: String,
    },
}

/// A new key named `id`: `rwk_<id>_<43 characters of base64url>`.
///
/// # Errors
/// [`TokenError::Key`] when the system gives no randomness.
pub fn generate(id: &KeyId) -> Result<SecretString, TokenError> {
    let mut random = [0; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| TokenError::Key("it could not be generated"))?;
    let random = Secret::new(random);
    Ok(Secret::new(format!(
        "{PREFIX}{id}_{}",
        encode(random.expose())
    )))
}

/// What an [`ApiKeyEntry`] stores of `key`: HMAC-SHA-256 under `pepper`, in hex.
#[must_use]
pub fn hash(pepper: &SecretBytes, key: &SecretString) -> String {
    let pepper = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose());
    hex::encode(hmac::sign(&pepper, key.expose().as_bytes()))
}

impl ApiKeyRing {
    /// A ring over `entries`, whose hashes were made with `pepper`.
    ///
    /// # Errors
    /// [`TokenError::Key`] when the pepper is shorter than 32 bytes, a hash is not 64 hex digits, or
    /// two entries have the same id.
    pub fn new(pepper: &SecretBytes, entries: Vec<ApiKeyEntry>) -> Result<Self, TokenError> {
        if pepper.expose().len() < MIN_PEPPER_BYTES {
            return Err(TokenError::Key(
                "the pepper of API keys is shorter than 32 bytes",
            ));
        }
        let mut ids = BTreeSet::new();
        let mut checked = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut hash = [0; SECRET_BYTES];
            hex::decode_to_slice(&entry.hash, &mut hash)
                .map_err(|_| TokenError::Key("an API key's hash is not 64 hex digits"))?;
            if !ids.insert(entry.id.clone()) {
                return Err(TokenError::Key("two API keys have the same id"));
            }
            checked.push(Checked { entry, hash });
        }
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose());
        Ok(Self {
            pepper,
            entries: checked,
        })
    }

    /// Checks that `presented` is a key of `caller` that allows `scope` at `now`.
    ///
    /// The key is found by its id; the rest is compared in constant time, with the same work for an
    /// id that is not known.
    ///
    /// # Errors
    /// [`ApiKeyError`] says which check failed.
    pub fn verify(
        &self,
        presented: &str,
        caller: &SpiffeId,
        scope: &str,
        now: SystemTime,
    ) -> Result<&KeyId, ApiKeyError> {
        let id = id_of(presented).ok_or(ApiKeyError::Malformed)?;
        let found = self.entries.iter().find(|one| one.entry.id.0 == id);
        // HMAC output for a stand-in that nobody can present: it has no preimage that we know.
        let hash = found.map_or([0; SECRET_BYTES], |one| one.hash);
        let matches = hmac::verify(&self.pepper, presented.as_bytes(), &hash).is_ok();
        let entry = match found {
            Some(one) if matches => &one.entry,
            _ => return Err(ApiKeyError::Unknown),
        };
        if entry.not_after.is_some_and(|end| end <= now) {
            return Err(ApiKeyError::Expired(entry.id.clone()));
        }
        if entry.caller != *caller {
            return Err(ApiKeyError::WrongCaller {
                id: entry.id.clone(),
                owner: entry.caller.clone(),
                caller: caller.clone(),
            });
        }
        if !entry.scopes.contains(scope) {
            return Err(ApiKeyError::Scope {
                id: entry.id.clone(),
                scope: scope.to_owned(),
            });
        }
        Ok(&entry.id)
    }
}

/// The id in a key's text, if the text has the form of a key.
fn id_of(key: &str) -> Option<&str> {
    const SECRET_CHARS: usize = 43;
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let well_formed = KeyId::is_valid(id)
        && secret.len() == SECRET_CHARS
        && decode(secret).is_ok_and(|bytes| Secret::new(bytes).expose().len() == SECRET_BYTES);
    well_formed.then_some(id)
}

impl KeyId {
    /// Parses a key's name.
    ///
    /// # Errors
    /// [`TokenError::Key`] when it is not 1 to 32 of a-z, 0-9 and '-'.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if Self::is_valid(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenError::Key(
                "an API key's id must be 1 to 32 of a-z, 0-9 and '-'",
            ))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(allowed)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for KeyId {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        Self::parse(&text)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn workload(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
    }

    fn pepper() -> SecretBytes {
        Secret::new(vec![7; 32])
    }

    fn entry(id: &str, key: &SecretString, not_after: Option<OffsetDateTime>) -> ApiKeyEntry {
        ApiKeyEntry {
            id: KeyId::parse(id).unwrap(),
            hash: hash(&pepper(), key),
            caller: workload("orders"),
            scopes: BTreeSet::from(["items:read".to_owned()]),
            not_after,
        }
    }

    fn key(id: &str) -> SecretString {
        generate(&KeyId::parse(id).unwrap()).unwrap()
    }

    fn one() -> (SecretString, ApiKeyRing) {
        let key = key("orders-1");
        let ring = ApiKeyRing::new(&pepper(), vec![entry("orders-1", &key, None)]).unwrap();
        (key, ring)
    }

    #[test]
    fn r20_the_right_key_of_the_right_caller_passes() {
        let (key, ring) = one();
        let id = ring
            .verify(key.expose(), &workload("orders"), "items:read", NOW)
            .unwrap();
        assert_eq!(id.as_str(), "orders-1");
        assert!(key.expose().starts_with("rwk_orders-1_"));
    }

    #[test]
    fn r20_key_from_another_workload_is_denied() {
        let (key, ring) = one();
        let error = ring.verify(key.expose(), &workload("payments"), "items:read", NOW);
        assert!(matches!(error, Err(ApiKeyError::WrongCaller { .. })));
        let foreign = SpiffeId::parse("spiffe://other.example/orders").unwrap();
        let error = ring.verify(key.expose(), &foreign, "items:read", NOW);
        assert!(matches!(error, Err(ApiKeyError::WrongCaller { .. })));
    }

    #[test]
    fn r20_scope_is_exact() {
        let (key, ring) = one();
        for scope in ["stock:reserve", "items", "", "items:read "] {
            let error = ring.verify(key.expose(), &workload("orders"), scope, NOW);
            assert!(matches!(error, Err(ApiKeyError::Scope { .. })), "{scope:?}");
        }
    }

    #[test]
    fn r20_rotation_overlaps_until_the_old_key_ends() {
        let end = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(100);
        let (old, new) = (key("orders-1"), key("orders-2"));
        let entries = vec![
            entry("orders-1", &old, Some(end)),
            entry("orders-2", &new, None),
        ];
        let ring = ApiKeyRing::new(&pepper(), entries).unwrap();
        let check = |key: &SecretString, seconds| {
            let now = NOW + Duration::from_secs(seconds);
            ring.verify(key.expose(), &workload("orders"), "items:read", now)
                .map(drop)
        };
        assert_eq!((check(&old, 99), check(&new, 99)), (Ok(()), Ok(())));
        assert!(matches!(check(&old, 100), Err(ApiKeyError::Expired(_))));
        assert_eq!(check(&new, 100), Ok(()));
    }

    #[test]
    fn r20_every_changed_character_is_refused() {
        let (key, ring) = one();
        for position in 0..key.expose().len() {
            let mut changed = key.expose().clone().into_bytes();
            changed[position] = if changed[position] == b'x' {
                b'y'
            } else {
                b'x'
            };
            let changed = String::from_utf8(changed).unwrap();
            let result = ring.verify(&changed, &workload("orders"), "items:read", NOW);
            assert!(result.is_err(), "position {position}");
        }
    }

    #[test]
    fn a_key_under_another_name_or_pepper_is_unknown() {
        let (key, ring) = one();
        let renamed = key.expose().replace("orders-1", "orders-9");
        let result = ring.verify(&renamed, &workload("orders"), "items:read", NOW);
        assert_eq!(result, Err(ApiKeyError::Unknown));
        let other = Secret::new(vec![8; 32]);
        let ring = ApiKeyRing::new(&other, vec![entry("orders-1", &key, None)]).unwrap();
        let result = ring.verify(key.expose(), &workload("orders"), "items:read", NOW);
        assert_eq!(result, Err(ApiKeyError::Unknown));
    }

    #[test]
    fn rings_that_cannot_be_safe_are_refused() {
        let key = key("a");
        let short = Secret::new(vec![7; 31]);
        assert!(ApiKeyRing::new(&short, vec![]).is_err());
        let twice = vec![entry("a", &key, None), entry("a", &key, None)];
        assert!(ApiKeyRing::new(&pepper(), twice).is_err());
        let clear = ApiKeyEntry {
            hash: key.expose().clone(),
            ..entry("a", &key, None)
        };
        assert!(ApiKeyRing::new(&pepper(), vec![clear]).is_err());
    }

    #[test]
    fn entries_are_strict_configuration() {
        let text = format!(
            r#"{{"id":"orders-1","hash":"{}","caller":"spiffe://ringwall.local/orders",
                "scopes":["items:read"],"not_after":"2030-01-01T00:00:00Z"}}"#,
            "0".repeat(64)
        );
        let entry: ApiKeyEntry = serde_json::from_str(&text).unwrap();
        assert_eq!(entry.not_after.unwrap().year(), 2030);
        for (from, to) in [
            ("orders-1", "Orders_1"),
            ("spiffe://", "https://"),
            ("\"scopes\"", "\"key\":\"rwk\",\"scopes\""),
            ("2030-01-01T00:00:00Z", "soon"),
        ] {
            let bad = text.replace(from, to);
            assert!(serde_json::from_str::<ApiKeyEntry>(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_refused_and_never_panics(text in "(rwk_)?\\PC{0,80}") {
            let (_, ring) = one();
            prop_assert!(ring.verify(&text, &workload("orders"), "items:read", NOW).is_err());
        }
    }
}
