//! The keys that sign JWT-SVIDs and policy bundles: one ring for all replicas, sealed in the store.
//!
//! Owns: rotation by age with announcement and overlap (the leader does it), and following what the
//! leader has stored.
//! Must not: let a key into the store in the clear. Tokens survive restarts because the ring does.
//! Read next: `ringwall_token::KeyRing`.

use std::sync::Arc;
use std::time::Duration;

use ringwall_secret::{SealKey, Secret, SecretBytes, SecretError};
use ringwall_token::{Algorithm, KeyRing, SigningKey, TokenError};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::Clock;
use crate::error::Error;
use crate::leader::Leadership;
use crate::store::Store;
use crate::store::model::Fence;
use crate::store::schema::JWT_KEYS;

/// What the sealed document is for: another one cannot be put in its place.
const PURPOSE: &str = "control-plane jwt-keys";
/// The next key is published this long before it signs: longer than agents and verifiers keep a key
/// set before they have the new one.
const ANNOUNCED_FOR: Duration = Duration::from_secs(15 * 60);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Attempts at the first start, when replicas race to make the first ring.
const ATTEMPTS: u32 = 5;

/// The keys in use; readers never wait for a rotation.
pub(crate) struct JwtKeys {
    store: Arc<dyn Store>,
    seal: SealKey,
    life: Duration,
    current: watch::Sender<Arc<Active>>,
}

/// One state of the ring.
#[derive(Debug)]
pub(crate) struct Active {
    ring: KeyRing,
    /// The published keys: JWKS (RFC 7517) as JSON.
    pub(crate) jwks: Vec<u8>,
    /// When the current key began to sign.
    since: OffsetDateTime,
    revision: u64,
}

impl Active {
    fn of(ring: KeyRing, since: OffsetDateTime, revision: u64) -> Result<Self, Error> {
        Ok(Self {
            jwks: serde_json::to_vec(&ring.jwks())
                .map_err(|error| TokenError::Sign(error.to_string()))?,
            ring,
            since,
            revision,
        })
    }

    /// The key that signs now: what was signed by another one should be signed again.
    pub(crate) fn kid(&self) -> &str {
        self.ring.current().kid()
    }
}

impl JwtKeys {
    /// Opens the ring in `store`, or makes the first one. `life` is the age at which another key
    /// signs; the old one stays published for as long again.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        seal: SealKey,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        for _ in 0..ATTEMPTS {
            let active = match read(&*store, &seal).await? {
                Some(active) => active,
                None => {
                    let ring = KeyRing::generate(Algorithm::Es256)?;
                    let content = sealed(&ring, now, &seal)?;
                    // Of replicas that start at once, one makes the ring and the others read it.
                    if !store.replace_document(JWT_KEYS, 0, &content, None).await? {
                        continue;
                    }
                    Active::of(ring, now, 1)?
                }
            };
            return Ok(Self {
                store,
                seal,
                life,
                current: watch::Sender::new(Arc::new(active)),
            });
        }
        Err(Error::Conflict)
    }

    /// Signs claims as a token of type `typ`.
    pub(crate) fn sign<C: Serialize>(&self, typ: &str, claims: &C) -> Result<String, Error> {
        let payload =
            serde_json::to_vec(claims).map_err(|error| TokenError::Sign(error.to_string()))?;
        self.sign_bytes(typ, &payload)
    }

    /// Signs any payload as a JWS of type `typ`, such as a policy bundle.
    pub(crate) fn sign_bytes(&self, typ: &str, payload: &[u8]) -> Result<String, Error> {
        Ok(self.current().ring.current().sign_bytes(typ, payload)?)
    }

    pub(crate) fn current(&self) -> Arc<Active> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells of every change of the published keys and of the key that signs.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Active>> {
        self.current.subscribe()
    }

    /// What age demands: announce the next key, let it sign, drop keys whose overlap is over. `true`
    /// when the ring has changed.
    pub(crate) async fn tend(&self, now: OffsetDateTime, fence: &Fence) -> Result<bool, Error> {
        let active = self.current();
        let mut ring = active.ring.clone();
        let system = std::time::SystemTime::from(now);
        let age = (now - active.since)
            .max(time::Duration::ZERO)
            .unsigned_abs();
        let announced = ring.has_next();
        let mut since = active.since;
        let pruned = ring.prune(system);
        if age >= self.life {
            ring.rotate(self.life, system)?;
            since = now;
        } else if age + ANNOUNCED_FOR >= self.life && !announced {
            ring.announce(SigningKey::generate(Algorithm::Es256)?)?;
        } else if !pruned {
            return Ok(false);
        }
        let content = sealed(&ring, since, &self.seal)?;
        // Stored first: a key that signs but is lost at a crash would orphan its tokens.
        let stored = self
            .store
            .replace_document(JWT_KEYS, active.revision, &content, Some(fence))
            .await?;
        if !stored {
            return Err(Error::Conflict);
        }
        let next = Active::of(ring, since, active.revision + 1)?;
        tracing::info!(
            kid = next.kid(),
            "the keys of tokens and policies have changed"
        );
        self.current.send_replace(Arc::new(next));
        Ok(true)
    }

    /// Takes over what another replica has stored; `true` when it was something new.
    pub(crate) async fn refresh(&self) -> Result<bool, Error> {
        let stored = self.store.revisions().await?.jwt_keys;
        if stored == self.current().revision {
            return Ok(false);
        }
        let Some(active) = read(&*self.store, &self.seal).await? else {
            return Ok(false);
        };
        self.current.send_replace(Arc::new(active));
        Ok(true)
    }

    /// Tends or follows the ring for ever.
    pub(crate) async fn follow(self: Arc<Self>, leadership: Arc<Leadership>, clock: Clock) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut failing = false;
        loop {
            ticks.tick().await;
            let result = match self.refresh().await {
                Ok(_) => match leadership.fence() {
                    Ok(fence) => self.tend(clock(), &fence).await,
                    Err(_) => Ok(false),
                },
                Err(error) => Err(error),
            };
            match result {
                Ok(_) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, "the keys of tokens cannot be tended; those in use sign on");
                }
                Err(_) => {}
            }
        }
    }
}

