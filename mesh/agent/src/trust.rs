//! What the agent knows without asking: roots, keys, revocations, and who may run on this node.
//!
//! Owns: the stream of trust, its last good state in memory and on disk, and the answers about it.
//! Must not: believe a state without roots. Read next: `workloads.rs` and `api.rs`, which ask.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_mesh_api::v1::{self, Registration};
use ringwall_secret::private_file;
use ringwall_token::{JwkSet, VerifyingKeys};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::error::AgentError;
use crate::pem;
use crate::plane::ControlPlane;

/// Limits of a key set.
const MAX_KEYS_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;
/// Pauses between attempts to open the stream.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// File below the state directory. Nothing in it is secret.
const FILE: &str = "trust.bin";

/// One whole state.
pub(crate) struct Trust {
    domain: TrustDomain,
    message: v1::Trust,
    workloads: BTreeMap<String, Registration>,
    revoked_ids: BTreeSet<String>,
    keys: Option<VerifyingKeys>,
    lists: Vec<Vec<u8>>,
}

impl Trust {
    /// Reads a state of `domain`.
    pub(crate) fn new(domain: &TrustDomain, message: v1::Trust) -> Result<Self, AgentError> {
        if message.bundle.is_empty() {
            return Err(AgentError::Answer("a trust without roots"));
        }
        let mut workloads = BTreeMap::new();
        for registration in &message.registrations {
            let id = SpiffeId::workload(domain, &registration.workload)?;
            if id.as_str() != registration.spiffe_id {
                return Err(AgentError::Answer(
                    "a registration whose SPIFFE id is not its workload's",
                ));
            }
            workloads.insert(registration.workload.clone(), registration.clone());
        }
        let keys = JwkSet::parse(&message.jwt_keys, MAX_KEYS_BYTES, MAX_KEYS)
            .and_then(|set| VerifyingKeys::from_jwks(&set));
        if let Err(error) = &keys {
            tracing::warn!(%error, "no JWT can be verified with the trust domain's keys");
        }
        let revoked_ids = message
            .revocations
            .iter()
            .flat_map(|revocations| revocations.spiffe_ids.iter().cloned())
            .collect();
        Ok(Self {
            domain: domain.clone(),
            workloads,
            revoked_ids,
            keys: keys.ok(),
            lists: message.revocations.as_ref().map(lists).unwrap_or_default(),
            message,
        })
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// A workload that may have an identity on this node: registered here and not revoked.
    pub(crate) fn workload(&self, name: &str) -> Option<&Registration> {
        let registration = self.workloads.get(name)?;
        (!self.revoked_ids.contains(&registration.spiffe_id)).then_some(registration)
    }

    /// Whether everything that this id has is revoked.
    pub(crate) fn is_revoked(&self, id: &SpiffeId) -> bool {
        self.revoked_ids.contains(id.as_str())
    }

    /// DER roots.
    pub(crate) fn bundle(&self) -> &[Vec<u8>] {
        &self.message.bundle
    }

    pub(crate) fn bundle_pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, self.bundle()).to_string()
    }

    /// DER revocation lists, one of each intermediate; none while nothing is revoked.
    pub(crate) fn lists(&self) -> &[Vec<u8>] {
        &self.lists
    }

    /// JWKS as JSON.
    pub(crate) fn jwt_keys(&self) -> &[u8] {
        &self.message.jwt_keys
    }

    pub(crate) fn verifying_keys(&self) -> Option<&VerifyingKeys> {
        self.keys.as_ref()
    }

    /// Whether this certificate, or its key, is revoked.
    pub(crate) fn revokes(&self, leaf: &[u8]) -> bool {
        let Some(revocations) = &self.message.revocations else {
            return false;
        };
        let serial = ringwall_identity::certificate::serial_of(leaf);
        let key = ringwall_identity::certificate::spki_sha256_of(leaf);
        let same = |serial: &ringwall_identity::Serial| {
            let named = |bytes: &Vec<u8>| {
                ringwall_identity::Serial::from_bytes(bytes).is_ok_and(|named| named == *serial)
            };
            revocations.serials.iter().any(named)
        };
        serial.is_ok_and(|serial| same(&serial))
            || key.is_ok_and(|key| revocations.spki_sha256.iter().any(|named| *named == key))
    }
}

