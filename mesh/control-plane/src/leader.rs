//! Which of several replicas leads: one lease in the shared store, renewed while its holder lives.
//!
//! Owns: asking for the lease, and telling everybody in this process who leads.
//! Must not: be believed at a write. Writes that only the leader may make carry its [`Fence`], and
//! the store refuses those of a holder that was replaced meanwhile.
//! Read next: `leader/lease.rs` (the state machine), `store/postgres.rs` (`lead`, `holds`).

mod lease;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use self::lease::{Lease, Moment, TTL};
use crate::Clock;
use crate::error::Error;
use crate::store::Store;
use crate::store::model::Fence;

/// Who leads, in errors, when no replica is known to.
pub(crate) const NOBODY: &str = "nobody";
/// Longest wait for one answer of the store.
const PATIENCE: Duration = Duration::from_secs(2);
/// A sleeping machine is noticed this soon after it wakes.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// This replica's part in the leadership.
pub(crate) struct Leadership {
    lease: Mutex<Lease>,
    clock: Clock,
    start: Instant,
    standing: watch::Sender<Standing>,
}

/// Who leads, for status and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Name of the holder; empty when nobody is known to lead.
    pub(crate) leader: String,
    pub(crate) is_leader: bool,
    pub(crate) epoch: u64,
}

impl Leadership {
    /// A replica that will ask under the name `holder`, which must be unique to this process.
    pub(crate) fn new(holder: String, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            lease: Mutex::new(Lease::new(holder)),
            clock,
            start: Instant::now(),
            standing: watch::Sender::new(Standing::default()),
        })
    }

    /// The proof of leadership for a write.
    ///
    /// # Errors
    /// [`Error::NotLeader`] names who leads instead.
    pub(crate) fn fence(&self) -> Result<Fence, Error> {
        let now = self.now();
        let lease = self.lease.lock();
        lease.fence(now).ok_or_else(|| Error::NotLeader {
            leader: lease.leader(now).unwrap_or(NOBODY).to_owned(),
        })
    }

    /// Who leads now.
    pub(crate) fn standing(&self) -> Standing {
        let now = self.now();
        let lease = self.lease.lock();
        let fence = lease.fence(now);
        Standing {
            leader: lease.leader(now).unwrap_or_default().to_owned(),
            is_leader: fence.is_some(),
            epoch: fence.map_or(0, |fence| fence.epoch),
        }
    }

    /// Tells of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Asks once; for the start, so that a single replica leads before it serves.
    pub(crate) async fn ask(&self, store: &dyn Store) {
        let (asked, holder) = (self.now(), self.lease.lock().holder().to_owned());
        let answer = tokio::time::timeout(PATIENCE, store.lead(&holder, TTL)).await;
        match answer {
            Ok(Ok(claim)) => self.lease.lock().answered(asked, &claim),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot ask for the leadership");
                self.lease.lock().failed(self.now());
            }
            Err(_elapsed) => {
                tracing::warn!("no answer about the leadership");
                self.lease.lock().failed(self.now());
            }
        }
        self.publish();
    }

    /// Holds or seeks the leadership until `stop`, and then gives it back.
    pub(crate) async fn run(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let wait = self.lease.lock().wait(self.now()).min(MAX_WAIT);
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(wait) => {}
            }
            if self.lease.lock().wait(self.now()).is_zero() {
                self.ask(&*store).await;
            } else {
                self.publish();
            }
        }
        if let Ok(fence) = self.fence() {
            // The next leader need not wait; if this fails, it waits for the lease's end.
            let resigned = tokio::time::timeout(PATIENCE, store.resign(&fence)).await;
            tracing::info!(ok = matches!(resigned, Ok(Ok(()))), "leadership given back");
        }
    }

    fn publish(&self) {
        let now = self.standing();
        self.standing.send_if_modified(|before| {
            if *before == now {
                return false;
            }
            tracing::info!(
                leader = now.leader,
                is_leader = now.is_leader,
                epoch = now.epoch,
                "leadership"
            );
            *before = now;
            true
        });
    }

    fn now(&self) -> Moment {
        Moment {
            up: self.start.elapsed(),
            wall: (self.clock)(),
        }
    }
}

#[cfg(test)]
mod tests;
