//! This process's own identity and the roots that it trusts, kept fresh from files or by pushes.
//!
//! Owns: the directory layout `svid.pem` (leaf first), `svid.key` (PKCS#8, 0600), `bundle.pem` and,
//! where there is one, `crl.pem`; the same from memory ([`IdentityMaterial`], as the Workload API
//! delivers it); and the atomic exchange of all of it (R33).
//! Must not: hand out the private key.
//! Read next: `verify.rs`, which asks this source at every handshake.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ringwall_identity::SpiffeId;
use ringwall_identity::svid::Svid;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::chain::RevocationLists;
use crate::provider::provider;
use crate::reload::{self, Reload, Versions};
use crate::{TlsError, pem};

/// What errors call material that came from no file.
const PUSHED: &str = "the pushed identity";

/// The workload's SVID, its key and the trust bundle. Connections already open keep what they
/// began with; every new handshake uses what was read or pushed last.
pub struct IdentitySource {
    /// None when material is pushed.
    files: Option<Files>,
    id: SpiffeId,
    current: ArcSwap<Material>,
    revision: watch::Sender<u64>,
}

/// An identity in memory. All of it belongs together.
pub struct IdentityMaterial {
    /// Leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
    /// Trusted roots, at least one.
    pub bundle: Vec<CertificateDer<'static>>,
    /// Revocation lists; a certificate that one of them names is refused on both sides.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

/// One consistent reading.
pub(crate) struct Material {
    pub(crate) pair: Arc<CertifiedKey>,
    pub(crate) svid: Svid,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) revoked: RevocationLists,
    /// Of the files that it came from.
    versions: Option<Versions>,
}

/// Where the parts stand.
struct Files {
    /// `svid.pem`, `svid.key`, `bundle.pem`.
    needed: [PathBuf; 3],
    /// May be absent: then nothing is known to be revoked.
    crl: PathBuf,
}

impl IdentitySource {
    /// Reads `svid.pem`, `svid.key`, `bundle.pem` and, where it is there, `crl.pem` from `directory`.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong: unreadable, readable by others, not a pair,
    /// not an SVID, expired, or without roots.
    pub fn load(directory: &Path) -> Result<Arc<Self>, TlsError> {
        let files = Files::of(directory);
        let material = Material::read(&files)?;
        Ok(Self::new(Some(files), material))
    }

    /// A source of material that is pushed: by the Workload API, or by an authority in this process.
    ///
    /// # Errors
    /// [`TlsError`] names what is wrong: not a pair, not an SVID, expired, without roots, or a
    /// revocation list that cannot be read.
    pub fn from_material(material: IdentityMaterial) -> Result<Arc<Self>, TlsError> {
        Ok(Self::new(None, Material::pushed(material)?))
    }

    fn new(files: Option<Files>, material: Material) -> Arc<Self> {
        Arc::new(Self {
            files,
            id: material.svid.id.clone(),
            current: ArcSwap::from_pointee(material),
            revision: watch::Sender::new(0),
        })
    }

    /// Takes over pushed material as a whole: handshakes see the old or the new one, never a mixture.
    ///
    /// # Errors
    /// As [`IdentitySource::from_material`], and [`TlsError::IdentityChanged`]. The last good material
    /// stays.
    pub fn update(&self, material: IdentityMaterial) -> Result<(), TlsError> {
        self.take_over(Material::pushed(material)?, Path::new(PUSHED))
    }

    /// Polls the files every `every` and takes over what is good. Ends with the last reference to
    /// this source. Call it inside a tokio runtime.
    pub fn spawn_reload(self: &Arc<Self>, every: Duration) -> JoinHandle<()> {
        reload::spawn(self, every)
    }

