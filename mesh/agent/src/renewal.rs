//! Keeping one certificate fresh: a new key each time, at half of the life, limited for all together.
//!
//! Owns: the loop around `ringwall_identity::Rotation`, and the limit of a renewal storm: after a
//! night's suspension everything is due at once, and is renewed a few at a time.
//! Must not: know what a certificate is for.
//! Read next: `workloads.rs`, `own.rs` and `deliver.rs`, which are its users.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringwall_identity::csr::NewKey;
use ringwall_identity::rotation::TOLERATED_SKEW;
use ringwall_identity::svid::{Svid, validity_of};
use ringwall_identity::{BACKDATE, Rotation, SpiffeId};
use ringwall_mesh_api::v1::Certificate;
use ringwall_tls::{IdentityMaterial, IdentitySource};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::clock::{Clock, Skew};
use crate::error::AgentError;
use crate::metrics::Metrics;
use crate::plane::{Issuer, Want};

/// Certificates that are asked for at the same time.
const AT_ONCE: usize = 4;
/// First and longest pause while a first certificate cannot be had.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A certificate with the key that was made for it.
pub(crate) struct Issued {
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// DER roots, as they were when it was issued.
    pub(crate) bundle: Vec<Vec<u8>>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl Issued {
    /// Takes a certificate for `key` over, after what can be checked here.
    pub(crate) fn new(answer: Certificate, key: Zeroizing<Vec<u8>>) -> Result<Self, AgentError> {
        let leaf = answer
            .chain
            .first()
            .ok_or(AgentError::Answer("there is no certificate in it"))?;
        let (not_before, not_after) = validity_of(leaf)?;
        if answer.bundle.is_empty() {
            return Err(AgentError::Answer("there is no root in it"));
        }
        Ok(Self {
            chain: answer.chain,
            key,
            bundle: answer.bundle,
            not_before,
            not_after,
        })
    }

    /// The same as an identity, with these roots and lists.
    pub(crate) fn material(&self, bundle: &[Vec<u8>], lists: &[Vec<u8>]) -> IdentityMaterial {
        let certificates =
            |der: &[Vec<u8>]| der.iter().cloned().map(CertificateDer::from).collect();
        IdentityMaterial {
            chain: certificates(&self.chain),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec())),
            bundle: certificates(bundle),
            crls: lists
                .iter()
                .cloned()
                .map(CertificateRevocationListDer::from)
                .collect(),
        }
    }

    /// Refuses what is not an SVID of `id` for our key: nobody may be handed somebody else's name.
    pub(crate) fn check_svid(&self, id: &SpiffeId) -> Result<(), AgentError> {
        let leaf = self.chain.first().map(Vec::as_slice).unwrap_or_default();
        if Svid::from_der(leaf)?.id != *id {
            return Err(AgentError::Answer("it is for another workload"));
        }
        IdentitySource::from_material(self.material(&self.bundle, &[]))?;
        Ok(())
    }
}

/// What all renewals share.
pub(crate) struct Renewals {
    issuer: Arc<dyn Issuer>,
    pub(crate) clock: Clock,
    metrics: Metrics,
    permits: Semaphore,
    /// What was said of the clock last.
    skew: Mutex<Skew>,
}

impl Renewals {
    pub(crate) fn new(issuer: Arc<dyn Issuer>, clock: Clock, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            issuer,
            clock,
            metrics,
            permits: Semaphore::new(AT_ONCE),
            skew: Mutex::new(Skew::None),
        })
    }

    pub(crate) fn issuer(&self) -> &dyn Issuer {
        self.issuer.as_ref()
    }

    /// One attempt: key pair, request, certificate.
    pub(crate) async fn obtain(&self, want: &Want) -> Result<Issued, AgentError> {
        let _permit = self.permits.acquire().await;
        let result = self.attempt(want).await;
        self.metrics.renewed(want, &result);
        if let Ok(issued) = &result {
            self.compare_clocks(issued.not_before + BACKDATE);
        }
        result
    }

    /// A certificate that has just been issued tells the control plane's time.
    fn compare_clocks(&self, there: OffsetDateTime) {
        let ahead = self.clock.hear(there);
        let seconds = ahead.whole_seconds();
        self.metrics.clock_ahead(seconds);
        let skew = Skew::of(ahead);
        let before = std::mem::replace(&mut *self.skew.lock(), skew);
        if before == skew {
            return;
        }
        match skew {
            Skew::None => tracing::info!("this machine's clock agrees with the control plane's"),
            Skew::Tolerated => tracing::warn!(
                ahead_s = seconds,
                "this machine's clock differs from the control plane's: certificates allow for it; set the clock (NTP)"
            ),
            Skew::TooMuch => tracing::error!(
                ahead_s = seconds,
                tolerated_s = TOLERATED_SKEW.whole_seconds(),
                "this machine's clock differs too much from the control plane's: certificates that are good elsewhere are refused here as not valid yet, or as ended; set the clock (NTP)"
            ),
        }
    }

    async fn attempt(&self, want: &Want) -> Result<Issued, AgentError> {
        let new = NewKey::generate()?;
        let answer = self.issuer.certify(want, new.request).await?;
        Issued::new(answer, new.pkcs8)
    }

    /// Keeps a certificate fresh until `take` breaks. `held` are the times of one that is there
    /// already. `take` gets every result; one that it cannot use counts as a failed attempt.
    pub(crate) async fn keep<F>(
        &self,
        want: Want,
        held: Option<(OffsetDateTime, OffsetDateTime)>,
        mut take: F,
    ) where
        F: FnMut(Result<Issued, AgentError>) -> ControlFlow<(), bool>,
    {
        let mut rotation = held.map(|(not_before, not_after)| {
            Rotation::new(not_before, not_after, self.clock.jitter())
        });
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(rotation) = &rotation {
                let now = self.clock.now();
                if !rotation.due(now) {
                    tokio::time::sleep(rotation.next_check(now)).await;
                    continue;
                }
            }
            let result = self.obtain(&want).await;
            let times = result
                .as_ref()
                .map(|issued| (issued.not_before, issued.not_after))
                .ok();
            let ControlFlow::Continue(taken) = take(result) else {
                return;
            };
            let now = self.clock.now();
            match (&mut rotation, times.filter(|_| taken)) {
                (Some(rotation), Some((not_before, not_after))) => {
                    rotation.renewed(not_before, not_after, self.clock.jitter(), now);
                }
                (Some(rotation), None) => rotation.failed(now),
                (none, Some((not_before, not_after))) => {
                    *none = Some(Rotation::new(not_before, not_after, self.clock.jitter()));
                }
                (None, None) => {
                    tokio::time::sleep(pause.mul_f64(1.0 + 0.2 * self.clock.jitter())).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
