//! What can be done with the policy.
//!
//! Owns: the operations, one after the other where they change something. Must not: know HTTP.
//! Read next: `answers.rs` (what can be asked), `follow.rs`, `api.rs`.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_mesh_api::v1;
use ringwall_policy::Fault;
use ringwall_policy::mesh::administration::{
    Applied, MAX_AUTHOR, MAX_NOTE, Version, VersionWithBundle,
};
use ringwall_policy::mesh::{
    Bundle, BundleDiff, JWS_TYPE, MeshPolicy, SignedBundle, edge_use, limits,
};
use ringwall_service::Metrics;
use tokio::sync::watch;

use super::refusal::Refusal;
use super::usage::Usage;
use crate::Clock;
use crate::authority::jwt_keys::JwtKeys;
use crate::config::policy::facts;
use crate::discovery::{Hub, UsageSink};
use crate::error::Error;
use crate::leader::Leadership;
use crate::registry::reload::Declared;
use crate::store::Store;
use crate::store::model::AuditEntry;
use crate::store::policy::{NewVersion, StoredVersion};

/// Who changes something: by their own word, and by certificate.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    pub(crate) name: String,
    pub(crate) identity: String,
    pub(crate) note: String,
}

/// What makes a change a special one.
#[derive(Default)]
pub(super) struct Origin {
    /// The version whose content it has again.
    pub(super) rollback_of: Option<u64>,
    /// Digest of the configuration file's policy, when it comes from there.
    pub(super) seed: Option<String>,
}

/// A bundle that may become a version.
struct Judged {
    policy: MeshPolicy,
    json: String,
    digest: String,
    diff: BundleDiff,
}

/// A compiled version.
pub(crate) struct Active {
    pub(super) version: Version,
    pub(super) policy: MeshPolicy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<JwtKeys>,
    pub(super) leadership: Arc<Leadership>,
    pub(super) hub: Hub,
    pub(super) declared: watch::Receiver<Arc<Declared>>,
    pub(super) clock: Clock,
    pub(super) usage: Usage,
    active: RwLock<Option<Arc<Active>>>,
    /// One change at a time; the store decides between replicas.
    pub(super) changing: tokio::sync::Mutex<()>,
    active_version: Gauge,
    changes: Family<Outcome, Counter>,
}

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct PolicyAdmin(pub(super) Arc<Inner>);