    /// Reads the files again if they have changed; `true` when new material is in use. Without files,
    /// nothing ever changes here.
    ///
    /// # Errors
    /// As [`IdentitySource::load`], and [`TlsError::IdentityChanged`]. The last good material stays.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        if Some(files.versions()?) == self.current.load().versions {
            return Ok(false);
        }
        let [path, ..] = &files.needed;
        self.take_over(Material::read(files)?, path)?;
        Ok(true)
    }

    fn take_over(&self, material: Material, from: &Path) -> Result<(), TlsError> {
        if material.svid.id != self.id {
            return Err(TlsError::IdentityChanged {
                path: from.to_owned(),
                seen: material.svid.id,
                expected: self.id.clone(),
            });
        }
        self.current.store(Arc::new(material));
        self.revision.send_modify(|revision| *revision += 1);
        Ok(())
    }

    /// Tells of every exchange: the number grows by one after new material has come into use. Who
    /// holds long connections verifies their peers again then ([`IdentitySource::verify_peer`]).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// The workload that this process is.
    #[must_use]
    pub fn spiffe_id(&self) -> SpiffeId {
        self.id.clone()
    }

    /// The leaf certificate in use, in DER form: what peers see of us.
    #[must_use]
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.current.load().pair.cert.first().cloned()
    }

    /// When the SVID in use ends.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.current.load().svid.not_after
    }

    pub(crate) fn material(&self) -> arc_swap::Guard<Arc<Material>> {
        self.current.load()
    }
}

impl Files {
    fn of(directory: &Path) -> Self {
        Self {
            needed: ["svid.pem", "svid.key", "bundle.pem"].map(|name| directory.join(name)),
            crl: directory.join("crl.pem"),
        }
    }

    fn versions(&self) -> Result<Versions, TlsError> {
        Versions::with_optional(&self.needed, &self.crl)
    }
}

impl Material {
    fn read(files: &Files) -> Result<Self, TlsError> {
        let [svid_file, key_file, bundle_file] = &files.needed;
        // Taken first: a file that changes while it is read differs at the next poll.
        let versions = files.versions()?;
        let pair = pem::certified_key(svid_file, key_file)?;
        let roots = pem::roots(bundle_file)?;
        let crls = pem::revocation_lists(&files.crl)?;
        let revoked = parse_lists(&crls, &files.crl)?;
        let versions = Some(versions);
        Self::assemble(pair, roots, revoked, versions, svid_file)
    }

    fn pushed(material: IdentityMaterial) -> Result<Self, TlsError> {
        let place = Path::new(PUSHED);
        let pair = match CertifiedKey::from_der(material.chain, material.key, &provider()) {
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(TlsError::NotAPair {
                    key: "the pushed key".into(),
                    chain: place.to_owned(),
                });
            }
            other => Arc::new(other?),
        };
        let mut roots = RootCertStore::empty();
        for root in material.bundle {
            roots.add(root)?;
        }
        if roots.is_empty() {
            return Err(TlsError::Content {
                path: place.to_owned(),
                what: "there is no root in its bundle",
            });
        }
        let revoked = parse_lists(&material.crls, place)?;
        Self::assemble(pair, Arc::new(roots), revoked, None, place)
    }

    fn assemble(
        pair: Arc<CertifiedKey>,
        roots: Arc<RootCertStore>,
        revoked: RevocationLists,
        versions: Option<Versions>,
        place: &Path,
    ) -> Result<Self, TlsError> {
        let svid =
            Svid::from_der(pair.end_entity_cert()?).map_err(|source| TlsError::Identity {
                path: place.to_owned(),
                source,
            })?;
        if svid.not_after <= OffsetDateTime::now_utc() {
            return Err(TlsError::Expired {
                path: place.to_owned(),
                not_after: svid.not_after,
            });
        }
        Ok(Self {
            pair,
            svid,
            roots,
            revoked,
            versions,
        })
    }
}

fn parse_lists(
    lists: &[CertificateRevocationListDer<'_>],
    place: &Path,
) -> Result<RevocationLists, TlsError> {
    RevocationLists::parse(lists).map_err(|why| TlsError::RevocationList {
        path: place.to_owned(),
        why,
    })
}

impl fmt::Debug for IdentityMaterial {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityMaterial")
            .field("chain", &self.chain.len())
            .field("bundle", &self.bundle.len())
            .field("crls", &self.crls.len())
            .finish_non_exhaustive()
    }
}

impl Reload for IdentitySource {
    const WHAT: &'static str = "workload identity";

    fn reload(&self) -> Result<bool, TlsError> {
        Self::reload(self)
    }
}

/// Every caller gets the one SVID: inside the mesh, names are identities, not hosts.
impl ResolvesServerCert for IdentitySource {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.material().pair))
    }
}

impl ResolvesClientCert for IdentitySource {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.material().pair))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for IdentitySource {
    /// Leaves key and certificates out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySource")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
