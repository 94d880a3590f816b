//! The plugins of a process: loaded once, served to all workers, replaced while streams are under way.
//!
//! Owns: which plugins run, by name. A configuration's plugins are all read, verified and tried before the first of them
//! serves: with any fault the last good ones go on. Without plugins there is no engine. Must not: know what names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::sys::statvfs::{FsFlags, statvfs};
use parking_lot::Mutex;

use crate::callouts::Callouts;
use crate::config::{PluginConfig, Prepared, public_keys};
use crate::error::Error;
use crate::plugin::Plugin;
use crate::runtime::{Runtime, RuntimeOptions};
use crate::worker::Worker;

/// Plugins that serve, by name.
#[derive(Debug, Clone, Default)]
pub struct Loaded(BTreeMap<String, Arc<Plugin>>);

impl Loaded {
    pub fn get(&self, name: &str) -> Option<Arc<Plugin>> {
        self.0.get(name).cloned()
    }
}

/// The engine and what runs in it.
pub struct Plugins {
    cache: Option<PathBuf>,
    runtime: OnceLock<Runtime>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// With the digests of their modules.
    configs: Vec<(PluginConfig, Vec<String>)>,
    loaded: Loaded,
}

/// The plugins of a configuration, ready to serve.
pub struct Changes {
    /// In their order; `None` is as before.
    plugins: Vec<(PluginConfig, Vec<String>, Option<Prepared>)>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").finish_non_exhaustive()
    }
}

impl Plugins {
    /// `state`: where compiled modules are kept over restarts.
    pub fn new(state: Option<PathBuf>) -> Self {
        Self {
            cache: state.map(|folder| folder.join("plugins")),
            runtime: OnceLock::new(),
            current: Mutex::default(),
        }
    }

    /// Reads, verifies and tries what has changed, including files behind unchanged lines. Nothing serves differently yet.
    pub fn prepare(&self, configs: &[PluginConfig], keys: &[PathBuf]) -> Result<Changes, Error> {
        let mut plugins = Vec::new();
        if !configs.is_empty() {
            let runtime = self.runtime()?;
            let keys = public_keys(keys)?;
            for plugin in configs {
                let prepared = plugin.prepare(&runtime, &keys)?;
                let digests = prepared.digests();
                let serves = self.serves(plugin, &digests);
                plugins.push((plugin.clone(), digests, (!serves).then_some(prepared)));
            }
        }
        Ok(Changes { plugins })
    }

    /// Serves them from now on. Streams under way keep the version that they began with.
    pub fn serve(&self, changes: Changes) -> Result<Loaded, Error> {
        let mut current = self.current.lock();
        let mut loaded = BTreeMap::new();
        let mut configs = Vec::new();
        for (config, digests, prepared) in changes.plugins {
            let before = current.loaded.get(&config.name);
            let plugin = match (prepared, before) {
                (Some(prepared), before) => prepared.serve(before.as_ref())?,
                (None, Some(before)) => before,
                (None, None) => continue,
            };
            loaded.insert(config.name.clone(), plugin);
            configs.push((config, digests));
        }
        *current = Current {
            configs,
            loaded: Loaded(loaded),
        };
        Ok(current.loaded.clone())
    }

    /// Whether there is an engine: there was a plugin at some time.
    pub fn has_engine(&self) -> bool {
        self.runtime.get().is_some()
    }

    /// What plugins count, and what is counted about them.
    pub fn metrics(&self) -> String {
        self.runtime.get().map(Runtime::metrics).unwrap_or_default()
    }

    /// Who runs the plugins of the tokio runtime in which this is called; none while there is no plugin.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn worker(&self, callouts: Arc<dyn Callouts>) -> Option<Worker> {
        let runtime = self.runtime.get()?;
        Some(Worker::new(runtime, callouts))
    }

    /// Whether this very plugin, with these modules, is what serves.
    fn serves(&self, config: &PluginConfig, digests: &[String]) -> bool {
        let current = self.current.lock();
        let mut known = current.configs.iter();
        known.any(|(known, with)| known == config && with == digests)
    }

    fn runtime(&self) -> Result<Runtime, Error> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime.clone());
        }
        let runtime = Runtime::new(RuntimeOptions {
            cache: self.cache.clone().filter(|folder| can_be_made(folder)),
            ..RuntimeOptions::default()
        })?;
        Ok(self.runtime.get_or_init(|| runtime).clone())
    }
}

/// Whether there can be a cache at all. On a file system that is read-only (a container without a volume for it) there is none,
/// and modules are compiled at each start; a folder that others may write to is refused, not passed over.
fn can_be_made(folder: &Path) -> bool {
    let parent = folder.parent().unwrap_or(folder);
    let is_read_only = match std::fs::create_dir_all(parent) {
        Err(error) => error.kind() == std::io::ErrorKind::ReadOnlyFilesystem,
        Ok(()) => statvfs(parent).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY)),
    };
    if is_read_only {
        let folder = folder.display();
        tracing::info!(%folder, "plugins are compiled at each start: there is no place to keep them");
    }
    !is_read_only
}