/// `since` in Unix seconds, a line feed, and the ring.
fn sealed(ring: &KeyRing, since: OffsetDateTime, seal: &SealKey) -> Result<Vec<u8>, Error> {
    let json = ring.to_json()?;
    let mut text = Vec::with_capacity(json.expose().len() + 24);
    text.extend(since.unix_timestamp().to_string().as_bytes());
    text.push(b'\n');
    text.extend(json.expose().as_bytes());
    Ok(seal.seal(PURPOSE, &SecretBytes::new(text))?)
}

async fn read(store: &dyn Store, seal: &SealKey) -> Result<Option<Active>, Error> {
    let Some(document) = store.document(JWT_KEYS).await? else {
        return Ok(None);
    };
    let plain = seal.open(PURPOSE, &document.content)?;
    let damaged = || SecretError::Envelope {
        purpose: PURPOSE.to_owned(),
    };
    let text = std::str::from_utf8(plain.expose()).map_err(|_| damaged())?;
    let (since, json) = text.split_once('\n').ok_or_else(damaged)?;
    let since = since
        .parse()
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(damaged)?;
    let ring = KeyRing::from_json(&Secret::new(json.to_owned()))?;
    Active::of(ring, since, document.revision).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;
    use ringwall_token::{JwkSet, VerifyingKeys};
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn fence() -> Fence {
        Fence {
            holder: "a".to_owned(),
            epoch: 1,
        }
    }

    fn seal(byte: u8) -> SealKey {
        SealKey::derive(&SecretBytes::new(vec![byte; 43]), "test").unwrap()
    }

    fn store(folder: &std::path::Path) -> Arc<dyn Store> {
        Arc::new(Embedded::open(&folder.join("db")).unwrap())
    }

    fn kids(keys: &JwtKeys) -> Vec<String> {
        let jwks: JwkSet = serde_json::from_slice(&keys.current().jwks).unwrap();
        jwks.keys.into_iter().filter_map(|key| key.kid).collect()
    }

    #[tokio::test]
    async fn keys_rotate_by_age_with_announcement_and_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let keys = JwtKeys::open(store(folder.path()), seal(1), DAY, START)
            .await
            .unwrap();
        let first = keys.current().kid().to_owned();
        assert!(!keys.tend(START + DAY / 2, &fence()).await.unwrap());
        let before = START + DAY - ANNOUNCED_FOR;
        assert!(keys.tend(before, &fence()).await.unwrap());
        assert_eq!(keys.current().kid(), first, "announced, not yet signing");
        assert_eq!(kids(&keys).len(), 2);
        assert!(
            !keys.tend(before, &fence()).await.unwrap(),
            "announced once"
        );
        assert!(keys.tend(START + DAY, &fence()).await.unwrap());
        assert_ne!(keys.current().kid(), first);
        assert!(kids(&keys).contains(&first), "still published");
        let over = START + 2 * DAY;
        assert!(keys.tend(over, &fence()).await.unwrap());
        assert!(!kids(&keys).contains(&first), "gone after the overlap");
    }

    #[tokio::test]
    async fn tokens_survive_a_restart_and_the_store_shows_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let keys = JwtKeys::open(Arc::clone(&store), seal(1), DAY, START)
            .await
            .unwrap();
        let jws = keys.sign_bytes("ringwall-policy", b"bundle").unwrap();
        drop(keys);
        let again = JwtKeys::open(Arc::clone(&store), seal(1), DAY, START + DAY / 3)
            .await
            .unwrap();
        let jwks: JwkSet = serde_json::from_slice(&again.current().jwks).unwrap();
        let verifying = VerifyingKeys::from_jwks(&jwks).unwrap();
        let verified =
            ringwall_token::verify_bytes(&jws, &verifying, "ringwall-policy", 4096).unwrap();
        assert_eq!(verified.payload, b"bundle");
        let stored = store.document(JWT_KEYS).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&stored.content);
        assert!(!text.contains("PRIVATE") && !text.contains(again.current().kid()));
        let other = JwtKeys::open(store, seal(2), DAY, START).await;
        assert!(
            other
                .err()
                .unwrap()
                .to_string()
                .contains("cannot be opened")
        );
    }

    #[tokio::test]
    async fn replicas_follow_each_other_and_only_one_rotates() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let open = || JwtKeys::open(Arc::clone(&store), seal(1), DAY, START);
        let (first, second) = (open().await.unwrap(), open().await.unwrap());
        assert_eq!(first.current().kid(), second.current().kid());
        let later = START + DAY;
        assert!(first.tend(later, &fence()).await.unwrap());
        let late = second.tend(later, &fence()).await;
        assert!(matches!(late, Err(Error::Conflict)), "{late:?}");
        assert!(second.refresh().await.unwrap());
        assert!(!second.refresh().await.unwrap());
        assert_eq!(first.current().kid(), second.current().kid());
    }
}
