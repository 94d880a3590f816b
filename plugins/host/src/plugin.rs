//! A plugin in its versions: which one a new stream gets, and how one replaces another.
//!
//! Owns: hot swap and canaries. A version is configured in every worker before it is named here; a version that cannot be
//! is refused and nothing has changed. A stream keeps the version that it began with, however often this changes.
//! Must not: know streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::error::Error;
use crate::metrics::PluginMetrics;
use crate::module::Module;
use crate::runtime::RuntimeInner;
use crate::shared::VmData;
use crate::spec::PluginSpec;
use crate::worker::WorkerInner;

static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

/// Code, configuration and limits that belong together.
pub(crate) struct Version {
    pub(crate) id: u64,
    pub(crate) spec: PluginSpec,
    pub(crate) module: Module,
    pub(crate) metrics: Arc<PluginMetrics>,
    pub(crate) data: Arc<VmData>,
    /// No new stream gets it.
    is_retired: AtomicBool,
}

impl Version {
    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Workers let go of its instances; streams keep theirs.
    fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        for worker in self.module.inner.runtime.workers() {
            worker.retire(self.id);
        }
    }

    fn new(module: Module, spec: PluginSpec) -> Result<Arc<Self>, Error> {
        let size = module.inspect().size;
        if size > spec.limits.module {
            return Err(Error::ModuleTooLarge {
                size,
                limit: spec.limits.module,
            });
        }
        let runtime = &module.inner.runtime;
        Ok(Arc::new(Self {
            id: NEXT_VERSION.fetch_add(1, Ordering::Relaxed),
            metrics: runtime.metrics.of(&spec.name),
            data: runtime.shared.data(&spec.vm_id),
            spec,
            module,
            is_retired: AtomicBool::new(false),
        }))
    }
}

/// What new streams get.
struct Deployed {
    stable: Arc<Version>,
    candidate: Option<(Arc<Version>, u8)>,
}

/// One plugin of a route or several.
pub struct Plugin {
    deployed: ArcSwap<Deployed>,
    /// One change at a time.
    change: Mutex<()>,
    streams: AtomicU64,
}

impl Plugin {
    /// Configures the plugin in every worker that lives, or once on trial where there is none yet.
    pub fn new(module: &Module, spec: PluginSpec) -> Result<Arc<Self>, Error> {
        let stable = warm(module, spec)?;
        Ok(Arc::new(Self {
            deployed: ArcSwap::from_pointee(Deployed {
                stable,
                candidate: None,
            }),
            change: Mutex::default(),
            streams: AtomicU64::new(0),
        }))
    }

    /// Whether a plugin can be configured, tried once and given up again: for whoever checks a configuration.
    pub fn check(module: &Module, spec: PluginSpec) -> Result<(), Error> {
        let version = Version::new(module.clone(), spec)?;
        WorkerInner::on_trial().warm(&version)
    }

