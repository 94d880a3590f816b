//! When a pooled connection is too old: by its age, or because the certificate was rotated since.
//!
//! Owns: that judgement. Must not: close connections (the pool does). Read next: `../postgres.rs`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Metrics;
use ringwall_tls::postgres::PostgresTls;
use time::OffsetDateTime;

/// How often the certificate file is looked at, at least.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Freshness {
    tls: PostgresTls,
    lifetime: Duration,
    seen: Mutex<Seen>,
}

/// The certificate on disk, known by its end, and since when it is there.
struct Seen {
    not_after: Option<OffsetDateTime>,
    since: Instant,
}

impl Freshness {
    pub(super) fn new(tls: PostgresTls, lifetime: Duration) -> Self {
        let not_after = tls.not_after().ok();
        Self {
            tls,
            lifetime,
            seen: Mutex::new(Seen {
                not_after,
                since: Instant::now(),
            }),
        }
    }

    /// The time between two looks.
    pub(super) fn interval(&self) -> Duration {
        LOOK_EVERY.min(self.lifetime / 4)
    }

    /// Reads the certificate; another one makes every connection of before stale.
    pub(super) fn look(&self) {
        match self.tls.not_after() {
            Ok(not_after) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.not_after != Some(not_after) {
                    *seen = Seen {
                        not_after: Some(not_after),
                        since: Instant::now(),
                    };
                    tracing::info!(%not_after, "the PostgreSQL client certificate was rotated");
                }
            }
            // Connections that exist keep working; new ones fail with the reason.
            Err(error) => tracing::warn!(%error, "cannot read the PostgreSQL client certificate"),
        }
    }

    pub(super) fn is_fresh(&self, metrics: &Metrics) -> bool {
        let since = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .since;
        metrics.age() < self.lifetime && metrics.created >= since
    }
}

#[cfg(test)]
mod tests {
    use ringwall_identity::{TrustDomain, authority::Authority};

    use super::*;

    fn write_certificate(authority: &Authority, directory: &std::path::Path, life: u64) {
        let now = OffsetDateTime::now_utc();
        let issued = authority
            .issue_client("orders", Duration::from_secs(life), now)
            .unwrap();
        std::fs::write(directory.join("client.pem"), issued.chain_pem).unwrap();
    }

    fn connection(age: Duration) -> Metrics {
        Metrics {
            created: Instant::now() - age,
            recycled: None,
            recycle_count: 0,
        }
    }

    #[test]
    fn age_and_rotation_each_end_a_connection() {
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let authority = Authority::generate(&domain, OffsetDateTime::now_utc()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_certificate(&authority, dir.path(), 600);
        let freshness = Freshness::new(PostgresTls::new(dir.path()), Duration::from_secs(60));

        let connected = connection(Duration::ZERO);
        assert!(freshness.is_fresh(&connected));
        assert!(!freshness.is_fresh(&connection(Duration::from_secs(60))));
        freshness.look();
        assert!(freshness.is_fresh(&connected));

        write_certificate(&authority, dir.path(), 1200);
        freshness.look();
        assert!(!freshness.is_fresh(&connected));
        assert!(freshness.is_fresh(&connection(Duration::ZERO)));

        // A half-written file ends no connection.
        std::fs::write(dir.path().join("client.pem"), "-----BEGIN").unwrap();
        let connected = connection(Duration::ZERO);
        freshness.look();
        assert!(freshness.is_fresh(&connected));
    }
}
