//! Taking over changed plugins without losing a request.
//!
//! Owns: when to look (SIGHUP, or the file's change seen within a second), and the rule that plugins and chains are taken over
//! whole or not at all: with any fault the last good ones serve on. Everything else in the file changes with a restart.
//! Must not: touch what the control plane says.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ringwall_service::config::{parse_yaml, place, read};
use ringwall_service::{ComponentConfig as _, ConfigError, Profile};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::plugins::Filters;
use crate::worker::Shared;

const POLL: Duration = Duration::from_secs(1);

/// Why a file is not taken over.
#[derive(Debug, Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("refused by the production profile: {0}")]
    Production(String),
    #[error("plugins: {0}")]
    Plugins(#[from] ringwall_plugin_host::Error),
}

/// The configuration file and what was last taken from it.
pub(crate) struct Reloader {
    shared: Arc<Shared>,
    file: PathBuf,
    current: Config,
    seen: Option<Stamp>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Reloader {
    pub(crate) fn new(shared: Arc<Shared>, file: PathBuf, current: Config) -> Self {
        let seen = stamp(&file);
        Self {
            shared,
            file,
            current,
            seen,
        }
    }

    /// Watches until the process ends.
    pub(crate) async fn run(mut self) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                tracing::error!(%error, "SIGHUP cannot be heard; plugins will not be reloaded");
                return;
            }
        };
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(POLL) => false,
            };
            let now = stamp(&self.file);
            if asked || (now.is_some() && now != self.seen) {
                self.seen = now;
                self.reload();
            }
        }
    }

    /// Looks now; whether what the file says is in force.
    pub(crate) fn reload(&mut self) -> bool {
        let file = self.file.display().to_string();
        let taken = self.take_over();
        self.shared.metrics.reloaded(taken.is_ok());
        match taken {
            Ok(()) => {
                let plugins = self.current.plugins.len();
                tracing::info!(%file, plugins, "plugins taken over");
                true
            }
            Err(error) => {
                tracing::error!(%file, %error, "configuration refused; the last good plugins serve on");
                false
            }
        }
    }

    fn take_over(&mut self) -> Result<(), ReloadError> {
        let text = read(&self.file)?;
        let config: Config = parse_yaml(&text, &self.file)?;
        config
            .validate()
            .map_err(|error| place(error, &self.file, &text))?;
        if config.service.profile == Profile::Production
            && let Some(refusal) = config.production_refusals().first()
        {
            return Err(ReloadError::Production(refusal.to_string()));
        }
        let plugins = &self.shared.plugins;
        let changes = plugins.prepare(&config.plugins, &config.plugin_keys)?;
        if fixed(&config) != fixed(&self.current) {
            tracing::warn!(
                "something other than plugins and filters has changed: that needs a restart"
            );
        }
        // All of it was tried before: nothing is expected to fail from here on.
        let loaded = plugins.serve(changes)?;
        let filters = Filters::of(&config, &loaded);
        self.shared.filters.store(Arc::new(filters));
        self.current = config;
        Ok(())
    }
}

/// What a running proxy cannot change.
fn fixed(config: &Config) -> Option<String> {
    let mut fixed = config.clone();
    fixed.plugins.clear();
    fixed.plugin_keys.clear();
    fixed.outbound.filters.clear();
    for inbound in &mut fixed.inbound {
        inbound.filters.clear();
    }
    serde_json::to_string(&fixed).ok()
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(Stamp {
        modified: metadata.modified().ok()?,
        length: metadata.len(),
        inode: metadata.ino(),
    })
}
