//! A worker: one thread, one event loop, its own listeners, pools and caches.
//!
//! Owns: the accept loops, the sweep, and the end of the worker when the gateway drains. What workers share is in
//! [`Shared`], read-mostly. Must not: parse. Next: `conn.rs`.

use std::hash::{BuildHasher as _, Hash};
use std::net::{IpAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use ringwall_data_path::log::LogBuffer;
use ringwall_data_path::permit::Permit;
use ringwall_data_path::random::Random;
use ringwall_data_path::watch::{CoarseClock, SWEEP, Watch, Watches};
use ringwall_plugin_host::Chain;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::abuse::{Abuse, Offence, Scores};
use crate::config::ConnectionLimits;
use crate::conn::{Accepted, Transport, serve};
use crate::error::GatewayError;
use crate::limiter::Limiter;
use crate::metrics::GatewayMetrics;
use crate::plugins::{self, Plugins};
use crate::snapshot::Snapshot;
use crate::token_cache::TokenCache;
use crate::tokens::Tokens;
use crate::upstream::Pools;
use crate::user_context::UserContextIssuer;

/// Verified tokens that one worker remembers.
const TOKENS_PER_WORKER: usize = 20_000;
/// Between two looks at connections that finish their last request.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all workers see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) began: Instant,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) tokens: ArcSwapOption<Tokens>,
    pub(crate) limiter: Limiter,
    pub(crate) user_context: Arc<UserContextIssuer>,
    /// None where no shield is fed.
    pub(crate) abuse: Option<Abuse>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) plugins: Plugins,
    pub(crate) connections: ConnectionLimits,
    /// Spans are made only where somebody collects them.
    pub(crate) telemetry: bool,
    open: Arc<AtomicUsize>,
    drain: watch::Sender<bool>,
    hash_low: RandomState,
    hash_high: RandomState,
}

/// The parts of [`Shared`] that are made elsewhere.
pub(crate) struct SharedParts {
    pub(crate) snapshot: Snapshot,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) limiter: Limiter,
    pub(crate) user_context: Arc<UserContextIssuer>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) abuse: Option<Abuse>,
    pub(crate) plugins: Plugins,
    pub(crate) connections: ConnectionLimits,
    pub(crate) telemetry: bool,
}

impl Shared {
    pub(crate) fn new(parts: SharedParts) -> Self {
        Self {
            began: Instant::now(),
            snapshot: ArcSwap::from_pointee(parts.snapshot),
            tokens: ArcSwapOption::from_pointee(parts.tokens),
            limiter: parts.limiter,
            user_context: parts.user_context,
            metrics: parts.metrics,
            abuse: parts.abuse,
            plugins: parts.plugins,
            connections: parts.connections,
            telemetry: parts.telemetry,
            open: Arc::default(),
            drain: watch::Sender::new(false),
            hash_low: RandomState::default(),
            hash_high: RandomState::default(),
        }
    }

    /// A 128-bit hash that is keyed anew in each process.
    pub(crate) fn hash(&self, text: &str) -> u128 {
        self.hash_any(text)
    }

    pub(crate) fn hash_number(&self, number: u128) -> u128 {
        self.hash_any(number)
    }

    fn hash_any(&self, value: impl Hash + Copy) -> u128 {
        let (low, high) = (
            self.hash_low.hash_one(value),
            self.hash_high.hash_one(value),
        );
        u128::from(high) << 64 | u128::from(low)
    }

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
}

/// What one thread has for itself.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pools: Pools,
    pub(crate) tokens: Mutex<TokenCache>,
    pub(crate) watches: Watches,
    pub(crate) log: Arc<LogBuffer>,
    /// What sources have done lately.
    scores: Mutex<Scores>,
    /// For trace ids.
    pub(crate) random: Random,
    clock: Arc<CoarseClock>,
    ids: AtomicU64,
    /// Made for the first request that passes any.
    plugins: OnceLock<ringwall_plugin_host::Worker>,
}

