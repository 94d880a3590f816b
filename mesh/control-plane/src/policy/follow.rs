//! What happens to the policy by itself: leadership, configuration, keys, revocations.
//!
//! Owns: the beginning and the end of serving proxies, versions that come from the configuration file, signing again when
//! another key signs. Must not: give up the last good version for any reason.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use ringwall_mesh_api::v1;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::admin::{Active, Author, Origin, PolicyAdmin, compiled};
use super::refusal::Refusal;
use crate::authority::revocation::RevocationSet;
use crate::config::policy::facts;
use crate::discovery::RegisteredService;
use crate::error::Error;
use crate::registry::Registry;
use crate::store::schema::DISCOVERY;

/// How often uses are written, and what failed is tried again.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Author of versions that nobody has applied by hand.
const FILE: &str = "ringwall.yaml";
/// Revisions of one life; see [`next_base`].
const LIFE: u64 = 1 << 32;

impl PolicyAdmin {
    /// Refuses a start that would leave the mesh without any policy: the configured one is bad, and nothing is stored.
    ///
    /// # Errors
    /// The faults of the configured policy.
    pub(crate) async fn ensure_startable(&self) -> Result<(), Refusal> {
        if self.0.store.newest_version().await?.is_some() {
            return Ok(());
        }
        let declared = Arc::clone(&self.0.declared.borrow());
        declared.config.policy.bundle(&declared.registry).check()?;
        Ok(())
    }

    /// Serves proxies before anybody can ask, if this replica leads: what [`PolicyAdmin::follow`] goes on with.
    pub(crate) async fn start(&self, revocations: &RevocationSet) -> State {
        let mut state = State::default();
        if self.0.leadership.standing().is_leader {
            self.serve(&mut state, revocations).await;
        }
        state
    }

    async fn serve(&self, state: &mut State, revocations: &RevocationSet) {
        state.serving = state.tried(self.begin(revocations.wire.clone()).await);
        state.signed_by = self.0.keys.current().kid().to_owned();
    }

    /// Whether proxies get what they need from here, or from another replica.
    pub(crate) fn ensure_serving(&self) -> Result<(), String> {
        if self.0.hub.is_serving() || !self.0.leadership.standing().is_leader {
            return Ok(());
        }
        Err("the policy cannot be served to proxies; the log says why".to_owned())
    }

