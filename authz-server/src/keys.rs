//! Signing keys of the server: sealed on disk, rotated by age or by signal, with overlap (R12).
//!
//! The sealed file holds the key ring and the derivation key; without its seal key neither a copy
//! of the disk nor a database dump can sign or derive anything. Read next: `ringwall_token::KeyRing`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ringwall_secret::{SealKey, SecretBytes, SecretError, SecretString, sealed};
use ringwall_token::{Algorithm, JwkSet, KeyRing, SigningKey, VerifyingKeys};
use serde::Serialize;

use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::config::KeyPolicy;
use crate::error::Error;
use crate::random::{DerivationKey, random_bytes};
use crate::server::Server;

const FILE: &str = "signing-keys.sealed";
const OWNER: &str = "authz-server-signing-keys";
const RING: &str = "key-ring";
const SINCE: &str = "current-since";
const DERIVATION: &str = "derivation-key";
/// The next key is published this long before it signs: longer than any verifier keeps a key set
/// before it asks again.
const ANNOUNCED_FOR: Duration = Duration::from_secs(15 * 60);
const TEND_EVERY: Duration = Duration::from_secs(60);

/// The keys in use; readers never wait for a rotation.
pub(crate) struct Keys {
    active: ArcSwap<Active>,
    derivation: DerivationKey,
    derivation_bytes: SecretBytes,
    policy: KeyPolicy,
    file: PathBuf,
    seal: SealKey,
    /// Held while a rotation is stored.
    tending: Mutex<Tending>,
}

struct Tending {
    /// When the current key began to sign.
    since: UnixTime,
    /// Whether this process has published the next key. After a restart it publishes another one
    /// in its place, which is as good: neither has signed yet.
    announced: bool,
}

struct Active {
    ring: KeyRing,
    verifying: Arc<VerifyingKeys>,
    jwks: JwkSet,
}

impl Active {
    fn of(ring: KeyRing) -> Result<Self, Error> {
        Ok(Self {
            verifying: Arc::new(ring.verifying_keys()?),
            jwks: ring.jwks(),
            ring,
        })
    }
}

impl Keys {
    /// Opens the key file in `state`, or makes keys at the first start.
    pub(crate) fn open(
        state: &std::path::Path,
        seal: SealKey,
        policy: KeyPolicy,
        now: UnixTime,
    ) -> Result<Self, Error> {
        let file = state.join(FILE);
        let stored = if file.exists() {
            Some(read(&file, &seal)?)
        } else {
            None
        };
        let is_new = stored.is_none();
        let (ring, since, derivation_bytes) = match stored {
            Some(stored) => stored,
            None => (
                KeyRing::generate(Algorithm::Es256)?,
                now,
                SecretBytes::new(random_bytes()?.to_vec()),
            ),
        };
        let keys = Self {
            active: ArcSwap::from_pointee(Active::of(ring)?),
            derivation: DerivationKey::new(derivation_bytes.expose()),
            derivation_bytes,
            policy,
            file,
            seal,
            tending: Mutex::new(Tending {
                since,
                announced: false,
            }),
        };
        if is_new {
            keys.store(&keys.active.load().ring, since)?;
        }
        Ok(keys)
    }

    pub(crate) fn sign<C: Serialize>(&self, typ: &str, claims: &C) -> Result<String, Error> {
        Ok(self.active.load().ring.sign(typ, claims)?)
    }

    pub(crate) fn verifying(&self) -> Arc<VerifyingKeys> {
        Arc::clone(&self.active.load().verifying)
    }

    pub(crate) fn jwks(&self) -> JwkSet {
        self.active.load().jwks.clone()
    }

    pub(crate) fn derivation(&self) -> &DerivationKey {
        &self.derivation
    }

    /// What age demands: announce the next key, let it sign, drop keys whose tokens have all
    /// expired. `true` when another key signs now.
    pub(crate) fn tend(&self, now: UnixTime) -> Result<bool, Error> {
        let mut tending = self.tending.lock();
        let mut ring = self.active.load().ring.clone();
        let age = tending.since.age_at(now);
        let pruned = ring.prune(now.to_system());
        if age >= self.policy.rotate_after {
            ring.rotate(self.policy.keep_for, now.to_system())?;
            tending.announced = false;
            self.replace(ring, &mut tending, now)?;
            return Ok(true);
        }
        let due = age + ANNOUNCED_FOR >= self.policy.rotate_after;
        if due && !tending.announced {
            ring.announce(SigningKey::generate(Algorithm::Es256)?)?;
            tending.announced = true;
        } else if !pruned {
            return Ok(false);
        }
        let since = tending.since;
        self.replace(ring, &mut tending, since)?;
        Ok(false)
    }

    /// Rotates now, whatever the age: the operator's answer to a suspicion.
    pub(crate) fn rotate(&self, now: UnixTime) -> Result<(), Error> {
        let mut tending = self.tending.lock();
        let mut ring = self.active.load().ring.clone();
        ring.rotate(self.policy.keep_for, now.to_system())?;
        tending.announced = false;
        self.replace(ring, &mut tending, now)
    }