/// A bound address and how it speaks.
pub(crate) struct Listener {
    pub(crate) socket: StdListener,
    pub(crate) transport: Transport,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        identity: Arc<ringwall_tls::IdentitySource>,
        log: Arc<LogBuffer>,
    ) -> Arc<Self> {
        let clock = Arc::new(CoarseClock::default());
        Arc::new(Self {
            shared,
            pools: Pools::new(identity, Arc::clone(&clock)),
            tokens: Mutex::new(TokenCache::new(TOKENS_PER_WORKER)),
            watches: Watches::default(),
            log,
            scores: Mutex::default(),
            random: Random::default(),
            clock,
            ids: AtomicU64::new(0),
            plugins: OnceLock::new(),
        })
    }

    /// Notes what a client has done.
    pub(crate) fn offended(&self, peer: IpAddr, offence: Offence) {
        if let Some(abuse) = &self.shared.abuse {
            abuse.note(&self.scores, peer, offence, self.shared.began.elapsed());
        }
    }

    /// Who runs the plugins of a route, if it has any. To be called on the worker's own thread.
    pub(crate) fn plugins(
        self: &Arc<Self>,
        filters: &Chain,
    ) -> Option<&ringwall_plugin_host::Worker> {
        if filters.is_empty() {
            return None;
        }
        if self.plugins.get().is_none()
            && let Some(worker) = plugins::worker(&self.shared.plugins, self)
        {
            // Another request of this thread cannot have come between.
            let _ = self.plugins.set(worker);
        }
        self.plugins.get()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts the thread; it ends when the drain has.
    ///
    /// # Errors
    /// When the thread or its event loop cannot be made.
    pub(crate) fn start(
        self: &Arc<Self>,
        index: usize,
        listeners: Vec<Listener>,
    ) -> Result<JoinHandle<()>, GatewayError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(GatewayError::Worker)?;
        let worker = Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(worker.run(listeners)))
            .map_err(GatewayError::Worker)
    }

    async fn run(self: Arc<Self>, listeners: Vec<Listener>) {
        let mut tasks = Vec::new();
        for listener in listeners {
            tasks.push(tokio::spawn(Arc::clone(&self).accept(listener)));
        }
        let sweep = tokio::spawn(Arc::clone(&self).sweep());
        self.shared.draining().await;
        // A dropped listener's backlog goes to no other worker; clients that were not accepted see a reset.
        for task in tasks {
            task.abort();
        }
        while !self.watches.is_empty() {
            self.watches.end_idle();
            tokio::time::sleep(DRAIN_STEP).await;
        }
        sweep.abort();
    }

    async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.watches
                .sweep(&self.clock, |expired| self.shared.metrics.expired(expired));
            self.shared.metrics.severed(self.pools.sweep());
            self.shared.metrics.lines_dropped(self.log.take_dropped());
        }
    }

    async fn accept(self: Arc<Self>, listener: Listener) {
        let Listener { socket, transport } = listener;
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, "a listener could not be used");
                return;
            }
        };
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => self.begin(stream, peer, transport.clone()),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        socket: TcpStream,
        peer: std::net::SocketAddr,
        transport: Transport,
    ) {
        let limits = &self.shared.connections;
        let Some(permit) = Permit::take(&self.shared.open, limits.max) else {
            self.shared.metrics.refused_connection();
            return;
        };
        // Without it a response in two writes waits for the client's delayed acknowledgement.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection lost at accept");
            return;
        }
        let watch = Arc::new(Watch::new(
            Arc::clone(&self.clock),
            limits.header_timeout,
            limits.idle_timeout,
            limits.stall_timeout,
        ));
        let id = self.next_id();
        let worker = Arc::clone(self);
        let accepted = Accepted {
            worker: Arc::clone(self),
            watch: Arc::clone(&watch),
            socket,
            peer,
            permit,
        };
        let task = tokio::spawn(async move {
            let _gone = Gone { worker, id };
            serve(accepted, transport).await;
        });
        self.watches.add(id, watch, task.abort_handle());
    }
}

/// Ends the watch of a connection however its task ends.
struct Gone {
    worker: Arc<Worker>,
    id: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.worker.watches.remove(self.id);
    }
}
