//! An issuer's key set, fetched when it is needed and bounded in every direction.
//!
//! Owns: when to fetch. One fetch at a time, at most one every `min_refresh` whatever tokens arrive,
//! a bounded document, and a bounded time for which old keys serve while the issuer is away.
//! Must not: know where keys come from. The caller gives the one way to fetch them; no token can
//! change it (jku and x5u are refused, see `jws.rs`).

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::{Expectation, JwkSet, TokenError, VerifyingKeys, peek_kid, verify};

/// Longest wait for one fetch, whatever the caller's client allows.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Old keys serve for this many times `max_age` while the issuer cannot be reached.
const STALE_FACTOR: u32 = 6;

/// Any error of a fetch.
pub type BoxError = Box<dyn Error + Send + Sync>;
/// One fetch of the key set document.
pub type FetchFuture = Pin<Box<dyn Future<Output = Result<Bytes, BoxError>> + Send>>;

/// Bounds of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwksLimits {
    /// Shortest time between two fetches.
    pub min_refresh: Duration,
    /// Age at which keys are fetched again.
    pub max_age: Duration,
    /// Most keys in a document.
    pub max_keys: usize,
    /// Longest document, in bytes.
    pub max_bytes: usize,
}

impl Default for JwksLimits {
    fn default() -> Self {
        Self {
            min_refresh: Duration::from_secs(5),
            max_age: Duration::from_secs(600),
            max_keys: 32,
            max_bytes: 64 * 1024,
        }
    }
}

/// A key set cache for one issuer. Cheap to clone; clones share the keys.
#[derive(Clone)]
pub struct JwksCache(Arc<Inner>);

struct Inner {
    fetch: Box<dyn Fn() -> FetchFuture + Send + Sync>,
    limits: JwksLimits,
    cached: ArcSwapOption<Cached>,
    /// Held for the time of a fetch; the time of the last attempt.
    last_attempt: Mutex<Option<Instant>>,
}

struct Cached {
    keys: Arc<VerifyingKeys>,
    fetched_at: Instant,
}

impl JwksCache {
    /// A cache over `fetch`, which must go to a configured address, follow no redirects, and bound
    /// what it reads. Nothing is fetched yet.
    pub fn new(
        fetch: impl Fn() -> FetchFuture + Send + Sync + 'static,
        limits: JwksLimits,
    ) -> Self {
        Self(Arc::new(Inner {
            fetch: Box::new(fetch),
            limits,
            cached: ArcSwapOption::empty(),
            last_attempt: Mutex::new(None),
        }))
    }

    /// Keys among which `kid` is, fetched again when they are too old or do not have it.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`] when the issuer does not publish `kid`,
    /// [`TokenError::KeySetUnavailable`] when no fresh enough keys can be had.
    pub async fn keys_for(&self, kid: &str) -> Result<Arc<VerifyingKeys>, TokenError> {
        if let Some(keys) = self.0.cached_for(kid, self.0.limits.max_age) {
            return Ok(keys);
        }
        // In its own task: a caller that goes away must not cancel the fetch that others wait for.
        let inner = Arc::clone(&self.0);
        let wanted = kid.to_owned();
        let refresh = tokio::spawn(async move { inner.refresh(&wanted).await });
        refresh
            .await
            .unwrap_or_else(|_| Err(TokenError::KeySetUnavailable("the fetch panicked".into())))
    }

    /// Verifies `token` with the issuer's keys. See [`verify`].
    ///
    /// # Errors
    /// As [`verify`] and [`JwksCache::keys_for`].
    pub async fn verify<C: DeserializeOwned>(
        &self,
        token: &str,
        expectation: &Expectation,
        now: SystemTime,
    ) -> Result<C, TokenError> {
        let keys = self.keys_for(&peek_kid(token)?).await?;
        verify(token, &keys, expectation, now)
    }
}

impl Inner {
    /// The cached keys, if they are not older than `max_age` and have `kid`.
    fn cached_for(&self, kid: &str, max_age: Duration) -> Option<Arc<VerifyingKeys>> {
        let cached = self.cached.load();
        let cached = cached.as_ref()?;
        let fresh = cached.fetched_at.elapsed() <= max_age;
        (fresh && cached.keys.contains(kid)).then(|| Arc::clone(&cached.keys))
    }

    async fn refresh(&self, kid: &str) -> Result<Arc<VerifyingKeys>, TokenError> {
        let stale_age = self.limits.max_age.saturating_mul(STALE_FACTOR);
        let mut last_attempt = match self.last_attempt.try_lock() {
            Ok(guard) => guard,
            // Somebody fetches already. Known keys that are merely old need not wait for it.
            Err(_) => match self.cached_for(kid, stale_age) {
                Some(keys) => return Ok(keys),
                None => self.last_attempt.lock().await,
            },
        };
        if let Some(keys) = self.cached_for(kid, self.limits.max_age) {
            return Ok(keys); // Fetched while this caller waited.
        }
        let allowed = last_attempt.is_none_or(|at| at.elapsed() >= self.limits.min_refresh);
        let mut failure = None;
        if allowed {
            *last_attempt = Some(Instant::now());
            match self.fetch().await {
                Ok(keys) => {
                    let keys = Arc::new(keys);
                    self.cached.store(Some(Arc::new(Cached {
                        keys,
                        fetched_at: Instant::now(),
                    })));
                }
                Err(error) => {
                    warn!(%error, "key set could not be refreshed");
                    failure = Some(error);
                }
            }
        }
        if let Some(keys) = self.cached_for(kid, stale_age) {
            return Ok(keys);
        }
        Err(failure.unwrap_or_else(|| self.why_not(stale_age)))
    }

    /// Why there is no answer although nothing failed just now.
    fn why_not(&self, stale_age: Duration) -> TokenError {
        match self.cached.load().as_ref() {
            Some(cached) if cached.fetched_at.elapsed() <= stale_age => TokenError::UnknownKey,
            _ => TokenError::KeySetUnavailable("the last fetch failed a moment ago".to_owned()),
        }
    }

    async fn fetch(&self) -> Result<VerifyingKeys, TokenError> {
        let away = |why: String| TokenError::KeySetUnavailable(why);
        let document = timeout(FETCH_TIMEOUT, (self.fetch)())
            .await
            .map_err(|_| away("the issuer did not answer in time".to_owned()))?
            .map_err(|error| away(error.to_string()))?;
        let set = JwkSet::parse(&document, self.limits.max_bytes, self.limits.max_keys)?;
        VerifyingKeys::from_jwks(&set)
    }
}

impl fmt::Debug for JwksCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksCache")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}
