//! Who is no longer believed (R34).
//!
//! Owns: the set of revocations as everybody gets it, with the revocation lists (RFC 5280 §5) signed
//! for it; reading it again after each change, ours or another replica's.
//! Must not: forget. A set that cannot be read leaves the last one in force.
//! Read next: `authority/trust.rs` (how agents get it); proxies get [`RevocationSet::wire`] as the
//! resource `revocations`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::{Serial, SpiffeId};
use ringwall_mesh_api::v1;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use super::audit::Audit;
use super::issuer::{Issuer, Material};
use crate::Clock;
use crate::error::Error;
use crate::store::Store;
use crate::store::model::{Revocation, RevocationState, Target};

/// How often other replicas' changes are looked for: well within the second that a revocation may
/// take from end to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a list says that it is current.
const LIST_LIFE: time::Duration = time::Duration::hours(24);
/// Age at which a list is signed again.
const LIST_RENEWED: time::Duration = time::Duration::hours(6);
/// Revocations that are kept. Every proxy holds all of them.
const MAX_REVOCATIONS: usize = 10_000;

/// All revocations of one revision. Immutable; cheap to share.
#[derive(Debug, Default)]
pub(crate) struct RevocationSet {
    pub(crate) ids: HashSet<SpiffeId>,
    pub(crate) serials: HashSet<Serial>,
    pub(crate) keys: HashSet<[u8; 32]>,
    /// One list for each authority whose certificates are around; the first is the one in use.
    pub(crate) lists: Vec<Vec<u8>>,
    /// The whole set as agents and proxies get it.
    pub(crate) wire: v1::Revocations,
    signed_at: Option<OffsetDateTime>,
}

/// The set in force, kept up to date.
pub(crate) struct Revocations {
    store: Arc<dyn Store>,
    issuer: Arc<Issuer>,
    audit: Audit,
    clock: Clock,
    current: watch::Sender<Arc<RevocationSet>>,
    changed: Notify,
    /// One reading at a time, so that an older one never overtakes a newer one.
    reading: tokio::sync::Mutex<()>,
}

impl Revocations {
    /// Reads the set; without it, nobody would be refused.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        issuer: Arc<Issuer>,
        audit: Audit,
        clock: Clock,
    ) -> Result<Arc<Self>, Error> {
        let revocations = Arc::new(Self {
            store,
            issuer,
            audit,
            clock,
            current: watch::Sender::new(Arc::default()),
            changed: Notify::new(),
            reading: tokio::sync::Mutex::new(()),
        });
        revocations.read().await?;
        Ok(revocations)
    }

    pub(crate) fn current(&self) -> Arc<RevocationSet> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells of every change: pushed to agents, to proxies, and to our own listeners.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<RevocationSet>> {
        self.current.subscribe()
    }

    /// Revokes, and has told everybody in this process when it returns.
    pub(crate) async fn revoke(
        &self,
        target: Target,
        reason: String,
        by: &str,
    ) -> Result<u64, Error> {
        let set = self.current();
        if set.ids.len() + set.serials.len() + set.keys.len() >= MAX_REVOCATIONS {
            return Err(Error::TooMany(format!(
                "there are {MAX_REVOCATIONS} revocations already"
            )));
        }
        let revocation = Revocation {
            target,
            at: (self.clock)(),
            reason,
        };
        let revision = self.store.revoke(&revocation, by).await?;
        self.audit
            .revoked(&revocation.target, &revocation.reason, by);
        self.after_change().await;
        Ok(revision)
    }

    /// Lifts the revocation of an id.
    pub(crate) async fn restore(&self, id: &SpiffeId, by: &str) -> Result<u64, Error> {
        let restored = self.store.restore(id, by, (self.clock)()).await?;
        let revision = restored.ok_or_else(|| Error::Missing(format!("{id} is not revoked")))?;
        self.audit.restored(id, by);
        self.after_change().await;
        Ok(revision)
    }

    /// Durable already: when reading fails now, the loop reads again soon.
    async fn after_change(&self) {
        if let Err(error) = self.read().await {
            tracing::error!(%error, "cannot read the revocations after a change; trying again");
            self.changed.notify_one();
        }
    }

    /// Reads the set whole and publishes it.
    pub(crate) async fn read(&self) -> Result<(), Error> {
        let _one = self.reading.lock().await;
        let now = (self.clock)();
        let state = self.store.revocations(now).await?;
        let set = RevocationSet::of(&state, &self.issuer.current(), now)?;
        self.audit.revocations_in_force(state.entries.len());
        self.current.send_replace(Arc::new(set));
        Ok(())
    }

    /// Follows the store, the intermediate and the clock for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut issuer = self.issuer.subscribe();
        let mut failing = false;
        loop {
            let due = tokio::select! {
                _ = ticks.tick() => self.is_behind().await,
                () = self.changed.notified() => Ok(true),
                Ok(()) = issuer.changed() => Ok(true),
            };
            let result = match due {
                Ok(true) => self.read().await,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => failing = false,
                // Once per outage: this looks five times a second.
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, "cannot read the revocations; the last ones stay in force");
                }
                Err(_) => {}
            }
        }
    }

    async fn is_behind(&self) -> Result<bool, Error> {
        let set = self.current();
        if set.is_stale((self.clock)()) {
            return Ok(true);
        }
        Ok(self.store.revisions().await?.revocations != set.wire.revision)
    }
}

impl RevocationSet {
    /// The set of `state`, with its lists signed by every authority of `material`.
    fn of(
        state: &RevocationState,
        material: &Material,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        let mut set = Self {
            signed_at: Some(now),
            ..Self::default()
        };
        for revocation in &state.entries {
            match &revocation.target {
                Target::SpiffeId(id) => {
                    set.ids.insert(id.clone());
                }
                Target::Serial(serial) => {
                    set.serials.insert(serial.clone());
                }
                Target::Spki(hash) => {
                    set.keys.insert(*hash);
                }
            }
        }
        // Grows with every list, of all replicas, as far as their clocks agree.
        let number = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let authorities = std::iter::once(&material.intermediate).chain(&material.previous);
        for authority in authorities {
            let list = authority.sign_crl(&state.serials, number, now, now + LIST_LIFE)?;
            set.lists.push(list);
        }
        let mut ids: Vec<_> = set.ids.iter().map(ToString::to_string).collect();
        let mut serials: Vec<_> = set.serials.iter().map(|s| s.as_bytes().to_vec()).collect();
        let mut keys: Vec<_> = set.keys.iter().map(|hash| hash.to_vec()).collect();
        ids.sort();
        serials.sort();
        keys.sort();
        set.wire = v1::Revocations {
            revision: state.revision,
            crl: set.lists.first().cloned().unwrap_or_default(),
            serials,
            spiffe_ids: ids,
            spki_sha256: keys,
            previous_crls: set.lists.iter().skip(1).cloned().collect(),
        };
        Ok(set)
    }

    /// Whether the lists should be signed again: they age, and a clock that was set back makes them
    /// come from the future.
    fn is_stale(&self, now: OffsetDateTime) -> bool {
        self.signed_at
            .is_none_or(|at| now >= at + LIST_RENEWED || now + time::Duration::HOUR < at)
    }
}