    /// Serves proxies while this replica leads. Ends with `stop`.
    pub(crate) async fn follow(
        self,
        mut state: State,
        mut revocations: watch::Receiver<Arc<RevocationSet>>,
        stop: impl Future<Output = ()>,
    ) {
        let mut standing = self.0.leadership.subscribe();
        let mut declared = self.0.declared.clone();
        let mut keys = self.0.keys.subscribe();
        let mut flush = interval(FLUSH_EVERY);
        let mut retry = interval(RETRY_EVERY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = std::pin::pin!(stop);
        loop {
            let leads = standing.borrow_and_update().is_leader;
            if leads && !state.serving {
                let set = Arc::clone(&revocations.borrow_and_update());
                self.serve(&mut state, &set).await;
            } else if !leads && state.serving {
                self.0.hub.step_down();
                self.flush_uses().await;
                state.serving = false;
            }
            tokio::select! {
                () = &mut stop => break,
                Ok(()) = standing.changed() => {}
                Ok(()) = declared.changed() => {
                    declared.borrow_and_update();
                    state.behind = state.serving;
                }
                Ok(()) = keys.changed() => {
                    keys.borrow_and_update();
                }
                Ok(()) = revocations.changed() => {
                    let set = Arc::clone(&revocations.borrow_and_update());
                    if state.serving {
                        self.0.hub.set_revocations(set.wire.clone());
                    }
                }
                _ = flush.tick() => self.flush_uses().await,
                _ = retry.tick(), if !state.serving || state.behind => {}
            }
            if state.serving && state.behind {
                state.behind = !state.tried(self.catch_up().await);
            }
            let kid = self.0.keys.current().kid().to_owned();
            if state.serving && kid != state.signed_by && state.tried(self.sign_again()) {
                state.signed_by = kid;
            }
        }
        self.0.hub.step_down();
        self.flush_uses().await;
    }

    /// Begins to serve proxies, with whatever policy there is.
    async fn begin(&self, revocations: v1::Revocations) -> Result<(), Refusal> {
        let base = self.next_base().await?;
        self.take_over_file().await?;
        // Whoever leads may change the policy from now on: what is read here must still be the newest when it is served.
        let _none_meanwhile = self.0.changing.lock().await;
        let stored = self.0.store.newest_version().await?;
        let mut policy = None;
        if let Some(stored) = stored {
            let active = compiled(stored).await?;
            let signed = self.sign(active.version.version, active.policy.bundle())?;
            policy = Some((signed, active.policy.bundle().edges.clone()));
            self.remember(active, &[]).await;
        } else {
            tracing::error!("there is no policy: proxies deny everything");
        }
        let services = services(&self.0.declared.borrow().registry);
        self.0.hub.lead(base, |world| {
            world.set_services(services);
            world.set_revocations(revocations);
            if let Some((signed, edges)) = policy {
                world.set_policy(signed, edges);
            }
        });
        Ok(())
    }

    /// The configuration has changed.
    async fn catch_up(&self) -> Result<(), Refusal> {
        self.0
            .hub
            .set_services(services(&self.0.declared.borrow().registry));
        self.take_over_file().await
    }

    /// A new version when the file's policy is another one than what last came from there; or, with the same, when the
    /// registry's facts in the active bundle are of yesterday. A bad one is reported, and the last good one stays.
    async fn take_over_file(&self) -> Result<(), Refusal> {
        let declared = Arc::clone(&self.0.declared.borrow());
        let json = serde_json::to_vec(&declared.config.policy)
            .map_err(|error| Refusal::Invalid(error.to_string()))?;
        let seed = hex::encode(digest(&SHA256, &json));
        let is_new = self.0.store.last_seed().await?.as_ref() != Some(&seed);
        let active = self.current().await?;
        let expected = active.as_ref().map_or(0, |active| active.version.version);
        let by = |note: &str| Author {
            name: FILE.to_owned(),
            identity: "control-plane".to_owned(),
            note: note.to_owned(),
        };
        let taken = if is_new {
            let bundle = declared.config.policy.bundle(&declared.registry);
            let origin = Origin {
                rollback_of: None,
                seed: Some(seed),
            };
            self.change(bundle, by("from the configuration file"), expected, origin)
                .await
        } else if let Some(active) = active.filter(|active| is_stale(active, &declared.registry)) {
            let bundle = active.policy.bundle().clone();
            let author = by("the registry has changed");
            self.change(bundle, author, expected, Origin::default())
                .await
        } else {
            return Ok(());
        };
        match taken {
            Ok(applied) => {
                tracing::info!(
                    version = applied.version.version,
                    "the policy follows the configuration"
                );
                Ok(())
            }
            Err(refusal @ Refusal::Policy(_)) => {
                tracing::error!(%refusal, "the configured policy is refused; the last good one serves");
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// The same content, by the key that signs now: the old key is published for a while only.
    fn sign_again(&self) -> Result<(), Refusal> {
        let Some(active) = self.active() else {
            return Ok(());
        };
        let signed = self.sign(active.version.version, active.policy.bundle())?;
        self.0
            .hub
            .set_policy(signed, active.policy.bundle().edges.clone());
        tracing::info!(
            version = active.version.version,
            "the policy is signed by another key"
        );
        Ok(())
    }

    /// A revision above all that any leader has given out: by the clock, and by what is stored, in case the clock was
    /// set back.
    async fn next_base(&self) -> Result<u64, Refusal> {
        let fence = self.0.leadership.fence()?;
        let stored = self.0.store.document(DISCOVERY).await?;
        let last = stored.as_ref().and_then(|document| {
            let text = std::str::from_utf8(&document.content).ok()?;
            text.parse::<u64>().ok()
        });
        let millis = (self.0.clock)().unix_timestamp_nanos() / 1_000_000;
        let by_clock = u64::try_from(millis).unwrap_or(0) << 20;
        let base = by_clock.max(last.unwrap_or(0).saturating_add(LIFE));
        let expected = stored.map_or(0, |document| document.revision);
        let content = base.to_string();
        let written =
            self.0
                .store
                .replace_document(DISCOVERY, expected, content.as_bytes(), Some(&fence));
        match written.await? {
            true => Ok(base),
            false => Err(Error::Conflict.into()),
        }
    }
}

/// How far the policy is served.
#[derive(Default)]
pub(crate) struct State {
    serving: bool,
    /// The configuration has changed, and not all of it was taken over.
    behind: bool,
    signed_by: String,
    failing: bool,
}

impl State {
    /// Reports a failure once.
    fn tried(&mut self, result: Result<(), Refusal>) -> bool {
        match result {
            Ok(()) => {
                self.failing = false;
                true
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!(%error, "the policy cannot be served; trying again");
                }
                self.failing = true;
                false
            }
        }
    }
}

fn is_stale(active: &Active, registry: &Registry) -> bool {
    active.policy.bundle().services != facts(registry)
}

/// What proxies are told of services.
fn services(registry: &Registry) -> Vec<RegisteredService> {
    let services = registry.services().map(|known| {
        let entry = &known.entry;
        RegisteredService {
            service: v1::Service {
                name: entry.name.to_string(),
                spiffe_id: known.id.to_string(),
                ports: entry.ports.iter().map(|port| port.wire()).collect(),
                owner: entry.owner.clone(),
                tier: entry.tier.clone(),
                traffic: entry.traffic.wire(),
                direct: entry.direct.clone(),
            },
            nodes: entry.nodes.iter().map(ToString::to_string).collect(),
        }
    });
    services.collect()
}
