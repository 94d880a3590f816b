//! The one thread that advances the engine's epoch.
//!
//! Owns: that thread, which ends with the runtime. Must not: judge anybody; `instance/deadline.rs` does.

use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use wasmtime::Engine;

use crate::error::Error;

/// Ends the thread when dropped.
pub(crate) struct Ticker {
    _stop: SyncSender<()>,
}

impl Ticker {
    pub(crate) fn start(engine: &Engine, tick: Duration) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::sync_channel(0);
        let engine = engine.weak();
        let tick = tick.max(Duration::from_micros(100));
        thread::Builder::new()
            .name("plugin-epochs".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(tick) {
                    let Some(engine) = engine.upgrade() else {
                        return;
                    };
                    engine.increment_epoch();
                }
            })
            .map_err(Error::Ticker)?;
        Ok(Self { _stop: stop })
    }
}
