//! Watching files by polling: works on every file system and under every way of replacing a file.
//!
//! Owns: the rule that a broken replacement never takes the place of working material, and that it
//! is reported once and not at every poll.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ringwall_secret::private_file::Stamp;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::TlsError;

/// Something that reads its files again when they have changed.
pub(crate) trait Reload: Send + Sync + 'static {
    /// What is reloaded, for the log.
    const WHAT: &'static str;

    /// Reads changed files. `Ok(true)` when new material is in use from now on.
    fn reload(&self) -> Result<bool, TlsError>;
}

/// Polls `source` until it is dropped or the handle is aborted.
pub(crate) fn spawn<S: Reload>(source: &Arc<S>, every: Duration) -> JoinHandle<()> {
    let source: Weak<S> = Arc::downgrade(source);
    tokio::spawn(async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures: u32 = 0;
        loop {
            ticks.tick().await;
            let Some(source) = source.upgrade() else {
                return;
            };
            match source.reload() {
                Ok(true) => info!(what = S::WHAT, "new certificates are in use"),
                Ok(false) => {}
                Err(error) => {
                    failures += 1;
                    // Key and certificate are replaced one after the other: one failure between the
                    // two is normal. The second one in a row is a fault that a person must see.
                    if failures == 2 {
                        warn!(what = S::WHAT, %error, "new certificates refused, the last good ones serve on");
                    }
                    continue;
                }
            }
            failures = 0;
        }
    })
}

/// Versions of a set of files, to see whether any of them has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versions(Vec<Option<Stamp>>);

impl Versions {
    pub(crate) fn of(paths: &[PathBuf]) -> Result<Self, TlsError> {
        let stamps = paths
            .iter()
            .map(|path: &PathBuf| Stamp::of(Path::new(path)).map(Some));
        Ok(Self(stamps.collect::<Result<_, _>>()?))
    }

    /// The same with one more file, which need not be there.
    pub(crate) fn with_optional(paths: &[PathBuf], optional: &Path) -> Result<Self, TlsError> {
        let mut versions = Self::of(paths)?;
        let stamp = if optional.exists() {
            Some(Stamp::of(optional)?)
        } else {
            None
        };
        versions.0.push(stamp);
        Ok(versions)
    }
}