/// The lists, while anything is revoked: by serial, or by a name or key, whose certificates they name
/// too. Empty ones say nothing, and verifiers like Envoy's refuse every issuer for which there is none.
fn lists(revocations: &v1::Revocations) -> Vec<Vec<u8>> {
    let nothing = revocations.serials.is_empty()
        && revocations.spiffe_ids.is_empty()
        && revocations.spki_sha256.is_empty();
    if nothing {
        return Vec::new();
    }
    std::iter::once(&revocations.crl)
        .chain(&revocations.previous_crls)
        .filter(|list| !list.is_empty())
        .cloned()
        .collect()
}

/// The state in use; nothing before the first.
pub(crate) type Current = watch::Receiver<Option<Arc<Trust>>>;

/// Follows the control plane.
pub(crate) struct Follower {
    domain: TrustDomain,
    file: PathBuf,
    clock: Clock,
    current: watch::Sender<Option<Arc<Trust>>>,
}

impl Follower {
    /// Begins with the last good state on disk, so that a node whose control plane is away works.
    pub(crate) fn open(domain: &TrustDomain, state: &Path, clock: Clock) -> Self {
        let follower = Self {
            domain: domain.clone(),
            file: state.join(FILE),
            clock,
            current: watch::Sender::new(None),
        };
        match follower.last_good() {
            Ok(Some(trust)) => follower
                .current
                .send_modify(|current| *current = Some(trust)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the last known trust cannot be read"),
        }
        follower
    }

    pub(crate) fn subscribe(&self) -> Current {
        self.current.subscribe()
    }

    fn last_good(&self) -> Result<Option<Arc<Trust>>, AgentError> {
        if !self.file.exists() {
            return Ok(None);
        }
        let bytes = private_file::read(&self.file)?;
        let message = v1::Trust::decode(bytes.expose().as_slice())
            .map_err(|_| AgentError::Answer("the last known trust is damaged"))?;
        Ok(Some(Arc::new(Trust::new(&self.domain, message)?)))
    }

    /// Follows for ever.
    pub(crate) async fn run(self, plane: ControlPlane) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.stream(&plane, &mut pause).await {
                // It lasts no longer than a certificate, and not beyond a replica's own end.
                Ok(()) => tracing::debug!("the stream of trust has ended; opening the next one"),
                Err(error) => tracing::warn!(
                    %error,
                    "no news from the control plane; the last good trust serves on"
                ),
            }
            tokio::time::sleep(pause.mul_f64(1.0 + 0.3 * self.clock.jitter())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn stream(&self, plane: &ControlPlane, pause: &mut Duration) -> Result<(), AgentError> {
        let mut stream = plane.watch_trust().await?;
        while let Some(message) = stream.message().await? {
            self.take(message);
            *pause = FIRST_PAUSE;
        }
        Ok(())
    }

    /// Takes a state over; one that is not usable leaves the last good one.
    pub(crate) fn take(&self, message: v1::Trust) {
        let bytes = message.encode_to_vec();
        let trust = match Trust::new(&self.domain, message) {
            Ok(trust) => Arc::new(trust),
            Err(error) => {
                tracing::error!(%error, "new trust refused, the last good one serves on");
                return;
            }
        };
        tracing::info!(
            revision = trust.message.revision,
            roots = trust.bundle().len(),
            workloads = trust.workloads.len(),
            "new trust"
        );
        self.current.send_modify(|current| *current = Some(trust));
        if let Err(error) = private_file::write(&self.file, &bytes) {
            tracing::warn!(%error, "the trust cannot be kept for the next start");
        }
    }
}

#[cfg(test)]
mod tests;
