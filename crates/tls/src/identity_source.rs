//! This process's own identity and the roots that it trusts, kept fresh from files.
//!
//! Owns: the directory layout `svid.pem` (leaf first), `svid.key` (PKCS#8, 0600), `bundle.pem`, and
//! the atomic exchange of all three in memory (R33).
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
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use crate::provider::provider;
use crate::reload::{self, Reload, Versions};
use crate::{TlsError, pem};

/// The workload's SVID, its key and the trust bundle. Connections already open keep what they
/// began with; every new handshake uses what was read last.
pub struct IdentitySource {
    files: [PathBuf; 3],
    id: SpiffeId,
    current: ArcSwap<Material>,
}

/// One consistent reading of the three files.
pub(crate) struct Material {
    pub(crate) pair: Arc<CertifiedKey>,
    pub(crate) svid: Svid,
    pub(crate) roots: Arc<RootCertStore>,
    /// Verifies chains of callers against `roots`; made once, since building one copies the roots.
    pub(crate) caller_chains: Arc<dyn ClientCertVerifier>,
    versions: Versions,
}

impl IdentitySource {
    /// Reads `svid.pem`, `svid.key` and `bundle.pem` from `directory`.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong: unreadable, readable by others, not a pair,
    /// not an SVID, expired, or without roots.
    pub fn load(directory: &Path) -> Result<Arc<Self>, TlsError> {
        let files = ["svid.pem", "svid.key", "bundle.pem"].map(|name| directory.join(name));
        let material = Material::read(&files)?;
        let id = material.svid.id.clone();
        Ok(Arc::new(Self {
            files,
            id,
            current: ArcSwap::from_pointee(material),
        }))
    }

    /// Polls the files every `every` and takes over what is good. Ends with the last reference to
    /// this source. Call it inside a tokio runtime.
    pub fn spawn_reload(self: &Arc<Self>, every: Duration) -> JoinHandle<()> {
        reload::spawn(self, every)
    }

    /// Reads the files again if they have changed; `true` when new material is in use.
    ///
    /// # Errors
    /// As [`IdentitySource::load`], and [`TlsError::IdentityChanged`]. The last good material stays.
    pub fn reload(&self) -> Result<bool, TlsError> {
        if Versions::of(&self.files)? == self.current.load().versions {
            return Ok(false);
        }
        let material = Material::read(&self.files)?;
        if material.svid.id != self.id {
            let [path, ..] = &self.files;
            return Err(TlsError::IdentityChanged {
                path: path.clone(),
                seen: material.svid.id,
                expected: self.id.clone(),
            });
        }
        self.current.store(Arc::new(material));
        Ok(true)
    }

    /// The workload that this process is.
    #[must_use]
    pub fn spiffe_id(&self) -> SpiffeId {
        self.id.clone()
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

impl Material {
    fn read(files: &[PathBuf; 3]) -> Result<Self, TlsError> {
        let [svid_file, key_file, bundle_file] = files;
        // Taken first: a file that changes while it is read differs at the next poll.
        let versions = Versions::of(files)?;
        let pair = pem::certified_key(svid_file, key_file)?;
        let svid =
            Svid::from_der(pair.end_entity_cert()?).map_err(|source| TlsError::Identity {
                path: svid_file.clone(),
                source,
            })?;
        if svid.not_after <= OffsetDateTime::now_utc() {
            return Err(TlsError::Expired {
                path: svid_file.clone(),
                not_after: svid.not_after,
            });
        }
        let roots = pem::roots(bundle_file)?;
        let caller_chains =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
                .build()
                .map_err(|_| TlsError::Content {
                    path: bundle_file.clone(),
                    what: "its roots cannot verify anybody",
                })?;
        Ok(Self {
            pair,
            svid,
            roots,
            caller_chains,
            versions,
        })
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