impl PolicyAdmin {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        keys: Arc<JwtKeys>,
        leadership: Arc<Leadership>,
        hub: Hub,
        declared: watch::Receiver<Arc<Declared>>,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            keys,
            leadership,
            hub,
            declared,
            clock,
            usage: Usage::default(),
            active: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            active_version: Gauge::default(),
            changes: Family::default(),
        }))
    }

    pub(crate) fn register(&self, metrics: &Metrics) {
        let inner = &self.0;
        metrics.register(
            "policy_version",
            "Active version of the policy",
            inner.active_version.clone(),
        );
        metrics.register(
            "policy_changes",
            "Changes of the policy by outcome",
            inner.changes.clone(),
        );
    }

    /// Takes what proxies report.
    pub(crate) fn usage_sink(&self) -> UsageSink {
        let usage = self.0.usage.clone();
        Arc::new(move |_, uses| usage.add(uses))
    }

    /// The active version; compiled again when another replica has made it.
    pub(super) async fn current(&self) -> Result<Option<Arc<Active>>, Refusal> {
        let Some(stored) = self.0.store.newest_version().await? else {
            return Ok(None);
        };
        let cached = self.0.active.read().clone();
        match cached.filter(|active| active.version == stored.version) {
            Some(active) => Ok(Some(active)),
            None => compiled(stored).await.map(|active| Some(Arc::new(active))),
        }
    }

    /// The whole way of a proposal. `expected` is the version that its author has seen.
    pub(crate) async fn apply(
        &self,
        bundle: Bundle,
        author: Author,
        expected: u64,
    ) -> Result<Applied, Refusal> {
        self.change(bundle, author, expected, Origin::default())
            .await
    }

    /// Makes a new version with the content of an old one. It is checked like any other: services may have gone since.
    pub(crate) async fn rollback(
        &self,
        to: u64,
        author: Author,
        expected: u64,
    ) -> Result<Applied, Refusal> {
        let old = self.version(to).await?;
        let origin = Origin {
            rollback_of: Some(to),
            seed: None,
        };
        self.change(old.bundle, author, expected, origin).await
    }

    /// Goes on to its end when nobody waits for it any more: stored and not pushed would be half of a change.
    pub(super) async fn change(
        &self,
        bundle: Bundle,
        author: Author,
        expected: u64,
        origin: Origin,
    ) -> Result<Applied, Refusal> {
        let admin = self.clone();
        let change =
            async move { Box::pin(admin.change_alone(bundle, author, expected, origin)).await };
        tokio::spawn(change).await.map_err(|error| failed(&error))?
    }

    async fn change_alone(
        &self,
        bundle: Bundle,
        author: Author,
        expected: u64,
        origin: Origin,
    ) -> Result<Applied, Refusal> {
        let _one = self.0.changing.lock().await;
        let subject = format!("policy {}", expected.saturating_add(1));
        let changed = self.changed(bundle, &author, expected, origin).await;
        let outcome = match &changed {
            Ok(applied) if applied.changed => "applied",
            Ok(_) => "unchanged",
            Err(refusal) => refusal.reason(),
        };
        self.0.changes.get_or_create(&Outcome { outcome }).inc();
        if let Err(refusal) = &changed {
            self.audit_refusal(&author, subject, refusal).await;
        }
        changed
    }

    async fn changed(
        &self,
        bundle: Bundle,
        author: &Author,
        expected: u64,
        origin: Origin,
    ) -> Result<Applied, Refusal> {
        author.check()?;
        let fence = self.0.leadership.fence()?;
        let active = self.current().await?;
        let current = active.as_ref().map_or(0, |active| active.version.version);
        if current != expected {
            return Err(Refusal::Conflict { expected, current });
        }
        let judged = self.judge(bundle, active.clone()).await?;
        let (diff, warnings) = (judged.diff, judged.policy.warnings().to_vec());
        let same = active.filter(|active| active.version.digest == judged.digest);
        if let Some(active) = same.filter(|_| origin.seed.is_none()) {
            return Ok(self.applied(active.version.clone(), false, diff, warnings));
        }
        let version = Version {
            version: expected + 1,
            digest: judged.digest,
            author: author.name.clone(),
            identity: author.identity.clone(),
            at: (self.0.clock)(),
            note: author.note.clone(),
            previous: expected,
            rollback_of: origin.rollback_of,
        };
        // Signed before it is stored: what cannot be signed cannot be pushed.
        let signed = self.sign(version.version, judged.policy.bundle())?;
        let new = NewVersion {
            version: version.clone(),
            bundle: judged.json,
            seed: origin.seed,
        };
        if !self.0.store.add_version(&new, &fence).await? {
            let newest = self.0.store.newest_version().await?;
            let current = newest.map_or(0, |newest| newest.version.version);
            return Err(Refusal::Conflict { expected, current });
        }
        told(&version);
        let next = Active {
            version: version.clone(),
            policy: judged.policy,
        };
        self.activate(next, signed, &diff).await;
        Ok(self.applied(version, true, diff, warnings))
    }

    /// Parses nothing any more: validates, runs the examples, compares.
    async fn judge(
        &self,
        mut bundle: Bundle,
        active: Option<Arc<Active>>,
    ) -> Result<Judged, Refusal> {
        // Facts are the registry's, whatever a proposal says of them.
        bundle.services = facts(&self.0.declared.borrow().registry);
        let json =
            serde_json::to_string(&bundle).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if json.len() > limits::BUNDLE_BYTES {
            let limit = limits::BUNDLE_BYTES;
            return Err(Refusal::Invalid(format!(
                "the bundle has more than {limit} bytes"
            )));
        }
        blocking(move || {
            let policy = bundle.check()?;
            Ok(Judged {
                diff: difference(active.as_deref(), &policy),
                digest: hex::encode(digest(&SHA256, json.as_bytes())),
                policy,
                json,
            })
        })
        .await?
    }

    fn applied(
        &self,
        version: Version,
        changed: bool,
        diff: BundleDiff,
        warnings: Vec<Fault>,
    ) -> Applied {
        Applied {
            proxies: self.spread(version.version),
            version,
            changed,
            diff,
            warnings,
        }
    }

    /// The signed form of a version.
    pub(super) fn sign(&self, version: u64, bundle: &Bundle) -> Result<v1::SignedPolicy, Refusal> {
        let payload = SignedBundle {
            version,
            bundle: bundle.clone(),
        };
        let payload =
            serde_json::to_vec(&payload).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let jws = self.0.keys.sign_bytes(JWS_TYPE, &payload)?;
        Ok(v1::SignedPolicy { version, jws })
    }

    /// Makes a stored version the one that proxies get.
    async fn activate(&self, active: Active, signed: v1::SignedPolicy, diff: &BundleDiff) {
        let edges = active.policy.bundle().edges.clone();
        self.remember(active, &diff.policies_changed).await;
        self.0.hub.set_policy(signed, edges);
    }

    /// Serves questions by this version, and counts the uses of its grants; those of `anew` from zero.
    pub(super) async fn remember(&self, active: Active, anew: &[String]) {
        let names = countable(&active.policy);
        self.0.usage.expect(&names);
        let expected = self
            .0
            .store
            .expect_uses(&names, anew, (self.0.clock)())
            .await;
        if let Err(error) = expected {
            tracing::error!(%error, "uses of the policy are not counted anew");
        }
        let version = i64::try_from(active.version.version).unwrap_or(i64::MAX);
        self.0.active_version.set(version);
        *self.0.active.write() = Some(Arc::new(active));
    }

    pub(super) fn active(&self) -> Option<Arc<Active>> {
        self.0.active.read().clone()
    }

    pub(super) async fn flush_uses(&self) {
        let uses = self.0.usage.take();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.0.store.add_uses(&uses).await {
            tracing::error!(%error, "uses of the policy are not written; trying again");
            self.0.usage.put_back(uses);
        }
    }

    async fn audit_refusal(&self, author: &Author, subject: String, refusal: &Refusal) {
        let (author, identity) = (author.name.as_str(), author.identity.as_str());
        tracing::warn!(target: "audit", event = "policy_refused", author, identity, %refusal, "policy refused");
        let entry = AuditEntry {
            at: (self.0.clock)(),
            event: "policy_refused".to_owned(),
            actor: format!(
                "{} ({identity})",
                author.chars().take(MAX_AUTHOR).collect::<String>()
            ),
            subject,
            serial: None,
            reason: refusal.to_string().chars().take(MAX_NOTE).collect(),
        };
        if let Err(error) = self.0.store.audit(&entry).await {
            tracing::error!(%error, "a refusal could not be written to the audit log");
        }
    }
}