    /// Its name, which is the same in all versions.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.deployed.load().stable.spec.name)
    }

    /// Puts another version in the place of this one, and ends a canary. On an error nothing has changed.
    ///
    /// Configures guests, as `new` and `canary` do, and so may take as long as their limits: not for a thread that serves.
    pub fn replace(&self, module: &Module, spec: PluginSpec) -> Result<(), Error> {
        let _one = self.change.lock();
        self.expect_name(&spec)?;
        let stable = warm(module, spec)?;
        stable.metrics.swaps.add(1);
        self.publish(Deployed {
            stable,
            candidate: None,
        });
        Ok(())
    }

    /// Gives `weight` percent of new streams to another version, in the place of an earlier candidate.
    pub fn canary(&self, module: &Module, spec: PluginSpec, weight: u8) -> Result<(), Error> {
        let _one = self.change.lock();
        self.expect_name(&spec)?;
        check_weight(weight)?;
        let candidate = warm(module, spec)?;
        self.publish(Deployed {
            stable: self.stable(),
            candidate: Some((candidate, weight)),
        });
        Ok(())
    }

    /// Another share for the candidate.
    pub fn set_weight(&self, weight: u8) -> Result<(), Error> {
        let _one = self.change.lock();
        check_weight(weight)?;
        let candidate = self.candidate()?;
        self.publish(Deployed {
            stable: self.stable(),
            candidate: Some((candidate, weight)),
        });
        Ok(())
    }

    /// All new streams go to the candidate from now on.
    pub fn promote(&self) -> Result<(), Error> {
        let _one = self.change.lock();
        let stable = self.candidate()?;
        stable.metrics.swaps.add(1);
        self.publish(Deployed {
            stable,
            candidate: None,
        });
        Ok(())
    }

    /// No new stream goes to the candidate any more.
    pub fn abandon(&self) -> Result<(), Error> {
        let _one = self.change.lock();
        self.candidate()?;
        self.publish(Deployed {
            stable: self.stable(),
            candidate: None,
        });
        Ok(())
    }

    /// The version of a new stream. Shares are exact: of each hundred streams, `weight` go to the candidate.
    pub(crate) fn pick(&self) -> Arc<Version> {
        let deployed = self.deployed.load();
        if let Some((candidate, weight)) = &deployed.candidate {
            let count = self.streams.fetch_add(1, Ordering::Relaxed) % 100;
            let weight = u64::from(*weight);
            // Spread evenly: the share rises by one where the running product passes a hundred.
            if (count * weight) % 100 + weight >= 100 && weight > 0 {
                return Arc::clone(candidate);
            }
        }
        Arc::clone(&deployed.stable)
    }

    /// Those that new streams may get.
    pub(crate) fn versions(&self) -> Vec<Arc<Version>> {
        let deployed = self.deployed.load();
        let candidate = deployed.candidate.iter().map(|(version, _)| version);
        candidate.chain([&deployed.stable]).cloned().collect()
    }

    fn publish(&self, next: Deployed) {
        let next = Arc::new(next);
        let before = self.deployed.swap(Arc::clone(&next));
        let kept = |version: &Arc<Version>| {
            let candidate = next.candidate.as_ref();
            version.id == next.stable.id || candidate.is_some_and(|(kept, _)| kept.id == version.id)
        };
        let candidate = before.candidate.iter().map(|(version, _)| version);
        for retired in candidate
            .chain([&before.stable])
            .filter(|version| !kept(version))
        {
            retired.retire();
        }
    }

    fn stable(&self) -> Arc<Version> {
        Arc::clone(&self.deployed.load().stable)
    }

    fn candidate(&self) -> Result<Arc<Version>, Error> {
        let deployed = self.deployed.load();
        let candidate = deployed.candidate.as_ref();
        let found = candidate.map(|(version, _)| Arc::clone(version));
        found.ok_or_else(|| Error::NoCandidate(deployed.stable.spec.name.to_string()))
    }

    fn expect_name(&self, spec: &PluginSpec) -> Result<(), Error> {
        let expected = self.name();
        if expected == spec.name {
            return Ok(());
        }
        Err(Error::Name {
            expected: expected.to_string(),
            found: spec.name.to_string(),
        })
    }
}

/// A plugin that no configuration names any more has no instance, no timer and no call of its own left.
impl Drop for Plugin {
    fn drop(&mut self) {
        for version in self.versions() {
            version.retire();
        }
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Plugin").field(&self.name()).finish()
    }
}

fn check_weight(weight: u8) -> Result<(), Error> {
    if weight <= 100 {
        return Ok(());
    }
    Err(Error::Weight(weight))
}

/// A version with an instance in every worker. If one of them cannot be made, none stays.
fn warm(module: &Module, spec: PluginSpec) -> Result<Arc<Version>, Error> {
    let version = Version::new(module.clone(), spec)?;
    let runtime: &Arc<RuntimeInner> = &module.inner.runtime;
    let workers = runtime.workers();
    if workers.is_empty() {
        WorkerInner::on_trial().warm(&version)?;
        return Ok(version);
    }
    for worker in &workers {
        if let Err(error) = worker.warm(&version) {
            workers.iter().for_each(|worker| worker.retire(version.id));
            return Err(error);
        }
    }
    Ok(version)
}
