//! Taking over a changed configuration without losing a request.
//!
//! Owns: when to look (SIGHUP, or the file's change seen within a second), and the rule that a configuration is
//! taken over whole or not at all: with any fault the last good one serves on. Must not: compile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ringwall_service::config::{parse_yaml, place, read};
use ringwall_service::{ComponentConfig as _, Profile, Shell};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::error::GatewayError;
use crate::snapshot::{Snapshot, compile};
use crate::tokens::Tokens;
use crate::worker::Shared;

const POLL: Duration = Duration::from_secs(1);

/// The configuration file and what was last taken from it.
pub(crate) struct Reloader {
    shell: Shell,
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
    pub(crate) fn new(shell: Shell, shared: Arc<Shared>, file: PathBuf, current: Config) -> Self {
        let seen = stamp(&file);
        Self {
            shell,
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
                tracing::error!(%error, "SIGHUP cannot be heard; the configuration will not be reloaded");
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

    pub(crate) fn reload(&mut self) {
        let file = self.file.display().to_string();
        match self.take_over() {
            Ok(snapshot) => {
                self.shared.metrics.reloaded(true);
                tracing::info!(%file, version = snapshot.version, routes = snapshot.routes(), "configuration taken over");
            }
            Err(error) => {
                self.shared.metrics.reloaded(false);
                tracing::error!(%file, %error, "configuration refused; the last good one serves on");
            }
        }
    }

    fn take_over(&mut self) -> Result<Arc<Snapshot>, GatewayError> {
        let text = read(&self.file)?;
        let config: Config = parse_yaml(&text, &self.file)?;
        config
            .validate()
            .map_err(|error| place(error, &self.file, &text))?;
        if config.service.profile == Profile::Production
            && let Some(refusal) = config.production_refusals().first()
        {
            return Err(GatewayError::Production(refusal.to_string()));
        }
        let version = self.shared.snapshot.load().version + 1;
        let plugins = &self.shared.plugins;
        let plugins = plugins.prepare(&config.plugins, &config.plugin_keys)?;
        let tokens = (config.tokens != self.current.tokens)
            .then(|| self.tokens(&config))
            .transpose()?;
        self.warn_of_fixed_parts(&config);
        // All of it was tried before: nothing is expected to fail from here on.
        let loaded = self.shared.plugins.serve(plugins)?;
        let snapshot = compile(&config, version, &loaded).map_err(GatewayError::Compile)?;
        let snapshot = Arc::new(snapshot);
        if let Some(tokens) = tokens {
            self.shared.tokens.store(tokens.map(Arc::new));
        }
        self.shared.snapshot.store(Arc::clone(&snapshot));
        self.current = config;
        Ok(snapshot)
    }

    fn tokens(&self, config: &Config) -> Result<Option<Tokens>, GatewayError> {
        let control = tokio::runtime::Handle::current();
        config
            .tokens
            .as_ref()
            .map(|tokens| Tokens::new(&self.shell, tokens, &control))
            .transpose()
            .map_err(|error| GatewayError::Tokens(error.to_string()))
    }

    /// Sockets and threads are made once.
    fn warn_of_fixed_parts(&self, config: &Config) {
        let old = &self.current;
        for (part, changed) in [
            ("service", text_of(&config.service) != text_of(&old.service)),
            ("listeners", config.listeners != old.listeners),
            ("abuse", config.abuse != old.abuse),
            ("workers", config.workers != old.workers),
            ("connections", config.connections != old.connections),
            ("access_log", config.access_log != old.access_log),
        ] {
            if changed {
                tracing::warn!(
                    part,
                    "this part of the configuration changes with a restart only"
                );
            }
        }
    }
}

fn text_of(service: &ringwall_service::ServiceConfig) -> Option<String> {
    serde_json::to_string(service).ok()
}

fn stamp(file: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(file).ok()?;
    Some(Stamp {
        modified: metadata.modified().ok()?,
        length: metadata.len(),
        inode: metadata.ino(),
    })
}