impl Author {
    fn check(&self) -> Result<(), Refusal> {
        let long = self.name.len() > MAX_AUTHOR || self.note.len() > MAX_NOTE;
        // Both are shown on terminals and in one line of a log.
        let control = [&self.name, &self.note].map(|text| text.contains(char::is_control));
        if long || self.name.is_empty() || control.contains(&true) {
            let rule = "an author has 1 to 64 printable bytes, a note at most 500";
            return Err(Refusal::Invalid(rule.to_owned()));
        }
        Ok(())
    }
}

fn told(version: &Version) {
    tracing::info!(
        target: "audit",
        event = "policy_applied",
        version = version.version,
        author = version.author,
        identity = version.identity,
        rollback_of = version.rollback_of,
        digest = version.digest,
        "policy applied"
    );
}

/// Everything that is counted of a bundle.
fn countable(policy: &MeshPolicy) -> Vec<String> {
    let edges = policy.bundle().edges.iter();
    let edges = edges.map(|edge| edge_use(&edge.caller, &edge.callee));
    let ids = policy.policy_ids().into_iter().map(str::to_owned);
    let mut names: Vec<String> = ids.chain(edges).collect();
    names.sort_unstable();
    names.dedup();
    names
}

pub(super) fn difference(active: Option<&Active>, next: &MeshPolicy) -> BundleDiff {
    match active {
        Some(active) => BundleDiff::between(&active.policy, next),
        None => MeshPolicy::compile(Bundle::default()).map_or_else(
            |_| BundleDiff::default(),
            |nothing| BundleDiff::between(&nothing, next),
        ),
    }
}

pub(super) fn with_bundle(stored: StoredVersion) -> Result<VersionWithBundle, Refusal> {
    let bundle = serde_json::from_str(&stored.bundle).map_err(|error| Error::File {
        what: format!("the stored bundle of version {}", stored.version.version),
        source: error.into(),
    })?;
    Ok(VersionWithBundle {
        version: stored.version,
        bundle,
    })
}

/// Compiles without the examples: they have held when the version was added.
pub(super) async fn compiled(stored: StoredVersion) -> Result<Active, Refusal> {
    let with = with_bundle(stored)?;
    blocking(move || {
        Ok(Active {
            version: with.version,
            policy: MeshPolicy::compile(with.bundle)?,
        })
    })
    .await?
}

/// Compiling takes milliseconds, or seconds of a hostile bundle: not on a thread that serves streams.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| failed(&error))
}

fn failed(error: &tokio::task::JoinError) -> Refusal {
    Refusal::Other(Error::File {
        what: "working on a policy".to_owned(),
        source: std::io::Error::other(error.to_string()),
    })
}
