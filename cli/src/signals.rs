//! The operator's signals, for what runs in the foreground.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Stop,
    /// New certificates now (SIGUSR1).
    Rotate,
}

/// Ctrl-C, SIGTERM or a closed terminal stop; SIGUSR1 rotates.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    rotate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|source| CliError::Io {
                what: "listening for signals".into(),
                source,
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            rotate: listen(SignalKind::user_defined1())?,
        })
    }

    /// The next signal. Nothing is lost when this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.hang_up.recv() => Wish::Stop,
            _ = self.rotate.recv() => Wish::Rotate,
        }
    }
}