    /// On disk first: a key that signs but is lost at a crash would orphan its tokens.
    fn replace(&self, ring: KeyRing, tending: &mut Tending, since: UnixTime) -> Result<(), Error> {
        self.store(&ring, since)?;
        tending.since = since;
        self.active.store(Arc::new(Active::of(ring)?));
        Ok(())
    }

    fn store(&self, ring: &KeyRing, since: UnixTime) -> Result<(), Error> {
        let text = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        let entries = BTreeMap::from([
            (RING.to_owned(), text(ring.to_json()?.expose())),
            (SINCE.to_owned(), text(&since.seconds().to_string())),
            (DERIVATION.to_owned(), self.derivation_bytes.clone()),
        ]);
        Ok(sealed::write(&self.file, &self.seal, OWNER, &entries)?)
    }
}

fn read(file: &std::path::Path, seal: &SealKey) -> Result<(KeyRing, UnixTime, SecretBytes), Error> {
    let damaged = || {
        Error::Secret(SecretError::Format {
            path: file.to_owned(),
            why: "it is not a key file of the authorization server",
        })
    };
    let mut entries = sealed::read(file, seal, OWNER)?;
    let mut take = |name: &str| entries.remove(name).ok_or_else(damaged);
    let (ring, since, derivation) = (take(RING)?, take(SINCE)?, take(DERIVATION)?);
    let text = |bytes: &SecretBytes| String::from_utf8(bytes.expose().clone());
    let ring = SecretString::new(text(&ring).map_err(|_| damaged())?);
    let since = text(&since)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or_else(damaged)?;
    Ok((
        KeyRing::from_json(&ring)?,
        UnixTime::from_seconds(since),
        derivation,
    ))
}

/// Background work: rotation by age, and at once on SIGUSR1.
pub(crate) async fn tend_forever(server: Arc<Server>) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut tick = tokio::time::interval(TEND_EVERY);
    let mut asked = match signal(SignalKind::user_defined1()) {
        Ok(signal) => signal,
        Err(error) => {
            tracing::error!(%error, "cannot listen for the rotation signal");
            return;
        }
    };
    loop {
        let by_signal = tokio::select! {
            _ = tick.tick() => false,
            _ = asked.recv() => true,
        };
        if let Err(error) = tend_once(&server, by_signal).await {
            tracing::error!(%error, "signing keys could not be rotated");
        }
    }
}

async fn tend_once(server: &Server, by_signal: bool) -> Result<(), Error> {
    let now = server.now();
    let rotated = if by_signal {
        server.keys.rotate(now)?;
        true
    } else {
        server.keys.tend(now)?
    };
    if rotated {
        let reason = if by_signal { "by signal" } else { "by age" };
        tracing::info!(reason, "signing key rotated");
        server
            .store
            .audit(Event::new(Kind::KeysRotated).detail(reason), now)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn open(dir: &std::path::Path, seal: &SealKey, now: UnixTime) -> Result<Keys, Error> {
        Keys::open(dir, seal.clone(), KeyPolicy::default(), now)
    }

    fn kids(keys: &Keys) -> Vec<String> {
        keys.jwks().keys.into_iter().filter_map(|k| k.kid).collect()
    }

    #[test]
    fn r12_keys_rotate_by_age_with_announcement_and_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let seal = SealKey::generate().unwrap();
        let start = UnixTime::from_seconds(1_000_000);
        let keys = open(dir.path(), &seal, start).unwrap();
        let first = kids(&keys);
        assert!(!keys.tend(start.plus(DAY)).unwrap());
        let before = start.plus(30 * DAY - ANNOUNCED_FOR);
        assert!(!keys.tend(before).unwrap(), "announced, not yet signing");
        assert_eq!(kids(&keys).len(), 2);
        assert!(!keys.tend(before.plus(Duration::from_secs(60))).unwrap());
        assert_eq!(kids(&keys).len(), 2, "announced once");
        let rotated = start.plus(30 * DAY);
        assert!(keys.tend(rotated).unwrap());
        assert!(
            kids(&keys).contains(&first[0]),
            "the old key is still published"
        );
        assert!(!keys.tend(rotated.plus(DAY)).unwrap());
        assert!(
            !kids(&keys).contains(&first[0]),
            "and gone after the overlap"
        );
    }

    #[test]
    fn r12_keys_survive_a_restart_and_open_only_with_their_seal() {
        let dir = tempfile::tempdir().unwrap();
        let seal = SealKey::generate().unwrap();
        let start = UnixTime::from_seconds(1_000_000);
        let keys = open(dir.path(), &seal, start).unwrap();
        keys.rotate(start.plus(DAY)).unwrap();
        let again = open(dir.path(), &seal, start.plus(2 * DAY)).unwrap();
        assert_eq!(kids(&again), kids(&keys));
        assert_eq!(
            again.derivation().refresh_successor("x").text(),
            keys.derivation().refresh_successor("x").text()
        );
        assert!(open(dir.path(), &SealKey::generate().unwrap(), start).is_err());
    }
}
