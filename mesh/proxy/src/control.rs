//! The proxy's side of the control plane: what it knows, where from, and since when.
//!
//! Owns: [`State`], which every other part reads. Must not: decide about a request.
//! Read next: `snapshot.rs` for what is in the state; `control/machine.rs` for what becomes of a message; `control/client.rs`
//! for the connection; `control/saved.rs` for what survives this process.

mod machine;
mod policy;
mod saved;
mod usage;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::snapshot::Snapshot;

pub(crate) use usage::Usage;

/// What the whole process shares of the control plane's knowledge.
pub(crate) struct State {
    /// Swapped whole; an old one lives until its requests end.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Which policies decided, for the report of unused grants.
    pub(crate) usage: Usage,
    generation: watch::Sender<u64>,
}

impl State {
    /// A state that knows nothing, and under which everything is denied.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            usage: Usage::default(),
            generation: watch::Sender::new(0),
        })
    }

    /// Changes with every swap, after it: whoever wakes up reads the new snapshot. The number counts swaps of this
    /// process; the control plane's revision is in the snapshot.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Swaps the snapshot and wakes up everybody who watches.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
        self.generation.send_modify(|generation| *generation += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_wakes_up_reads_the_new_snapshot() {
        let state = State::new();
        let mut watch = state.subscribe();
        let mut next = Snapshot::empty();
        next.revision = 7;
        state.publish(Arc::new(next));
        watch.changed().await.unwrap();
        assert_eq!(*watch.borrow_and_update(), 1);
        assert_eq!(state.snapshot.load().revision, 7);
    }

    #[test]
    fn r32_a_new_state_denies_everything() {
        let state = State::new();
        let snapshot = state.snapshot.load();
        assert!(snapshot.policy.is_none());
        assert!(snapshot.services.is_empty());
    }
}
