//! Whether the peer of a live connection is still believed (R34).
//!
//! Owns: looking again whenever our own identity, the trust bundle or a revocation list changes, and when the peer's
//! certificate ends. Some time before that the peer is asked for another connection: it has had a new certificate since
//! half of the life of the old one, and so no request is on the connection when it ends (R33).
//! Must not: know requests; `server.rs` ends the connection.

use std::{sync::Arc, time::Duration};

use ringwall_identity::svid::validity_of;
use ringwall_tls::{IdentitySource, PeerSide, usable_for};
use rustls::{
    CommonState,
    pki_types::{CertificateDer, UnixTime},
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between two looks at the wall clock: it may have been set, and a machine may have slept.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// In the ordinary way: whoever is at the other end has had its time to connect anew.
    Expired,
    /// The peer would not be let in any more.
    Disbelieved(String),
}

/// The peer's certificates, and who judges them.
pub(super) struct Standing {
    chain: Vec<CertificateDer<'static>>,
    not_after: OffsetDateTime,
    /// When the peer is asked for another connection.
    wanes: OffsetDateTime,
    identity: Arc<IdentitySource>,
    changes: watch::Receiver<u64>,
}

impl Standing {
    /// The standing of a peer after its handshake. `changes` is from before it, so that no change is
    /// missed between the two.
    pub(super) fn of(
        identity: &Arc<IdentitySource>,
        changes: watch::Receiver<u64>,
        connection: &CommonState,
    ) -> Self {
        let chain: Vec<_> = connection
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let not_after = chain
            .first()
            .and_then(|leaf| validity_of(leaf).ok())
            .map_or(OffsetDateTime::UNIX_EPOCH, |(_, end)| end);
        let now = OffsetDateTime::now_utc();
        let left = (not_after - now).max(time::Duration::ZERO);
        Self {
            chain,
            not_after,
            wanes: now + usable_for(left.unsigned_abs()),
            identity: Arc::clone(identity),
            changes,
        }
    }

    /// Resolves when the connection has to end; before that, when its certificate is about to, `waning` is cancelled.
    pub(super) async fn lost(mut self, waning: &CancellationToken) -> Lost {
        loop {
            let now = OffsetDateTime::now_utc();
            if now >= self.not_after {
                return Lost::Expired;
            }
            if now >= self.wanes {
                waning.cancel();
            }
            let next = match waning.is_cancelled() {
                true => self.not_after,
                false => self.wanes,
            };
            let wait = (next - now).max(time::Duration::ZERO).unsigned_abs();
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    if let Err(why) = self.judge() {
                        return Lost::Disbelieved(why);
                    }
                }
                () = tokio::time::sleep(wait.min(LOOK_AT_LEAST_EVERY)) => {}
            }
        }
    }

    fn judge(&self) -> Result<(), String> {
        let verdict = self
            .identity
            .verify_peer(&self.chain, PeerSide::Caller, UnixTime::now());
        verdict.map(drop).map_err(|error| error.to_string())
    }
}
