//! Who may connect, asked inside the handshake: an edge, or no connection (R50).
//!
//! Owns: the order: own trust domain, a policy at all (R32), not revoked (R34), an edge to one of the ports.

use std::sync::Arc;

use ringwall_identity::SpiffeId;
use ringwall_tls::{Gatekeeper, PeerPolicy};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::control::State;
use crate::serve::peer::Peer;
use crate::worker::Shared;

/// The gatekeeper of one listener.
pub(crate) struct Gate {
    state: Arc<State>,
    own: SpiffeId,
    workload: Arc<str>,
    ports: Arc<[u16]>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl Gate {
    pub(crate) fn new(shared: &Shared, ports: &Arc<[u16]>) -> Self {
        Self {
            state: Arc::clone(&shared.state),
            own: shared.id.clone(),
            workload: Arc::clone(&shared.workload),
            ports: Arc::clone(ports),
        }
    }

    pub(crate) fn policy(self) -> PeerPolicy {
        PeerPolicy::Asked(Arc::new(self))
    }
}

impl Gatekeeper for Gate {
    fn admit(&self, peer: &SpiffeId, leaf: &CertificateDer<'_>) -> Result<(), &'static str> {
        if peer.trust_domain() != self.own.trust_domain() {
            return Err("another trust domain");
        }
        let snapshot = self.state.snapshot.load();
        let policy = snapshot
            .policy
            .as_ref()
            .ok_or("no policy has arrived yet")?;
        let facts = Peer::from_der(leaf).map_err(|_| "not a workload")?;
        if facts.is_revoked(&snapshot.revocations) {
            return Err("revoked");
        }
        let edge = |port: &u16| policy.allows_edge(peer.path(), &self.workload, *port);
        if self.ports.iter().any(edge) {
            Ok(())
        } else {
            Err("no edge")
        }
    }
}
