//! Whether the peer of a live connection is still believed (R34).
//!
//! Owns: looking again whenever our own identity, the trust bundle or a revocation list changes, and
//! when the peer's certificate ends. Must not: know requests; `server.rs` ends the connection.

use std::{sync::Arc, time::Duration};

use ringwall_identity::svid::validity_of;
use ringwall_tls::{IdentitySource, PeerSide};
use rustls::{
    CertificateError, CommonState, Error,
    pki_types::{CertificateDer, UnixTime},
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between two looks at the wall clock: a machine may have slept.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// The peer's certificates, and who judges them.
pub(super) struct Standing {
    chain: Vec<CertificateDer<'static>>,
    not_after: OffsetDateTime,
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
        Self {
            chain,
            not_after,
            identity: Arc::clone(identity),
            changes,
        }
    }

    /// Resolves with the reason when the peer would not be let in any more. When its certificate has
    /// merely ended, `ended` is cancelled instead: it was genuine when the open requests began.
    pub(super) async fn lost(mut self, ended: &CancellationToken) -> String {
        loop {
            let left = (self.not_after - OffsetDateTime::now_utc()).max(time::Duration::ZERO);
            let wait = left.unsigned_abs().min(LOOK_AT_LEAST_EVERY);
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    if let Err(why) = self.judge() {
                        return why;
                    }
                }
                () = tokio::time::sleep(wait), if !ended.is_cancelled() => {
                    if OffsetDateTime::now_utc() >= self.not_after {
                        ended.cancel();
                    }
                }
            }
        }
    }

    fn judge(&self) -> Result<(), String> {
        let verdict = self
            .identity
            .verify_peer(&self.chain, PeerSide::Caller, UnixTime::now());
        match verdict {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
