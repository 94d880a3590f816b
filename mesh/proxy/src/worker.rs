//! A worker: one thread, one event loop, its own tunnels, pools and caches.
//!
//! Owns: what a thread has for itself, the sweep, and the end of the worker when the proxy drains. What workers
//! share is in [`Shared`], read-mostly. Must not: parse. Next: `listen.rs` (accept), `serve.rs` (a connection).

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use ringwall_data_path::log::LogBuffer;
use ringwall_data_path::permit::Permit;
use ringwall_data_path::random::Random;
use ringwall_data_path::watch::{CoarseClock, SWEEP, Watches};
use ringwall_identity::SpiffeId;
use ringwall_tls::IdentitySource;
use tokio::sync::watch;

use crate::access_log::Flow;
use crate::config::Config;
use crate::control::State;
use crate::egress::Egress;
use crate::error::ProxyError;
use crate::inbound;
use crate::listen::{Listener, accept};
use crate::metrics::ProxyMetrics;
use crate::outbound;
use crate::pipeline::loopback::LoopbackToken;
use crate::plugins::{Filters, Plugins};
use crate::resilience::Callees;
use crate::serve::live::Live;
use crate::tunnel::Tunnels;
use ringwall_observe::Observer;

/// Between two looks at connections that finish their last request.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// Idle HTTP/1.1 connections may still bring a request for so long after the drain began; it is answered with
/// `connection: close`, so that no caller meets a closed door.
const IDLE_GRACE: Duration = Duration::from_secs(3);

/// What all workers see.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) state: Arc<State>,
    pub(crate) identity: Arc<IdentitySource>,
    /// The workload beside us: whose proxy this is.
    pub(crate) id: SpiffeId,
    pub(crate) workload: Arc<str>,
    pub(crate) loopback: Option<LoopbackToken>,
    pub(crate) metrics: ProxyMetrics,
    /// What is known of the services that the workload calls.
    pub(crate) callees: Callees,
    pub(crate) observe: Arc<Observer>,
    pub(crate) users: Option<inbound::Users>,
    /// What may run in the data path, and where.
    pub(crate) plugins: Plugins,
    pub(crate) filters: ArcSwap<Filters>,
    /// The egress gateway has no application: requests leave the platform.
    pub(crate) egress: Option<Arc<Egress>>,
    /// Spans are made only where somebody collects them.
    pub(crate) telemetry: bool,
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) drain: watch::Sender<bool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("workload", &self.workload)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn begin_drain(&self) {
        self.drain.send_replace(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Resolves when the drain begins.
    pub(crate) async fn draining(&self) {
        let mut drain = self.drain.subscribe();
        // The sender lives in `self`: it cannot be gone.
        let _begun = drain.wait_for(|drain| *drain).await;
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// One more connection; `None` when the limit is reached.
    pub(crate) fn permit(&self) -> Option<Permit> {
        let permit = Permit::take(&self.open, self.config.limits.max_connections);
        if permit.is_none() {
            self.metrics.refused_connection();
        }
        permit
    }
}

/// What one thread has for itself.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    /// Connections to other proxies.
    pub(crate) tunnels: Tunnels,
    pub(crate) inbound: inbound::Local,
    pub(crate) outbound: outbound::Local,
    /// Deadlines of accepted connections.
    pub(crate) watches: Watches,
    /// Who is at the other end of each connection, so that it can be ended.
    pub(crate) live: Arc<Live>,
    pub(crate) log: Arc<LogBuffer>,
    pub(crate) random: Random,
    pub(crate) clock: Arc<CoarseClock>,
    /// Made for the first stream that passes any.
    pub(crate) plugins: OnceLock<ringwall_plugin_host::Worker>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, log: Arc<LogBuffer>) -> Arc<Self> {
        let clock = Arc::new(CoarseClock::default());
        let live = Arc::new(Live::default());
        Arc::new(Self {
            tunnels: Tunnels::new(&shared, Arc::clone(&clock), Arc::clone(&live)),
            inbound: inbound::Local::new(&shared, &clock),
            outbound: outbound::Local::default(),
            watches: Watches::default(),
            live,
            log,
            random: Random::default(),
            clock,
            plugins: OnceLock::new(),
            shared,
        })
    }

    /// Unique within the worker.
    pub(crate) fn next_id(&self) -> u64 {
        self.live.next_id()
    }

    /// Tells log and observers of a finished exchange.
    pub(crate) fn finished(&self, flow: &Flow<'_>) {
        if let Some(refusal) = flow.refusal {
            self.shared.metrics.refused(flow.direction, refusal);
        }
        self.shared
            .observe
            .record(flow.verdict(), || flow.observed());
        flow.write(&self.log);
    }

    /// Starts the thread; it ends when the drain has.
    ///
    /// # Errors
    /// When the thread or its event loop cannot be made.
    pub(crate) fn start(
        self: &Arc<Self>,
        index: usize,
        listeners: Vec<Listener>,
    ) -> Result<JoinHandle<()>, ProxyError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ProxyError::Worker)?;
        let worker = Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(worker.run(listeners)))
            .map_err(ProxyError::Worker)
    }

    pub(crate) async fn run(self: Arc<Self>, listeners: Vec<Listener>) {
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::spawn(accept(Arc::clone(&self), listener)))
            .collect();
        let sweep = tokio::spawn(Arc::clone(&self).sweep());
        let changes = tokio::spawn(Arc::clone(&self).follow_changes());
        self.shared.draining().await;
        for task in accepting {
            task.abort();
        }
        let began = tokio::time::Instant::now();
        let grace = IDLE_GRACE.min(self.shared.config.service.drain / 2);
        while !self.watches.is_empty() {
            if began.elapsed() >= grace {
                self.watches.end_idle();
            }
            tokio::time::sleep(DRAIN_STEP).await;
        }
        sweep.abort();
        changes.abort();
    }

    async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let metrics = &self.shared.metrics;
            self.watches
                .sweep(&self.clock, |expired| metrics.expired(expired));
            self.end_unwanted();
            self.tunnels.sweep();
            self.inbound.sweep();
            metrics.dropped_lines.inc_by(self.log.take_dropped());
        }
    }

    /// Ends connections whose peer has lost its right to them as soon as that is known.
    async fn follow_changes(self: Arc<Self>) {
        let mut changes = self.shared.state.subscribe();
        let mut identities = self.shared.identity.subscribe();
        loop {
            self.end_unwanted();
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = identities.changed() => {
                    let ended = self.live.verify(&self.shared.identity);
                    self.shared.metrics.cut.inc_by(ended);
                }
                else => return,
            }
        }
    }

    fn end_unwanted(&self) {
        let snapshot = self.shared.state.snapshot.load();
        let ended = self.live.sweep(&self.shared.workload, &snapshot);
        self.shared.metrics.cut.inc_by(ended);
    }
}

/// An accepted socket that is not yet a connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) worker: Arc<Worker>,
    pub(crate) id: u64,
    pub(crate) watch: Arc<ringwall_data_path::watch::Watch>,
    pub(crate) socket: tokio::net::TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) permit: Permit,
}
