//! Certificates in files, for those that speak no Workload API: PostgreSQL, the edge, database clients.
//!
//! Owns: keeping each configured delivery fresh, with the roots and the revocation list beside it.
//! Must not: decide what may be issued; the control plane does, by the registration.
//! Read next: `deliver/files.rs` for how files are replaced.

mod files;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::{Delivery, Owner};
use crate::error::AgentError;
use crate::pem;
use crate::plane::Want;
use crate::renewal::{Issued, Renewals};
use crate::trust::{Current, Trust};

/// One delivery at work.
struct Deliverer {
    delivery: Delivery,
    names: Names,
    trust: Current,
    /// What stands in the files; trust alone may change below it.
    written: Mutex<Option<Written>>,
}

struct Written {
    bundle: Vec<Vec<u8>>,
    lists: Vec<Vec<u8>>,
}

/// The files of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    chain: String,
    key: String,
    bundle: Option<String>,
    crl: Option<String>,
}

impl Names {
    fn of(delivery: &Delivery) -> Self {
        let fixed = |chain: &str, key: &str, crl: Option<&str>| Self {
            chain: chain.into(),
            key: key.into(),
            bundle: Some("bundle.pem".into()),
            crl: crl.map(Into::into),
        };
        match delivery {
            Delivery::Svid { .. } => fixed("svid.pem", "svid.key", Some("crl.pem")),
            Delivery::DatabaseClient { .. } => fixed("client.pem", "client.key", None),
            Delivery::Server {
                chain, key, bundle, ..
            } => Self {
                chain: chain.clone(),
                key: key.clone(),
                bundle: bundle.clone(),
                crl: None,
            },
        }
    }
}

fn want(delivery: &Delivery) -> Want {
    match delivery.clone() {
        Delivery::Svid { workload, .. } => Want::Svid { workload },
        Delivery::DatabaseClient { workload, role, .. } => Want::DatabaseClient { workload, role },
        Delivery::Server {
            workload, dns, ips, ..
        } => Want::Server { workload, dns, ips },
    }
}

/// Keeps `delivery` fresh for ever.
pub(crate) async fn keep(delivery: Delivery, renewals: Arc<Renewals>, trust: Current) {
    let deliverer = Arc::new(Deliverer {
        names: Names::of(&delivery),
        trust: trust.clone(),
        written: Mutex::new(None),
        delivery,
    });
    let want = want(&deliverer.delivery);
    let held = deliverer.held();
    if held.is_some() {
        // Files of an earlier start: the roots may have changed since.
        *deliverer.written.lock() = Some(Written {
            bundle: Vec::new(),
            lists: Vec::new(),
        });
    }
    let writer = Arc::clone(&deliverer);
    let renewing = renewals.keep(want, held, move |result| {
        ControlFlow::Continue(writer.take(result))
    });
    tokio::join!(renewing, deliverer.follow(trust));
}

impl Deliverer {
    /// The times of a certificate that an earlier start has left, if its key is there too.
    fn held(&self) -> Option<(time::OffsetDateTime, time::OffsetDateTime)> {
        files::times(&self.path(&self.names.chain), &self.path(&self.names.key))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.delivery.directory().join(name)
    }

    fn owner(&self) -> Option<Owner> {
        self.delivery.owner()
    }

    fn take(&self, result: Result<Issued, AgentError>) -> bool {
        let (workload, directory) = (self.delivery.workload(), self.delivery.directory());
        match result.and_then(|issued| self.write(&issued)) {
            Ok(()) => {
                tracing::info!(workload, directory = %directory.display(), "a certificate is delivered");
                true
            }
            Err(error) => {
                tracing::warn!(workload, directory = %directory.display(), %error, "a certificate is not delivered; the last good one stays");
                false
            }
        }
    }

    /// Roots, then the key, then the certificate: a reader accepts only a pair that fits, so that
    /// between the renames it keeps what it has.
    fn write(&self, issued: &Issued) -> Result<(), AgentError> {
        let trust = self.trust.borrow().clone();
        let bundle = trust
            .as_ref()
            .map_or(issued.bundle.as_slice(), |trust| trust.bundle());
        let lists = trust.as_ref().map_or(&[][..], |trust| trust.lists());
        files::directory(self.delivery.directory(), self.owner())?;
        self.write_trust(bundle, lists)?;
        let key = pem::encode(pem::PRIVATE_KEY, [issued.key.as_slice()]);
        files::replace(&self.path(&self.names.key), key.as_bytes(), self.owner())?;
        let chain = pem::encode(pem::CERTIFICATE, &issued.chain);
        files::replace(
            &self.path(&self.names.chain),
            chain.as_bytes(),
            self.owner(),
        )?;
        self.tell();
        Ok(())
    }

    fn write_trust(&self, bundle: &[Vec<u8>], lists: &[Vec<u8>]) -> Result<(), AgentError> {
        if let Some(name) = &self.names.bundle {
            let text = pem::encode(pem::CERTIFICATE, bundle);
            files::replace(&self.path(name), text.as_bytes(), self.owner())?;
        }
        if let Some(name) = &self.names.crl {
            let path = self.path(name);
            if lists.is_empty() {
                files::remove(&path)?;
            } else {
                let text = pem::encode(pem::CRL, lists);
                files::replace(&path, text.as_bytes(), self.owner())?;
            }
        }
        *self.written.lock() = Some(Written {
            bundle: bundle.to_vec(),
            lists: lists.to_vec(),
        });
        Ok(())
    }

    /// Writes roots and list again when they change.
    async fn follow(&self, mut trust: Current) {
        loop {
            let current = trust.borrow_and_update().clone();
            if let Some(current) = current
                && self.differs(&current)
            {
                match self.write_trust(current.bundle(), current.lists()) {
                    Ok(()) => self.tell(),
                    Err(error) => {
                        tracing::warn!(workload = self.delivery.workload(), %error, "new roots are not delivered");
                    }
                }
            }
            if trust.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether the files say something else; before the first certificate there are none.
    fn differs(&self, trust: &Trust) -> bool {
        let written = self.written.lock();
        written.as_ref().is_some_and(|written| {
            let others = self.names.crl.is_some() && written.lists != trust.lists();
            others || written.bundle != trust.bundle()
        })
    }

    fn tell(&self) {
        let Delivery::Server {
            reload: Some(reload),
            ..
        } = &self.delivery
        else {
            return;
        };
        match files::hang_up(&reload.sighup) {
            Ok(pid) => tracing::info!(pid, "told to read its certificates again"),
            // It may not run yet; then it reads them when it starts.
            Err(error) => tracing::info!(%error, "nobody is told of new certificates"),
        }
    }
}

/// Whether the directory holds what `delivery` promises, for readiness.
pub(crate) fn is_delivered(delivery: &Delivery) -> bool {
    let names = Names::of(delivery);
    let there = |name: &str| Path::new(delivery.directory()).join(name).is_file();
    there(&names.chain) && there(&names.key)
}

#[cfg(test)]
mod tests;
