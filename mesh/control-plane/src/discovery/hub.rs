//! The one state that all streams share, and what wakes them.
//!
//! Owns: the lock around the world, who is connected and what each has applied, the time of leases. Must not: be held
//! across an await. Read next: `stream.rs`, `world.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1;
use ringwall_policy::mesh::{Edge, PolicyUse};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::direct::{Named, Resolved, named};
use super::endpoints::{LEASE, MAX_NAME, Proxy, Report, StreamId};
use super::metrics::Metrics;
use super::session::{Answer, Session};
use super::world::{RegisteredService, Since, World};

/// Connected proxies.
const MAX_STREAMS: usize = 20_000;
/// Connected proxies of one workload.
const MAX_STREAMS_OF_ONE: usize = 2_000;
/// How long the leases are looked at again at the latest.
const IDLE: Duration = Duration::from_secs(3600);

/// Takes the uses of policies that proxies report.
pub(crate) type UsageSink = Arc<dyn Fn(&str, Vec<(String, PolicyUse)>) + Send + Sync>;

/// What is known of a connected proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyState {
    pub(crate) workload: String,
    pub(crate) instance: String,
    pub(crate) node: String,
    pub(crate) zone: String,
    /// Version of the policy that it applies; 0 while it has none that we know of.
    pub(crate) policy: u64,
    /// The last refusal, until something is applied in its place.
    pub(crate) nack: Option<NackState>,
}

/// A refused message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NackState {
    /// Version of the policy in it, when that is what was refused.
    pub(crate) policy: Option<u64>,
    pub(crate) resources: Vec<String>,
    pub(crate) reason: String,
}

struct Inner {
    world: World,
    streams: BTreeMap<StreamId, ProxyState>,
    of_workload: HashMap<Arc<str>, usize>,
    next_stream: u64,
    /// Rises whenever streams of before must end.
    term: u64,
    serving: bool,
    settled_at: Duration,
}

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct Hub {
    inner: Arc<Mutex<Inner>>,
    /// Carries nothing: streams look at the world when it moves.
    changed: Arc<watch::Sender<()>>,
    answered: Arc<watch::Sender<()>>,
    epoch: Instant,
    pub(super) metrics: Metrics,
}

/// A stream that was let in.
pub(super) struct Joined {
    pub(super) stream: StreamId,
    pub(super) proxy: Proxy,
    pub(super) session: Session,
    pub(super) ports: Vec<u16>,
    term: u64,
}

