//! The engine that all plugins of a process share.
//!
//! Owns: its configuration, the one ticker of epochs, the table of host functions, the cache of compiled modules, and
//! what outlives instances: shared data, queues, metrics. Must not: know a stream.
//! Read next: `runtime/cache.rs`, `runtime/ticker.rs`, then `worker.rs`.

pub(crate) mod cache;
mod ticker;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use wasmtime::{Config, Engine, Linker};

use self::cache::Cache;
use self::ticker::Ticker;
use crate::error::Error;
use crate::foreign::{Foreign, ForeignFunction};
use crate::hostcalls;
use crate::instance::Host;
use crate::metrics::Registry;
use crate::shared::Shared;
use crate::worker::WorkerInner;

/// Stack of a guest, in bytes; more is a trap. Host threads have 2 MiB at least.
const GUEST_STACK: usize = 512 << 10;

/// Where the time of day comes from.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How the engine is started.
#[derive(Clone)]
pub struct RuntimeOptions {
    /// Where compiled modules are kept. It belongs to this user and nobody else may write there.
    pub cache: Option<PathBuf>,
    /// How often deadlines are looked at: a callback may run for one tick more than its limit.
    pub tick: Duration,
    pub clock: Clock,
    /// Named functions that plugins may be allowed to call, beside the built-in ones.
    pub foreign_functions: Vec<(String, ForeignFunction)>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            cache: None,
            tick: Duration::from_millis(2),
            clock: Arc::new(SystemTime::now),
            foreign_functions: Vec::new(),
        }
    }
}

/// The engine. Clones are the same one.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<RuntimeInner>,
}

pub(crate) struct RuntimeInner {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Host>,
    pub(crate) cache: Option<Cache>,
    pub(crate) clock: Clock,
    /// What guests' monotonic clock counts from.
    pub(crate) started: Instant,
    pub(crate) shared: Shared,
    pub(crate) metrics: Registry,
    pub(crate) foreign: Foreign,
    workers: Mutex<Vec<Weak<WorkerInner>>>,
    _ticker: Ticker,
}

impl Runtime {
    /// Starts the engine and its ticker.
    pub fn new(options: RuntimeOptions) -> Result<Self, Error> {
        let engine = Engine::new(&configuration()).map_err(|error| Error::Engine(text(&error)))?;
        let mut linker = Linker::new(&engine);
        hostcalls::register(&mut linker).map_err(|error| Error::Engine(text(&error)))?;
        let cache = options.cache.map(|path| Cache::open(path, &engine));
        let ticker = Ticker::start(&engine, options.tick)?;
        Ok(Self {
            inner: Arc::new(RuntimeInner {
                engine,
                linker,
                cache: cache.transpose()?,
                clock: options.clock,
                started: Instant::now(),
                shared: Shared::default(),
                metrics: Registry::default(),
                foreign: Foreign::new(options.foreign_functions),
                workers: Mutex::default(),
                _ticker: ticker,
            }),
        })
    }

    /// All metrics, those of plugins and those about plugins, in OpenMetrics' text format, without its last line.
    pub fn metrics(&self) -> String {
        self.inner.metrics.encode()
    }
}

impl RuntimeInner {
    pub(crate) fn enlist(&self, worker: &Arc<WorkerInner>) {
        let mut workers = self.workers.lock();
        workers.retain(|known| known.strong_count() > 0);
        workers.push(Arc::downgrade(worker));
    }

    pub(crate) fn workers(&self) -> Vec<Arc<WorkerInner>> {
        let workers = self.workers.lock();
        workers.iter().filter_map(Weak::upgrade).collect()
    }
}

fn configuration() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        // A trap is reported by its kind and callback: names of a guest's functions cost more than they tell.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false);
    config
}

/// An error of the engine with its causes.
pub(crate) fn text(error: &wasmtime::Error) -> String {
    format!("{error:#}")
}
