//! Readiness: named checks, run at each probe.
//!
//! Liveness needs no check: a process that answers lives.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Longest time that one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The checks of this process. Clones share them.
#[derive(Clone)]
pub struct Health {
    checks: Arc<Mutex<Vec<(&'static str, Check)>>>,
    shutdown: CancellationToken,
}

/// Answer of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    pub(crate) failing: Vec<Failing>,
}

/// One failing check and its reason.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failing {
    pub(crate) name: &'static str,
    pub(crate) reason: String,
}

impl Health {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            checks: Arc::default(),
            shutdown,
        }
    }

    /// Adds a check, such as one for a resource that is opened later than the app starts.
    pub fn add<F, Fut>(&self, name: &'static str, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add_check(name, Arc::new(move || Box::pin(check())));
    }

    pub(crate) fn add_check(&self, name: &'static str, check: Check) {
        self.checks.lock().push((name, check));
    }

    /// Runs all checks at once. A process that drains is not ready.
    pub(crate) async fn readiness(&self) -> Readiness {
        self.readiness_within(CHECK_TIMEOUT).await
    }

    async fn readiness_within(&self, limit: Duration) -> Readiness {
        let checks = self.checks.lock().clone();
        let results = join_all(checks.into_iter().map(|(name, check)| async move {
            match tokio::time::timeout(limit, check()).await {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(Failing { name, reason }),
                Err(_elapsed) => Some(Failing {
                    name,
                    reason: format!("no answer within {limit:?}"),
                }),
            }
        }))
        .await;
        let mut failing: Vec<Failing> = results.into_iter().flatten().collect();
        if self.shutdown.is_cancelled() {
            failing.push(Failing {
                name: "shutdown",
                reason: "the process is draining".into(),
            });
        }
        Readiness {
            ready: failing.is_empty(),
            failing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failing_checks_are_named() {
        let health = Health::new(CancellationToken::new());
        assert!(health.readiness().await.ready);
        health.add("good", || async { Ok(()) });
        health.add("postgres", || async { Err("connection refused".into()) });
        let readiness = health.readiness().await;
        assert!(!readiness.ready);
        let expected = Failing {
            name: "postgres",
            reason: "connection refused".into(),
        };
        assert_eq!(readiness.failing, [expected]);
    }

    #[tokio::test]
    async fn a_check_that_hangs_fails() {
        let health = Health::new(CancellationToken::new());
        health.add("stuck", std::future::pending);
        let readiness = health.readiness_within(Duration::from_millis(10)).await;
        assert_eq!(readiness.failing[0].reason, "no answer within 10ms");
    }

    #[tokio::test]
    async fn a_draining_process_is_not_ready() {
        let shutdown = CancellationToken::new();
        let health = Health::new(shutdown.clone());
        shutdown.cancel();
        assert_eq!(health.readiness().await.failing[0].name, "shutdown");
    }
}
