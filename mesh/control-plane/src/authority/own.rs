//! The control plane's own SVID: issued to itself, renewed at half of its life, in memory.
//!
//! Owns: our [`IdentitySource`] and what is pushed into it: a new SVID, another trust bundle, other
//! revocation lists. A copy in the state directory lets `--health` ask as ourselves.
//! Must not: sleep through a renewal: the wall clock is looked at every second.
//! Read next: `ringwall_identity::rotation`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::intermediate::Certified;
use ringwall_identity::{Rotation, SpiffeId};
use ringwall_tls::{IdentityMaterial, IdentitySource};
use rustls::pki_types::{CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::issuer::Material;
use super::revocation::RevocationSet;
use super::{Authority, pem};
use crate::error::Error;
use crate::random;
use crate::store::model::{IssuedCertificate, Kind};

/// Where `--health` finds the identity, below the state directory.
const DIRECTORY: &str = "identity";
/// Who asks for our own certificates.
pub(crate) const SELF: &str = "control-plane";
/// Between two rounds, whatever the rotation says: a round that fails must not spin.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// The SVID in use with its key.
pub(crate) struct OwnSvid {
    id: SpiffeId,
    life: Duration,
    directory: PathBuf,
    source: Arc<IdentitySource>,
    held: Held,
    rotation: Rotation,
    /// What is not on record yet. Without a store we go on being who we are, or else nobody could
    /// ask what is wrong; nothing else is handed out unrecorded.
    unrecorded: Option<IssuedCertificate>,
}

/// A certificate and its key.
struct Held {
    certified: Certified,
    key: PrivatePkcs8KeyDer<'static>,
}

impl OwnSvid {
    /// Issues the first one. It is put on record by [`OwnSvid::follow`], since there is no store yet.
    pub(crate) fn first(
        id: SpiffeId,
        material: &Material,
        life: Duration,
        state: &Path,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        let held = Held::issue(&id, material, life, now)?;
        let directory = state.join(DIRECTORY);
        held.write_copy(&directory, material)?;
        Ok(Self {
            source: IdentitySource::from_material(held.pushed(material, &[]))?,
            rotation: held.rotation(),
            unrecorded: Some(held.issued(&id, now)),
            directory,
            life,
            held,
            id,
        })
    }

    pub(crate) fn source(&self) -> Arc<IdentitySource> {
        Arc::clone(&self.source)
    }

    /// Renews and pushes for ever.
    pub(crate) async fn follow(mut self, authority: Authority) {
        let mut issuer = authority.issuer.subscribe();
        let mut revocations = authority.revocations.subscribe();
        let mut asked = false;
        self.push(&authority, &revocations.borrow_and_update().clone());
        loop {
            self.put_on_record(&authority).await;
            let wait = self.rotation.next_check(authority.now());
            tokio::select! {
                () = tokio::time::sleep(wait.max(SHORTEST_WAIT)) => {}
                // Another intermediate: peers may stop to believe the old one at any time.
                Ok(()) = issuer.changed() => asked = true,
                Ok(()) = revocations.changed() => {
                    self.push(&authority, &revocations.borrow_and_update().clone());
                }
            }
            let now = authority.now();
            if asked || self.rotation.due(now) {
                match self.renew(&authority, now) {
                    Ok(()) => asked = false,
                    Err(error) => {
                        tracing::error!(%error, "our own SVID is not renewed; trying again");
                        self.rotation.failed(now);
                    }
                }
            }
        }
    }

    fn renew(&mut self, authority: &Authority, now: OffsetDateTime) -> Result<(), Error> {
        let material = authority.issuer.current();
        let held = Held::issue(&self.id, &material, self.life, now)?;
        let lists = &authority.revocations.current().lists;
        self.source.update(held.pushed(&material, lists))?;
        held.write_copy(&self.directory, &material)?;
        let (not_before, not_after) = (held.certified.not_before, held.certified.not_after);
        self.rotation
            .renewed(not_before, not_after, random::jitter(), now);
        let issued = held.issued(&self.id, now);
        authority.audit.issued(&issued);
        self.unrecorded = Some(issued);
        self.held = held;
        Ok(())
    }

    /// The same SVID with other revocation lists.
    fn push(&self, authority: &Authority, set: &RevocationSet) {
        let material = authority.issuer.current();
        let pushed = self.held.pushed(&material, &set.lists);
        if let Err(error) = self.source.update(pushed) {
            tracing::error!(%error, "our own listeners do not have the new revocation lists");
        }
    }

    async fn put_on_record(&mut self, authority: &Authority) {
        let Some(issued) = &self.unrecorded else {
            return;
        };
        // A failure is reported by whoever follows the store; the next round tries again.
        if authority.store.record_issued(issued).await.is_ok() {
            self.unrecorded = None;
        }
    }
}

impl Held {
    fn issue(
        id: &SpiffeId,
        material: &Material,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        // Monitors know it by its name (RFC 6125), the mesh by its id.
        let names = [id.path().to_owned()];
        let (certified, key) = material.intermediate.issue_svid(id, &names, life, now)?;
        Ok(Self {
            certified,
            key: PrivatePkcs8KeyDer::from(key.to_vec()),
        })
    }

    fn rotation(&self) -> Rotation {
        let Certified {
            not_before,
            not_after,
            ..
        } = self.certified;
        Rotation::new(not_before, not_after, random::jitter())
    }

    fn pushed(&self, material: &Material, lists: &[Vec<u8>]) -> IdentityMaterial {
        let lists = lists.iter().cloned();
        IdentityMaterial {
            chain: self.certified.chain.clone(),
            key: PrivateKeyDer::Pkcs8(self.key.clone_key()),
            bundle: material.roots.clone(),
            crls: lists.map(CertificateRevocationListDer::from).collect(),
        }
    }

    fn issued(&self, id: &SpiffeId, now: OffsetDateTime) -> IssuedCertificate {
        IssuedCertificate {
            serial: self.certified.serial.clone(),
            kind: Kind::Own,
            holder: id.clone(),
            spki: self.certified.spki_sha256,
            issued_at: now,
            not_after: self.certified.not_after,
            by: SELF.to_owned(),
            detail: String::new(),
        }
    }

    fn write_copy(&self, directory: &Path, material: &Material) -> Result<(), Error> {
        pem::write(
            directory,
            [
                ("svid.key", pem::key(self.key.secret_pkcs8_der())),
                ("svid.pem", pem::certificates(&self.certified.chain)),
                ("bundle.pem", pem::certificates(&material.roots)),
            ],
        )
    }
}
