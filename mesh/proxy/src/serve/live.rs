//! Live connections and who is at their other end, so that they end when that one loses its right to them (R34).
//!
//! Owns: the rule by which a connection ends: its peer was revoked, its certificate has ended, or the edge is gone.
//! The worker asks twice a second and at every change of the mesh's state. Must not: know what a connection carries.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use ringwall_tls::{IdentitySource, PeerSide};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::peer::Peer;
use crate::snapshot::Snapshot;

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Live {
    entries: Mutex<HashMap<u64, Entry, RandomState>>,
    ids: AtomicU64,
}

/// Why a connection is there.
#[derive(Debug, Clone)]
pub(crate) enum Bond {
    /// This peer calls one of our `ports`; any of these edges will do.
    Caller { peer: Arc<Peer>, ports: Arc<[u16]> },
    /// We call this peer, for this service.
    Callee { peer: Arc<Peer>, service: Arc<str> },
    /// Our application calls this port, over whatever connection.
    Calling { service: Arc<str>, port: u16 },
}

#[derive(Debug)]
struct Entry {
    bond: Bond,
    task: AbortHandle,
    /// Where the connection can say goodbye; it is aborted when it does not end by the next look.
    cut: Option<Arc<Notify>>,
    condemned: bool,
}

impl Live {
    /// Unique within the worker.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Watches over a connection; `cut` is told first, where there is one.
    pub(crate) fn add(&self, id: u64, bond: Bond, task: AbortHandle, cut: Option<Arc<Notify>>) {
        let entry = Entry {
            bond,
            task,
            cut,
            condemned: false,
        };
        self.entries.lock().insert(id, entry);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.entries.lock().remove(&id);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Ends what has no right to live; returns how many that were.
    pub(crate) fn sweep(&self, workload: &str, snapshot: &Snapshot) -> u64 {
        let now = OffsetDateTime::now_utc();
        self.end(|bond| bond.broken(workload, snapshot, now))
    }

    /// Verifies every peer again: our roots or revocation lists have changed.
    pub(crate) fn verify(&self, source: &IdentitySource) -> u64 {
        self.end(|bond| (!bond.is_genuine(source)).then_some("no longer genuine"))
    }

    fn end(&self, broken: impl Fn(&Bond) -> Option<&'static str>) -> u64 {
        let mut ended = 0;
        self.entries.lock().retain(|_, entry| {
            if entry.condemned {
                entry.task.abort();
                return false;
            }
            let Some(why) = broken(&entry.bond) else {
                return true;
            };
            ended += 1;
            tracing::info!(bond = %entry.bond, why, "live connection ended");
            match &entry.cut {
                Some(cut) => {
                    cut.notify_one();
                    entry.condemned = true;
                    true
                }
                None => {
                    entry.task.abort();
                    false
                }
            }
        });
        ended
    }
}

impl Bond {
    fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Caller { peer, .. } | Self::Callee { peer, .. } => Some(peer),
            Self::Calling { .. } => None,
        }
    }

    fn is_genuine(&self, source: &IdentitySource) -> bool {
        match self {
            Self::Caller { peer, .. } => peer.is_genuine(source, PeerSide::Caller),
            Self::Callee { peer, .. } => peer.is_genuine(source, PeerSide::Server),
            Self::Calling { .. } => true,
        }
    }

    /// Why the connection must end; `None` while it may live.
    pub(crate) fn broken(
        &self,
        workload: &str,
        snapshot: &Snapshot,
        now: OffsetDateTime,
    ) -> Option<&'static str> {
        if let Some(peer) = self.peer() {
            if peer.is_revoked(&snapshot.revocations) {
                return Some("revoked");
            }
            if peer.is_expired(now) {
                return Some("certificate expired");
            }
        }
        match self {
            Self::Caller { peer, ports } => {
                let Some(policy) = &snapshot.policy else {
                    return Some("no policy");
                };
                let allowed = ports
                    .iter()
                    .any(|port| policy.allows_edge(peer.name(), workload, *port));
                (!allowed).then_some("edge removed")
            }
            Self::Callee { service, .. } => callable(workload, snapshot, service, None),
            Self::Calling { service, port } => callable(workload, snapshot, service, Some(*port)),
        }
    }
}

/// Why we may not call `service`, on `port` or on any at all.
fn callable(
    workload: &str,
    snapshot: &Snapshot,
    service: &str,
    port: Option<u16>,
) -> Option<&'static str> {
    let Some(known) = snapshot.services.get(service) else {
        return Some("service removed");
    };
    // Without a policy nothing new is begun; what was begun under one stays until there is another.
    let policy = snapshot.policy.as_ref()?;
    let mut ports = known.ports.iter().map(|known| known.number);
    let allowed = ports.any(|known| {
        port.is_none_or(|port| port == known) && policy.allows_edge(workload, service, known)
    });
    (!allowed).then_some("edge removed")
}

impl fmt::Display for Bond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller { peer, .. } | Self::Callee { peer, .. } => peer.id.fmt(f),
            Self::Calling { service, port } => write!(f, "{service}:{port}"),
        }
    }
}