impl Hub {
    /// A state that serves nobody until [`Hub::lead`].
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                world: World::new(0),
                streams: BTreeMap::new(),
                of_workload: HashMap::new(),
                next_stream: 0,
                term: 0,
                serving: false,
                settled_at: Duration::ZERO,
            })),
            changed: Arc::new(watch::Sender::new(())),
            answered: Arc::new(watch::Sender::new(())),
            epoch: Instant::now(),
            metrics: Metrics::default(),
        }
    }

    /// Counts into the metrics of the component.
    pub(crate) fn register(&self, registry: &ringwall_service::Metrics) {
        self.metrics.register(registry);
    }

    /// Begins to serve, with a world that `fill` fills. Proxies that come from another control plane keep their endpoints
    /// for one lease, until the others have come as well. `base` must be above every revision of before.
    pub(crate) fn lead(&self, base: u64, fill: impl FnOnce(&mut World)) {
        let settled_at = self.now() + LEASE;
        {
            let mut inner = self.inner.lock();
            inner.world = World::new(base);
            inner.term += 1;
            inner.serving = true;
            inner.settled_at = settled_at;
            fill(&mut inner.world);
        }
        self.wake();
    }

    /// Ends all streams, and admits none until [`Hub::lead`]: this replica stops, or another one leads.
    pub(crate) fn step_down(&self) {
        {
            let mut inner = self.inner.lock();
            inner.term += 1;
            inner.serving = false;
        }
        self.wake();
    }

    /// The policy that is pushed.
    #[cfg(test)]
    pub(crate) fn policy(&self) -> v1::SignedPolicy {
        self.inner.lock().world.policy()
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.inner.lock().serving
    }

    pub(crate) fn set_services(&self, services: Vec<RegisteredService>) {
        self.inner.lock().world.set_services(services);
        self.wake();
    }

    /// Addresses of services without a proxy, to be looked up.
    pub(super) fn named(&self) -> Vec<Named> {
        let inner = self.inner.lock();
        inner.world.services().flat_map(named).collect()
    }

    /// What came of that.
    pub(super) fn set_direct(&self, resolved: &Resolved) {
        if self.inner.lock().world.set_direct(resolved) {
            self.wake();
        }
    }

    pub(crate) fn set_policy(&self, policy: v1::SignedPolicy, edges: Vec<Edge>) {
        self.inner.lock().world.set_policy(policy, edges);
        self.wake();
    }

    pub(crate) fn set_revocations(&self, revocations: v1::Revocations) {
        self.inner.lock().world.set_revocations(revocations);
        self.wake();
    }

    /// What the kernel of `node` lets its workloads connect to, or why its agent is told nothing.
    pub(super) fn reach(&self, id: &SpiffeId, node: &str) -> Result<v1::Reach, Status> {
        let inner = self.inner.lock();
        inner.admits(id)?;
        Ok(inner.world.reach(node))
    }

    /// Every connected proxy.
    pub(crate) fn proxies(&self) -> Vec<ProxyState> {
        self.inner.lock().streams.values().cloned().collect()
    }

    /// Returns when every connected proxy has applied or refused the policy of `version` (or a newer one), or at
    /// `timeout`; with what they have by then.
    pub(crate) async fn wait_for_policy(&self, version: u64, timeout: Duration) -> Vec<ProxyState> {
        let mut answered = self.answered.subscribe();
        let all = async {
            loop {
                answered.borrow_and_update();
                let missing = self
                    .inner
                    .lock()
                    .streams
                    .values()
                    .any(|proxy| proxy.misses(version));
                if !missing || answered.changed().await.is_err() {
                    return;
                }
            }
        };
        let _timed_out = tokio::time::timeout(timeout, all).await;
        self.proxies()
    }

    /// Ends leases when their time has come. Runs as long as the process.
    pub(crate) async fn keep_time(self) {
        let mut changed = self.changed.subscribe();
        loop {
            let now = self.now();
            let (next, moved) = {
                let mut inner = self.inner.lock();
                let moved = inner.world.expire(now);
                let (total, lost) = inner.world.endpoints().counts();
                self.metrics
                    .endpoints
                    .set(i64::try_from(total).unwrap_or(i64::MAX));
                self.metrics
                    .lost_endpoints
                    .set(i64::try_from(lost).unwrap_or(i64::MAX));
                let settles = Some(inner.settled_at).filter(|at| *at > now);
                let next = inner.world.endpoints().next_expiry();
                let next = next.into_iter().chain(settles).min();
                (next.unwrap_or(now + IDLE), moved)
            };
            if moved {
                self.wake();
                changed.borrow_and_update();
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.epoch + next) => self.wake(),
                _ = changed.changed() => {}
            }
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Lets a proxy in: `id` is what its certificate says, `hello` its own word.
    pub(super) fn join(&self, id: &SpiffeId, hello: &v1::Hello) -> Result<Joined, Status> {
        let named = [&hello.instance, &hello.node, &hello.zone];
        if named
            .iter()
            .any(|name| name.len() > MAX_NAME || name.contains(char::is_control))
        {
            return Err(Status::invalid_argument(
                "a name in Hello is too long or not printable",
            ));
        }
        if hello.instance.is_empty() {
            return Err(Status::invalid_argument("Hello names no instance"));
        }
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.admits(id)?;
        let workload = id.path();
        let Some(ports) = inner.world.ports(workload).map(<[u16]>::to_vec) else {
            return Err(Status::permission_denied(
                "the caller is no registered workload",
            ));
        };
        if !inner.world.runs_on(workload, &hello.node) {
            return Err(Status::permission_denied(
                "the workload is not registered on this node",
            ));
        }
        let proxy = Proxy {
            workload: workload.into(),
            instance: hello.instance.as_str().into(),
            node: hello.node.as_str().into(),
            zone: hello.zone.as_str().into(),
        };
        let count = inner
            .of_workload
            .entry(Arc::clone(&proxy.workload))
            .or_default();
        if inner.streams.len() >= MAX_STREAMS || *count >= MAX_STREAMS_OF_ONE {
            return Err(Status::resource_exhausted("too many proxies are connected"));
        }
        *count += 1;
        inner.next_stream += 1;
        let stream = StreamId(inner.next_stream);
        let since: Since = inner.world.since(workload, hello.revision);
        let session = Session::new(since, &inner.world.view(workload));
        let state = ProxyState {
            workload: workload.to_owned(),
            instance: hello.instance.clone(),
            node: hello.node.clone(),
            zone: hello.zone.clone(),
            policy: session.policy(),
            nack: None,
        };
        inner.streams.insert(stream, state);
        self.metrics
            .streams
            .set(i64::try_from(inner.streams.len()).unwrap_or(i64::MAX));
        Ok(Joined {
            stream,
            proxy,
            session,
            ports,
            term: inner.term,
        })
    }

    /// The next message to a proxy, or why its stream ends.
    pub(super) fn offer(
        &self,
        id: &SpiffeId,
        joined: &mut Joined,
    ) -> Result<Option<v1::ConfigMessage>, Status> {
        let (view, settled) = {
            let mut inner = self.inner.lock();
            if inner.term != joined.term {
                return Err(Status::unavailable(
                    "another control plane takes over; connect again",
                ));
            }
            inner.admits(id)?;
            let Some(ports) = inner.world.ports(id.path()).map(<[u16]>::to_vec) else {
                return Err(Status::permission_denied(
                    "the workload is no longer registered",
                ));
            };
            joined.ports = ports;
            (inner.world.view(id.path()), self.now() >= inner.settled_at)
        };
        let message = joined.session.offer(&view, settled);
        if let Some(message) = &message {
            self.metrics.sent(message.snapshot);
        }
        Ok(message)
    }

    /// Keeps what an answer of a proxy has said.
    pub(super) fn answered(&self, stream: StreamId, answer: &Answer, reason: &str) {
        let mut inner = self.inner.lock();
        let Some(state) = inner.streams.get_mut(&stream) else {
            return;
        };
        match answer {
            Answer::Stale => return,
            Answer::Applied { policy } => {
                if let Some(version) = *policy {
                    state.policy = version;
                    state.nack = state.nack.take().filter(|nack| nack.policy.is_none());
                }
            }
            Answer::Refused { held, policy } => {
                state.nack = Some(NackState {
                    policy: *policy,
                    resources: held.iter().map(ToString::to_string).collect(),
                    reason: reason.to_owned(),
                });
            }
        }
        drop(inner);
        self.metrics
            .answered(matches!(answer, Answer::Applied { .. }));
        self.answered.send_replace(());
    }

    /// Registers an endpoint of the proxy behind a stream.
    pub(super) fn report(
        &self,
        joined: &Joined,
        report: &v1::EndpointReport,
    ) -> Result<(), Status> {
        let refused = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let report = Report::parse(report, &joined.ports).map_err(|error| refused(&error))?;
        let changed = {
            let mut inner = self.inner.lock();
            // A stream of a former term must not register in the new world.
            if inner.term != joined.term {
                return Ok(());
            }
            let before = inner.world.endpoints().counts();
            let changed = inner.world.report(joined.stream, &joined.proxy, report);
            // One that is not ready yet is of interest to agents: its address can be reached.
            changed.map(|changed| changed || before != inner.world.endpoints().counts())
        };
        if changed.map_err(|error| refused(&error))? {
            self.wake();
        }
        Ok(())
    }

    /// A stream has ended, for whatever reason.
    pub(super) fn leave(&self, joined: &Joined) {
        let now = self.now();
        {
            let mut inner = self.inner.lock();
            inner.streams.remove(&joined.stream);
            if let Some(count) = inner.of_workload.get_mut(&joined.proxy.workload) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    inner.of_workload.remove(&joined.proxy.workload);
                }
            }
            if inner.term == joined.term {
                inner.world.stream_ended(joined.stream, now);
            }
            self.metrics
                .streams
                .set(i64::try_from(inner.streams.len()).unwrap_or(i64::MAX));
        }
        self.answered.send_replace(());
        self.wake();
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn wake(&self) {
        self.changed.send_replace(());
    }
}

impl Inner {
    fn admits(&self, id: &SpiffeId) -> Result<(), Status> {
        if !self.serving {
            return Err(Status::unavailable("this control plane does not serve now"));
        }
        if self.world.is_revoked(id.as_str()) {
            return Err(Status::permission_denied("the identity is revoked"));
        }
        Ok(())
    }
}

impl ProxyState {
    /// Whether it has neither applied nor refused the policy of `version` or a newer one.
    fn misses(&self, version: u64) -> bool {
        let refused = self.nack.as_ref().and_then(|nack| nack.policy);
        self.policy < version && refused.is_none_or(|refused| refused < version)
    }
}
