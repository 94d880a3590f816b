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

    /// A cache of keys that are at hand: for tests of a component in one process.
    pub fn fixed(keys: JwkSet) -> Self {
        let fetch = move || -> FetchFuture {
            let document = serde_json::to_vec(&keys);
            Box::pin(async move { Ok(document?.into()) })
        };
        Self::new(fetch, JwksLimits::default())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, KeyRing, SigningKey};
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::{advance, sleep};

    /// What the issuer answers, how often it was asked, and how long it takes.
    #[derive(Default)]
    struct Issuer {
        document: StdMutex<Option<Bytes>>,
        fetches: AtomicUsize,
        takes: StdMutex<Duration>,
    }

    impl Issuer {
        fn publish(&self, ring: &KeyRing) {
            let text = serde_json::to_vec(&ring.jwks()).unwrap();
            *self.document.lock().unwrap() = Some(text.into());
        }

        fn away(&self) {
            *self.document.lock().unwrap() = None;
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::SeqCst)
        }
    }

    fn cache() -> (Arc<Issuer>, KeyRing, JwksCache) {
        let issuer = Arc::new(Issuer::default());
        let ring = KeyRing::generate(Algorithm::Es256).unwrap();
        issuer.publish(&ring);
        let asked = Arc::clone(&issuer);
        let fetch = move || -> FetchFuture {
            let asked = Arc::clone(&asked);
            Box::pin(async move {
                asked.fetches.fetch_add(1, Ordering::SeqCst);
                let takes = *asked.takes.lock().unwrap();
                sleep(takes).await;
                let document = asked.document.lock().unwrap().clone();
                document.ok_or_else(|| "connection refused".into())
            })
        };
        (issuer, ring, JwksCache::new(fetch, JwksLimits::default()))
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(start_paused = true)]
    async fn r12_keys_are_fetched_once_while_they_are_fresh() {
        let (issuer, ring, cache) = cache();
        for _ in 0..3 {
            assert!(cache.keys_for(ring.current().kid()).await.is_ok());
            advance(seconds(199)).await;
        }
        assert_eq!(issuer.fetches(), 1);
        advance(seconds(10)).await;
        assert!(cache.keys_for(ring.current().kid()).await.is_ok());
        assert_eq!(issuer.fetches(), 2, "older than max_age");
    }

    #[tokio::test(start_paused = true)]
    async fn r12_parallel_callers_share_one_fetch() {
        let (issuer, ring, cache) = cache();
        *issuer.takes.lock().unwrap() = seconds(1);
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let (cache, kid) = (cache.clone(), ring.current().kid().to_owned());
                tokio::spawn(async move { cache.keys_for(&kid).await.map(drop) })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Ok(()));
        }
        assert_eq!(issuer.fetches(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn r12_unknown_kids_cannot_make_a_storm() {
        let (issuer, ring, cache) = cache();
        assert!(cache.keys_for(ring.current().kid()).await.is_ok());
        for n in 0..100 {
            let refused = cache.keys_for(&format!("kid-{n}")).await;
            assert_eq!(refused.err(), Some(TokenError::UnknownKey));
            advance(Duration::from_millis(100)).await;
        }
        assert!(
            issuer.fetches() <= 3,
            "10 s at one fetch each 5 s: {}",
            issuer.fetches()
        );
        assert!(
            cache.keys_for(ring.current().kid()).await.is_ok(),
            "others are unaffected"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn r12_rotated_key_is_found() {
        let (issuer, mut ring, cache) = cache();
        let old = ring.current().kid().to_owned();
        assert!(cache.keys_for(&old).await.is_ok());
        ring.rotate(seconds(60), SystemTime::UNIX_EPOCH).unwrap();
        issuer.publish(&ring);
        advance(seconds(5)).await;
        assert!(cache.keys_for(ring.current().kid()).await.is_ok());
        assert!(cache.keys_for(&old).await.is_ok(), "still published");
        assert_eq!(issuer.fetches(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn r12_announced_key_needs_no_fetch_when_it_begins_to_sign() {
        let (issuer, mut ring, cache) = cache();
        ring.announce(SigningKey::generate(Algorithm::Es256).unwrap())
            .unwrap();
        issuer.publish(&ring);
        assert!(cache.keys_for(ring.current().kid()).await.is_ok());
        ring.rotate(seconds(60), SystemTime::UNIX_EPOCH).unwrap();
        assert!(cache.keys_for(ring.current().kid()).await.is_ok());
        assert_eq!(issuer.fetches(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn r12_old_keys_serve_while_the_issuer_is_away_but_not_for_ever() {
        let (issuer, ring, cache) = cache();
        let kid = ring.current().kid();
        assert!(cache.keys_for(kid).await.is_ok());
        issuer.away();
        advance(seconds(3599)).await;
        assert!(cache.keys_for(kid).await.is_ok(), "six times ten minutes");
        advance(seconds(6)).await;
        let refused = cache.keys_for(kid).await.err();
        assert!(
            matches!(refused, Some(TokenError::KeySetUnavailable(_))),
            "{refused:?}"
        );
        issuer.publish(&ring);
        assert!(cache.keys_for(kid).await.is_err(), "not before min_refresh");
        advance(seconds(5)).await;
        assert!(cache.keys_for(kid).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn r12_withdrawn_key_stops_at_max_age() {
        let (issuer, ring, cache) = cache();
        let kid = ring.current().kid();
        assert!(cache.keys_for(kid).await.is_ok());
        issuer.publish(&KeyRing::generate(Algorithm::Es256).unwrap());
        advance(seconds(601)).await;
        assert_eq!(
            cache.keys_for(kid).await.err(),
            Some(TokenError::UnknownKey)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn r12_hostile_documents_leave_the_last_good_keys() {
        let (issuer, ring, cache) = cache();
        let kid = ring.current().kid();
        assert!(cache.keys_for(kid).await.is_ok());
        let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 33].join(","));
        for hostile in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            &many,
            &" ".repeat(64 * 1024 + 1),
        ] {
            *issuer.document.lock().unwrap() = Some(hostile.to_owned().into());
            advance(seconds(601)).await;
            assert!(cache.keys_for(kid).await.is_ok(), "{:.20}", hostile);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn r12_slow_issuer_is_given_up() {
        let (issuer, ring, cache) = cache();
        *issuer.takes.lock().unwrap() = seconds(3600);
        let begun = Instant::now();
        let refused = cache.keys_for(ring.current().kid()).await.err();
        assert!(
            matches!(refused, Some(TokenError::KeySetUnavailable(_))),
            "{refused:?}"
        );
        assert!(begun.elapsed() <= seconds(11));
    }

    #[tokio::test(start_paused = true)]
    async fn r12_caller_that_goes_away_does_not_cancel_the_fetch() {
        let (issuer, ring, cache) = cache();
        *issuer.takes.lock().unwrap() = seconds(2);
        let kid = ring.current().kid();
        assert!(
            timeout(seconds(1), cache.keys_for(kid)).await.is_err(),
            "gave up waiting"
        );
        sleep(seconds(2)).await;
        assert!(cache.keys_for(kid).await.is_ok());
        assert_eq!(issuer.fetches(), 1);
    }
}
