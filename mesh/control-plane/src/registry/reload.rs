//! The registry follows its file: on SIGHUP and whenever the file changes, without a restart.
//!
//! Owns: the rule that a broken file never takes the place of a working registry, and is reported
//! once. Must not: change anything but what [`Declared`] holds; the rest needs a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringwall_secret::private_file::Stamp;
use ringwall_service::config::{parse_yaml, place, read};
use ringwall_service::{ComponentConfig, ConfigError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Registry;
use crate::config::Config;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the configuration file declares at the moment.
#[derive(Debug)]
pub(crate) struct Declared {
    /// The whole file. Only the registry, and what subscribers take from here, follow a change.
    pub(crate) config: Config,
    pub(crate) registry: Registry,
}

/// The file and what was last read from it.
pub(crate) struct ConfigFile {
    path: PathBuf,
    seen: Option<Stamp>,
    current: watch::Sender<Arc<Declared>>,
}

impl Declared {
    pub(crate) fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self {
            registry: Registry::new(&config)?,
            config,
        })
    }
}

impl ConfigFile {
    /// A file whose content is known already: that of the start.
    pub(crate) fn new(path: PathBuf, config: Config) -> Result<Self, ConfigError> {
        let seen = Stamp::of(&path).ok();
        let current = watch::Sender::new(Arc::new(Declared::new(config)?));
        Ok(Self {
            path,
            seen,
            current,
        })
    }

    /// Tells of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Declared>> {
        self.current.subscribe()
    }

    /// Looks at the file for ever.
    pub(crate) async fn follow(mut self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            let asked = async {
                match &mut hangup {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = ticks.tick() => self.look(false),
                Some(()) = asked => self.look(true),
            }
        }
    }

    /// Reads the file if it has changed, or if `asked`.
    fn look(&mut self, asked: bool) {
        let stamp = Stamp::of(&self.path).ok();
        if stamp.is_none() || (stamp == self.seen && !asked) {
            return;
        }
        self.seen = stamp;
        match self.read() {
            Ok(declared) => {
                let services = declared.config.services.len();
                tracing::info!(services, "the registry was read again");
                self.current.send_replace(Arc::new(declared));
            }
            Err(error) => tracing::error!(%error, "the registry stays as it was"),
        }
    }

    fn read(&self) -> Result<Declared, ConfigError> {
        let text = read(&self.path)?;
        let config: Config = parse_yaml(&text, &self.path)?;
        config
            .validate()
            .and_then(|()| Declared::new(config))
            .map_err(|error| place(error, &self.path, &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn write(path: &std::path::Path, text: &str) {
        // Another inode, as editors and the supervisor replace files.
        let next = path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn r53_a_changed_file_takes_effect_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control-plane.yaml");
        let text = testing::config_text(folder.path());
        write(&path, &text);
        let config = testing::parse(&text);
        let file = ConfigFile::new(path.clone(), config).unwrap();
        let mut declared = file.subscribe();
        let following = tokio::spawn(file.follow());
        assert!(declared.borrow().registry.service("orders").is_some());

        let inventory = "  - { name: newcomer, owner: x, nodes: [local] }\n";
        write(&path, &format!("{text}{inventory}"));
        declared.changed().await.unwrap();
        let seen = declared.borrow_and_update().clone();
        assert!(seen.registry.on_node("newcomer", "local").is_some());
        assert!(seen.registry.on_node("newcomer", "elsewhere").is_none());
        let names: Vec<_> = seen
            .registry
            .registrations("local")
            .into_iter()
            .map(|registration| registration.workload)
            .collect();
        assert!(names.contains(&"newcomer".to_owned()), "{names:?}");
        assert!(seen.registry.registrations("elsewhere").is_empty());

        write(&path, &format!("{text}{inventory}{inventory}"));
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert!(!declared.has_changed().unwrap(), "a duplicate is refused");
        write(&path, &text);
        declared.changed().await.unwrap();
        assert!(declared.borrow().registry.service("newcomer").is_none());
        following.abort();
    }
}
