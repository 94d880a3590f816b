//! The intermediate in use: read from the secrets, and again whenever they change.
//!
//! Owns: the check at every reading that the intermediate stands below a root of the trust bundle
//! and has not expired; its rotation without a restart; the last ones before it, which sign
//! revocation lists for what they have issued.
//! Must not: see a root's key. Whether the root is ours or an external one makes no difference here.
//! Read next: `ringwall_identity::intermediate`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use ringwall_identity::certificate;
use ringwall_identity::{Intermediate, TrustDomain};
use ringwall_secret::SecretProvider;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::Clock;
use crate::config::AuthorityConfig;
use crate::error::Error;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Intermediates that are remembered after their rotation.
const REMEMBERED: usize = 2;
/// Largest trust bundle, in bytes.
const MAX_BUNDLE_BYTES: u64 = 1024 * 1024;

/// An authority and the roots above it.
pub(crate) struct Material {
    pub(crate) intermediate: Arc<Intermediate>,
    /// What was in use before, newest first: their certificates are still around.
    pub(crate) previous: Vec<Arc<Intermediate>>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
}

/// Where the material comes from, and what it is now.
pub(crate) struct Issuer {
    trust_domain: TrustDomain,
    secrets: Arc<SecretProvider>,
    certificate: String,
    key: String,
    roots: PathBuf,
    current: watch::Sender<Arc<Material>>,
    /// Fingerprint of what was last looked at, good or not: each mistake is reported once.
    seen: Mutex<[u8; 32]>,
}

/// The three texts as they were read.
struct Texts {
    chain: ringwall_secret::SecretString,
    key: ringwall_secret::SecretString,
    roots: String,
}

impl Issuer {
    /// Reads chain, key and roots.
    ///
    /// # Errors
    /// What keeps the intermediate from being used, with what to do about it.
    pub(crate) fn open(
        config: &AuthorityConfig,
        trust_domain: TrustDomain,
        secrets: Arc<SecretProvider>,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        let texts = Texts::read(
            &secrets,
            &config.intermediate_cert,
            &config.intermediate_key,
            &config.roots,
        )?;
        let material = texts.load(&trust_domain, now)?;
        Ok(Self {
            trust_domain,
            secrets,
            certificate: config.intermediate_cert.clone(),
            key: config.intermediate_key.clone(),
            roots: config.roots.clone(),
            seen: Mutex::new(texts.fingerprint()),
            current: watch::Sender::new(Arc::new(material)),
        })
    }

    pub(crate) fn current(&self) -> Arc<Material> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells of every change of intermediate or roots.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Material>> {
        self.current.subscribe()
    }

    /// Takes over what has changed; `true` when something has. What cannot be used is refused, and
    /// the last good material works on.
    pub(crate) fn refresh(&self, now: OffsetDateTime) -> Result<bool, Error> {
        let texts = Texts::read(&self.secrets, &self.certificate, &self.key, &self.roots)?;
        let fingerprint = texts.fingerprint();
        {
            let mut seen = self.seen.lock();
            if *seen == fingerprint {
                return Ok(false);
            }
            *seen = fingerprint;
        }
        let mut material = texts.load(&self.trust_domain, now)?;
        let before = self.current();
        if before.intermediate.chain().first() == material.intermediate.chain().first() {
            material.previous.clone_from(&before.previous);
        } else {
            material.previous.push(Arc::clone(&before.intermediate));
            let older = before.previous.iter().cloned();
            material.previous.extend(older.take(REMEMBERED - 1));
        }
        self.current.send_replace(Arc::new(material));
        Ok(true)
    }

    /// Looks for changes for ever.
    pub(crate) async fn follow(self: Arc<Self>, clock: Clock) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            match self.refresh(clock()) {
                Ok(false) => {}
                Ok(true) => {
                    let not_after = self.current().intermediate.not_after();
                    tracing::info!(%not_after, "another intermediate or trust bundle is in use");
                }
                Err(error) => {
                    tracing::error!(%error, "the new intermediate is refused, the last good one works on");
                }
            }
        }
    }
}

impl Texts {
    fn read(
        secrets: &SecretProvider,
        certificate: &str,
        key: &str,
        roots: &PathBuf,
    ) -> Result<Self, Error> {
        let file = |source| Error::File {
            what: roots.display().to_string(),
            source,
        };
        if std::fs::metadata(roots).map_err(file)?.len() > MAX_BUNDLE_BYTES {
            return Err(file(std::io::Error::other("longer than 1 MiB")));
        }
        Ok(Self {
            chain: secrets.get_string(certificate)?,
            key: secrets.get_string(key)?,
            roots: std::fs::read_to_string(roots).map_err(file)?,
        })
    }

    fn load(&self, domain: &TrustDomain, now: OffsetDateTime) -> Result<Material, Error> {
        let roots = certificate::from_pem(&self.roots)?;
        let (chain, key) = (self.chain.expose(), self.key.expose());
        let intermediate = Intermediate::load(domain, chain, key, &roots, now)?;
        Ok(Material {
            intermediate: Arc::new(intermediate),
            previous: Vec::new(),
            roots,
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut whole = Vec::new();
        for text in [
            self.chain.expose().as_bytes(),
            self.key.expose().as_bytes(),
            self.roots.as_bytes(),
        ] {
            whole.extend(digest(&SHA256, text).as_ref());
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, &whole).as_ref());
        fingerprint
    }
}

#[cfg(test)]
mod tests;
