//! The SVIDs of this node's workloads: one for each that has been asked for, kept fresh.
//!
//! Owns: who has one at the moment, and the end of it with the registration.
//! Must not: decide who is calling (`attest.rs` does). The keys live in memory alone.
//! Read next: `renewal.rs` for when they are renewed, `api.rs` for who gets them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1::Registration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::metrics::Metrics;
use crate::plane::Want;
use crate::renewal::{Issued, Renewals};
use crate::trust::{Current, Trust};

/// What a workload has.
#[derive(Clone)]
pub(crate) enum State {
    /// Nothing yet; why, where an attempt has failed.
    Waiting(Option<String>),
    Ready(Arc<Issued>),
    /// It is not registered here any more.
    Ended,
}

/// All of them. Dropping it ends every renewal.
pub(crate) struct Workloads {
    renewals: Arc<Renewals>,
    trust: Current,
    metrics: Metrics,
    entries: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    registration: Registration,
    state: Arc<watch::Sender<State>>,
    renewing: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Workloads {
    pub(crate) fn new(renewals: Arc<Renewals>, trust: Current, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            renewals,
            trust,
            metrics,
            entries: Mutex::default(),
        })
    }

    /// The state of `workload` from now on; begins its renewal at the first call. `None` when it may
    /// not run here. Call it inside a tokio runtime.
    pub(crate) fn follow(&self, workload: &str) -> Option<watch::Receiver<State>> {
        // The lock comes first: a revision of the entries then sees at least this trust.
        let mut entries = self.entries.lock();
        let trust = self.trust.borrow().clone()?;
        let registration = trust.workload(workload)?;
        if let Some(entry) = entries.get(workload) {
            return Some(entry.state.subscribe());
        }
        let state = Arc::new(watch::Sender::new(State::Waiting(None)));
        let entry = self.entry(registration, state);
        let receiver = entry.state.subscribe();
        entries.insert(workload.to_owned(), entry);
        Some(receiver)
    }

    fn entry(&self, registration: &Registration, state: Arc<watch::Sender<State>>) -> Entry {
        let renewing = tokio::spawn(renew(
            Arc::clone(&self.renewals),
            registration.clone(),
            Arc::clone(&state),
            self.metrics.clone(),
        ));
        Entry {
            registration: registration.clone(),
            state,
            renewing: renewing.abort_handle(),
        }
    }

    /// Follows the registrations for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut trust = self.trust.clone();
        while trust.changed().await.is_ok() {
            let current = trust.borrow_and_update().clone();
            if let Some(current) = current {
                self.revise(&current);
            }
        }
    }

    fn revise(&self, trust: &Trust) {
        let mut entries = self.entries.lock();
        entries.retain(|workload, entry| {
            if trust.workload(workload).is_some() {
                return true;
            }
            tracing::warn!(workload, "this workload may not run here any more");
            entry.state.send_replace(State::Ended);
            self.metrics.svid_gone(workload);
            false
        });
        for (workload, entry) in entries.iter_mut() {
            let Some(registration) = trust.workload(workload) else {
                continue;
            };
            let revoked = match &*entry.state.borrow() {
                State::Ready(issued) => {
                    issued.chain.first().is_some_and(|leaf| trust.revokes(leaf))
                }
                _ => false,
            };
            if revoked || *registration != entry.registration {
                tracing::info!(workload, revoked, "a new SVID is needed");
                *entry = self.entry(registration, Arc::clone(&entry.state));
            }
        }
    }
}

async fn renew(
    renewals: Arc<Renewals>,
    registration: Registration,
    state: Arc<watch::Sender<State>>,
    metrics: Metrics,
) {
    let workload = registration.workload.clone();
    // Trust has checked that it is one.
    let Ok(id) = SpiffeId::parse(&registration.spiffe_id) else {
        return;
    };
    let want = Want::Svid {
        workload: workload.clone(),
    };
    let take = |result: Result<Issued, _>| {
        let checked = result.and_then(|issued| issued.check_svid(&id).map(|()| issued));
        match checked {
            Ok(issued) => {
                tracing::info!(workload, not_after = %issued.not_after, "an SVID is issued");
                metrics.svid(&workload, issued.not_after.unix_timestamp());
                state.send_replace(State::Ready(Arc::new(issued)));
                ControlFlow::Continue(true)
            }
            Err(error) => {
                tracing::warn!(workload, %error, "an SVID is not issued; the last good one serves on");
                state.send_if_modified(|state| match state {
                    State::Waiting(why) => {
                        *why = Some(error.to_string());
                        true
                    }
                    _ => false,
                });
                ControlFlow::Continue(false)
            }
        }
    };
    renewals.keep(want, None, take).await;
}

#[cfg(test)]
mod tests;
