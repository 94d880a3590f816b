//! The plugins of one worker: one instance of each version.
//!
//! Owns: which instance a new stream gets, and that a lost one is replaced at once. A worker belongs to one tokio runtime,
//! on which its timers and calls run. Must not: hold its lock while a guest runs. Next: `worker/losses.rs`.

mod losses;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use self::losses::Losses;
use crate::callouts::{Callouts, NoCallouts};
use crate::chain::Chain;
use crate::error::Error;
use crate::http::HttpStream;
use crate::instance::{Failure, FailureKind, Instance};
use crate::plugin::Version;
use crate::properties::StreamInfo;
use crate::runtime::Runtime;
use crate::tcp::TcpStream;

/// How long a plugin that could not be configured is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Watches what guests do: for `ringwall plugin test`. It is called on the data path.
pub trait Observer: Send + Sync {
    /// A host function has returned, with its status where it has one.
    fn hostcall(&self, plugin: &str, name: &'static str, status: Option<u32>);
    /// The host function that runs was asked for something that the plugin may not do; [`Self::hostcall`] follows.
    fn refused(&self, plugin: &str, what: &str);
    /// A callback has returned.
    fn callback(&self, plugin: &str, callback: &Callback);
    /// A line that a plugin logs, before its rate is limited.
    fn log(&self, plugin: &str, level: crate::LogLevel, line: &str);
}

/// One callback that has returned, or failed.
#[derive(Debug, Clone, Copy)]
pub struct Callback {
    pub name: &'static str,
    /// On the wall.
    pub took: Duration,
    /// Of the processor.
    pub used: Duration,
    pub hostcalls: u32,
    /// Linear memory of the instance, in bytes.
    pub memory: u64,
}

/// The plugins of one tokio runtime. Clones are the same one.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<WorkerInner>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Worker").finish_non_exhaustive()
    }
}

pub(crate) struct WorkerInner {
    pub(crate) callouts: Arc<dyn Callouts>,
    /// `None`: on trial; nothing goes on outside the guest.
    pub(crate) handle: Option<Handle>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    slots: Mutex<HashMap<u64, Slot>>,
    /// Of the versions that have lost an instance.
    losses: Mutex<HashMap<u64, Losses>>,
}

enum Slot {
    Ready(Arc<Instance>),
    Unavailable { until: Instant, failure: Failure },
}

impl Worker {
    /// For the tokio runtime in which this is called.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(runtime: &Runtime, callouts: Arc<dyn Callouts>) -> Self {
        Self::observed(runtime, callouts, None)
    }

    /// The same, watched.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn observed(
        runtime: &Runtime,
        callouts: Arc<dyn Callouts>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let inner = Arc::new(WorkerInner {
            callouts,
            handle: Some(Handle::current()),
            observer,
            slots: Mutex::default(),
            losses: Mutex::default(),
        });
        runtime.inner.enlist(&inner);
        Self { inner }
    }

    /// Makes the instances that streams through `chain` will want, so that the first of them need not wait.
    pub fn warm(&self, chain: &Chain) -> Result<(), Error> {
        for version in chain.plugins.iter().flat_map(|plugin| plugin.versions()) {
            if self.inner.slots.lock().get(&version.id).is_none() {
                self.inner.warm(&version)?;
            }
        }
        Ok(())
    }

    /// A new HTTP stream through `chain`.
    pub fn open(&self, chain: &Chain, info: StreamInfo) -> HttpStream {
        HttpStream::open(&self.inner, chain, info)
    }

    /// A new TCP stream through `chain`.
    pub fn open_tcp(&self, chain: &Chain, info: StreamInfo) -> TcpStream {
        TcpStream::open(&self.inner, chain, info)
    }
}

impl WorkerInner {
    /// Only to see whether a version can be configured.
    pub(crate) fn on_trial() -> Arc<Self> {
        Arc::new(Self {
            callouts: Arc::new(NoCallouts),
            handle: None,
            observer: None,
            slots: Mutex::default(),
            losses: Mutex::default(),
        })
    }

