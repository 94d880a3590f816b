//! A trust domain without a network: an authority that can be away, and a clock that can jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use ringwall_identity::authority::Authority;
use ringwall_identity::certificate::serial_of;
use ringwall_identity::csr::Request;
use ringwall_identity::intermediate::{Intermediate, RevokedSerial};
use ringwall_identity::{Serial, SpiffeId, TrustDomain};
use ringwall_mesh_api::v1::{self, Certificate, JwtSvid, Registration, Revocations};
use ringwall_token::{Algorithm, JwkSet, SigningKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::AgentError;
use crate::plane::{Issuer, Want};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("ringwall.local").unwrap()
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::workload(&domain(), name).unwrap()
}

/// tokio's clock as the wall's, plus jumps.
#[derive(Clone)]
pub(crate) struct Wall {
    base: OffsetDateTime,
    begun: Instant,
    jump_s: Arc<AtomicI64>,
}

impl Wall {
    /// Call it inside a runtime.
    pub(crate) fn new() -> Self {
        Self {
            base: OffsetDateTime::now_utc(),
            begun: Instant::now(),
            jump_s: Arc::default(),
        }
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        let jump = time::Duration::seconds(self.jump_s.load(Ordering::SeqCst));
        self.base + self.begun.elapsed() + jump
    }

    /// Another machine's, which differs by that much and jumps by itself.
    pub(crate) fn ahead(&self, by: time::Duration) -> Self {
        let jump = self.jump_s.load(Ordering::SeqCst) + by.whole_seconds();
        Self {
            jump_s: Arc::new(AtomicI64::new(jump)),
            ..self.clone()
        }
    }

    pub(crate) fn jump(&self, by: time::Duration) {
        self.jump_s.fetch_add(by.whole_seconds(), Ordering::SeqCst);
    }

    /// Without jitter.
    pub(crate) fn clock(&self) -> Clock {
        let wall = self.clone();
        Clock::new(move || wall.now(), || 0.0)
    }
}

/// An authority in this process.
pub(crate) struct Plane {
    pub(crate) root: Authority,
    intermediate: Intermediate,
    wall: Wall,
    pub(crate) jwt_key: SigningKey,
    pub(crate) away: AtomicBool,
    /// Another name than the one that was asked for.
    pub(crate) wrong_name: AtomicBool,
    pub(crate) ttl: Duration,
    pub(crate) issued: Mutex<Vec<Want>>,
    pub(crate) jwts: AtomicUsize,
    pub(crate) at_once: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
    /// How long an answer takes.
    pub(crate) takes: Duration,
}

impl Plane {
    pub(crate) fn new(wall: &Wall) -> Self {
        let now = wall.now();
        let root = Authority::generate(&domain(), now).unwrap();
        let issued = root.issue_intermediate(720 * HOUR, now).unwrap();
        let roots = [CertificateDer::from_pem_slice(root.cert_pem().as_bytes()).unwrap()];
        let (chain, key) = (&issued.chain_pem, &issued.key_pem);
        let intermediate = Intermediate::load(&domain(), chain, key, &roots, now).unwrap();
        Self {
            root,
            intermediate,
            wall: wall.clone(),
            jwt_key: SigningKey::generate(Algorithm::Es256).unwrap(),
            away: AtomicBool::new(false),
            wrong_name: AtomicBool::new(false),
            ttl: HOUR,
            issued: Mutex::default(),
            jwts: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            takes: Duration::ZERO,
        }
    }

    pub(crate) fn is_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(crate) fn count(&self, kind: &str) -> usize {
        self.issued
            .lock()
            .iter()
            .filter(|want| want.kind() == kind)
            .count()
    }

    pub(crate) fn bundle(&self) -> Vec<Vec<u8>> {
        let root = CertificateDer::from_pem_slice(self.root.cert_pem().as_bytes()).unwrap();
        vec![root.to_vec()]
    }

    /// A trust in which these workloads may run here.
    pub(crate) fn trust(&self, revision: u64, workloads: &[&str]) -> v1::Trust {
        let keys = JwkSet {
            keys: vec![self.jwt_key.public_jwk()],
        };
        v1::Trust {
            revision,
            bundle: self.bundle(),
            jwt_keys: serde_json::to_vec(&keys).unwrap(),
            revocations: Some(Revocations::default()),
            registrations: workloads.iter().map(|name| registration(name)).collect(),
        }
    }

    /// The same with revoked certificates.
    pub(crate) fn revoking(&self, mut trust: v1::Trust, leaves: &[&[u8]]) -> v1::Trust {
        let now = self.wall.now();
        let serials: Vec<Serial> = leaves.iter().map(|leaf| serial_of(leaf).unwrap()).collect();
        let lines: Vec<_> = serials
            .iter()
            .map(|serial| RevokedSerial {
                serial: serial.clone(),
                at: now,
            })
            .collect();
        let revocations = trust.revocations.get_or_insert_default();
        revocations.crl = self
            .intermediate
            .sign_crl(&lines, 1, now, now + 24 * HOUR)
            .unwrap();
        revocations.serials = serials
            .iter()
            .map(|serial| serial.as_bytes().to_vec())
            .collect();
        trust
    }

    pub(crate) fn token(&self, workload: &str, audience: serde_json::Value, exp: i64) -> String {
        let claims = json!({"sub": id(workload).as_str(), "aud": audience, "exp": exp});
        self.jwt_key.sign("JWT", &claims).unwrap()
    }

    fn certified(&self, want: &Want, csr: &[u8]) -> Certificate {
        let request = Request::from_der(csr).unwrap();
        let (now, ttl) = (self.wall.now(), self.ttl);
        let svid = |name: &str| {
            self.intermediate
                .certify_svid(&request, &id(name), &[], ttl, now)
        };
        let certified = match want {
            _ if self.wrong_name.load(Ordering::SeqCst) => svid("payments"),
            Want::Agent => svid("agent/local"),
            Want::Svid { workload } => svid(workload),
            Want::DatabaseClient { role, .. } => {
                self.intermediate.certify_client(&request, role, ttl, now)
            }
            Want::Server { dns, ips, .. } => self
                .intermediate
                .certify_server(&request, dns, ips, ttl, now),
        };
        let certified = certified.unwrap();
        Certificate {
            chain: certified.chain.iter().map(|der| der.to_vec()).collect(),
            bundle: self.bundle(),
            not_after: certified.not_after.unix_timestamp(),
        }
    }
}

pub(crate) fn registration(name: &str) -> Registration {
    Registration {
        workload: name.to_owned(),
        spiffe_id: id(name).to_string(),
        ..Registration::default()
    }
}

#[async_trait]
impl Issuer for Arc<Plane> {
    async fn certify(&self, want: &Want, request: Vec<u8>) -> Result<Certificate, AgentError> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(AgentError::Away("it is away".into()));
        }
        self.issued.lock().push(want.clone());
        Ok(self.certified(want, &request))
    }

    async fn jwt(&self, workload: &str, audience: &[String]) -> Result<JwtSvid, AgentError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(AgentError::Away("it is away".into()));
        }
        self.jwts.fetch_add(1, Ordering::SeqCst);
        let not_after = self.wall.now().unix_timestamp() + 300;
        Ok(JwtSvid {
            token: self.token(workload, json!(audience), not_after),
            not_after,
        })
    }
}