    /// The instance of a version, made now if need be.
    pub(crate) fn instance(
        self: &Arc<Self>,
        version: &Arc<Version>,
    ) -> Result<Arc<Instance>, Failure> {
        match self.slots.lock().get(&version.id) {
            Some(Slot::Ready(instance)) if !instance.has_failed() => {
                return Ok(Arc::clone(instance));
            }
            Some(Slot::Unavailable { until, failure }) if Instant::now() < *until => {
                version.metrics.unavailable.add(1);
                return Err(failure.clone());
            }
            _ => {}
        }
        self.make(version)
    }

    /// Makes an instance; an error takes no traffic.
    pub(crate) fn warm(self: &Arc<Self>, version: &Arc<Version>) -> Result<(), Error> {
        let instance = Instance::create(version, self)?;
        self.slots.lock().insert(version.id, Slot::Ready(instance));
        Ok(())
    }

    /// Puts another instance in the place of `lost`, unless that has happened already or nobody wants one. `cost`: what the
    /// failure has taken of the worker's time.
    pub(crate) fn replace_lost(self: &Arc<Self>, lost: &Instance, cost: Duration) {
        let version = &lost.version;
        let is_in_use = match self.slots.lock().get(&version.id) {
            Some(Slot::Ready(current)) => std::ptr::eq(&**current, lost),
            _ => false,
        };
        if !is_in_use {
            return;
        }
        let start = lost.start_time.get().copied().unwrap_or_default();
        match self.pay(version.id, cost.saturating_add(start)) {
            Some(pause) => {
                self.leave_alone(version, pause);
            }
            None => {
                version.metrics.recreations.add(1);
                // An error is kept in the slot and logged.
                let _ = self.make(version);
            }
        }
    }

    fn pay(&self, version: u64, cost: Duration) -> Option<Duration> {
        let now = Instant::now();
        let mut losses = self.losses.lock();
        let account = losses.entry(version).or_insert_with(|| Losses::new(now));
        account.pay(cost, now)
    }

    fn make(self: &Arc<Self>, version: &Arc<Version>) -> Result<Arc<Instance>, Failure> {
        match Instance::create(version, self) {
            Ok(instance) => {
                let slot = Slot::Ready(Arc::clone(&instance));
                let before = self.slots.lock().insert(version.id, slot);
                drop(before); // outside the lock: the end of a guest may run it
                if version.is_retired() {
                    self.retire(version.id); // it was replaced meanwhile; this stream keeps it
                }
                Ok(instance)
            }
            Err(error) => {
                tracing::error!(plugin = %version.spec.name, %error, "a plugin does not start");
                Err(self.leave_alone(version, RETRY))
            }
        }
    }

    /// Streams that want this version fail until then.
    fn leave_alone(&self, version: &Version, pause: Duration) -> Failure {
        let failure = Failure::new(FailureKind::Unavailable, "proxy_on_configure");
        let plugin = &version.spec.name;
        tracing::error!(%plugin, failure = %failure.id, ?pause, "a plugin is unavailable");
        version.metrics.unavailable.add(1);
        let slot = Slot::Unavailable {
            until: Instant::now() + pause,
            failure: failure.clone(),
        };
        let before = self.slots.lock().insert(version.id, slot);
        drop(before);
        failure
    }

    /// No new stream will want this version.
    pub(crate) fn retire(&self, version: u64) {
        let before = self.slots.lock().remove(&version);
        drop(before);
        self.losses.lock().remove(&version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Module, Plugin, PluginSpec, RuntimeOptions, Verification};

    #[tokio::test]
    async fn r92_a_version_replaced_between_choice_and_use_leaves_no_instance() {
        let runtime = Runtime::new(RuntimeOptions::default()).unwrap();
        let text =
            r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1")))"#;
        let bytes = wat::parse_str(text).unwrap();
        let module = Module::load(&runtime, &bytes, &Verification::none()).unwrap();
        let worker = Worker::new(&runtime, Arc::new(NoCallouts));
        let plugin = Plugin::new(&module, PluginSpec::new("p")).unwrap();
        let chosen = plugin.pick();
        plugin.replace(&module, PluginSpec::new("p")).unwrap();
        let instance = worker.inner.instance(&chosen).unwrap();
        assert_eq!(
            instance.version.id, chosen.id,
            "the stream has what it chose"
        );
        let kept: Vec<u64> = worker.inner.slots.lock().keys().copied().collect();
        assert_eq!(kept, [plugin.pick().id]);
    }
}
