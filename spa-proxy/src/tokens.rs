//! From a session to an access token that the authorization server vouches for at this moment.
//!
//! Owns: refreshing (one flight for each session) and introspection with its short cache (R19).
//! Must not: let a call pass when the server cannot be asked.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use ringwall_proto::{WireToken, introspection::IntrospectionResponse, oauth::TokenResponse};
use tokio::sync::OwnedMutexGuard;
use tracing::Instrument;

use crate::{
    authority::{Authority, AuthorityError},
    error::Error,
    random,
    sessions::{Session, Tokens},
};

/// A token that ends sooner than this is refreshed first.
const REFRESH_BEFORE: Duration = Duration::from_secs(30);
/// After a refresh without an answer, waiting requests are turned away at once for this long.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// Most introspection answers kept.
const MAX_CACHED: usize = 10_000;

/// Hands out access tokens.
pub(crate) struct AccessTokens {
    authority: Arc<Authority>,
    client_id: String,
    audience: String,
    cache_for: Duration,
    /// Digest of a token → until when it counts as active.
    active: Mutex<HashMap<[u8; 32], Instant>>,
}

impl AccessTokens {
    pub(crate) fn new(
        authority: Arc<Authority>,
        client_id: String,
        audience: String,
        cache_for: Duration,
    ) -> Self {
        Self {
            authority,
            client_id,
            audience,
            cache_for,
            active: Mutex::default(),
        }
    }

    /// The session's access token, refreshed where due and found active. [`Error::SessionOver`] means
    /// that the caller must end the session; every doubt is an error.
    pub(crate) async fn current(&self, session: &Arc<Session>) -> Result<WireToken, Error> {
        let token = self.fresh(session).await?;
        if session.has_ended() {
            return Err(Error::SessionOver("it ended meanwhile"));
        }
        let key = random::sha256(token.expose());
        if self.is_cached(&key, Instant::now()) {
            return Ok(token);
        }
        let answer = self
            .authority
            .introspect(&token)
            .await
            .map_err(unreachable)?;
        self.accept(&answer, session)?;
        self.remember(key, Instant::now());
        Ok(token)
    }

    /// A token that does not end soon.
    async fn fresh(&self, session: &Arc<Session>) -> Result<WireToken, Error> {
        let tokens = Arc::clone(&session.tokens).lock_owned().await;
        let soon = SystemTime::now() + REFRESH_BEFORE;
        if tokens.access_expires > soon {
            return Ok(tokens.access.clone());
        }
        if tokens.retry_after.is_some_and(|at| Instant::now() < at) {
            return Err(Error::AuthorityUnreachable(
                "a refresh has just failed".to_owned(),
            ));
        }
        // A task of its own: the refresh token is used up by the server even when the browser hangs
        // up in the middle, so its successor must be stored in any case.
        let flight = tokio::spawn(refresh(Arc::clone(&self.authority), tokens).in_current_span());
        flight
            .await
            .map_err(|_| Error::AuthorityUnreachable("the refresh broke off".to_owned()))?
    }

    /// RFC 7662 §2.2: active, and issued to this client, for this API and this person.
    fn accept(&self, answer: &IntrospectionResponse, session: &Session) -> Result<(), Error> {
        if !answer.active {
            return Err(Error::SessionOver("the access token is no longer active"));
        }
        let ours = answer.client_id.as_deref() == Some(self.client_id.as_str())
            && answer.aud.as_deref() == Some(self.audience.as_str())
            && answer.sub.as_deref() == Some(session.user.sub.as_str());
        if ours {
            Ok(())
        } else {
            Err(Error::SessionOver("the access token is not for this use"))
        }
    }

    fn is_cached(&self, key: &[u8; 32], now: Instant) -> bool {
        self.active
            .lock()
            .get(key)
            .is_some_and(|until| now < *until)
    }

    fn remember(&self, key: [u8; 32], now: Instant) {
        let mut active = self.active.lock();
        if active.len() >= MAX_CACHED {
            active.retain(|_, until| now < *until);
        }
        if active.len() < MAX_CACHED {
            active.insert(key, now + self.cache_for);
        }
    }

    /// Forgets answers that are no longer used; called every now and then.
    pub(crate) fn sweep(&self, now: Instant) {
        self.active.lock().retain(|_, until| now < *until);
    }
}

async fn refresh(
    authority: Arc<Authority>,
    mut tokens: OwnedMutexGuard<Tokens>,
) -> Result<WireToken, Error> {
    let Some(refresh_token) = tokens.refresh.clone() else {
        return Err(Error::SessionOver(
            "the access token has ended and cannot be refreshed",
        ));
    };
    match authority.refresh(&refresh_token).await {
        Ok(answer) => {
            store(&mut tokens, answer, SystemTime::now());
            Ok(tokens.access.clone())
        }
        Err(AuthorityError::Refused(_)) => Err(Error::SessionOver("the refresh was refused")),
        Err(AuthorityError::NoAnswer(why)) => {
            // The old refresh token stays: the server answers a retry with the same successor.
            tokens.retry_after = Some(Instant::now() + REFRESH_PAUSE);
            Err(Error::AuthorityUnreachable(why))
        }
    }
}

fn store(tokens: &mut Tokens, answer: TokenResponse, now: SystemTime) {
    tokens.access = answer.access_token;
    tokens.access_expires = now + Duration::from_secs(answer.expires_in);
    tokens.retry_after = None;
    if let Some(successor) = answer.refresh_token {
        tokens.refresh = Some(successor);
    }
    if let Some(id_token) = answer.id_token {
        tokens.id_token = id_token;
    }
}

/// Whatever the reason: without a clear answer nobody passes.
fn unreachable(error: AuthorityError) -> Error {
    Error::AuthorityUnreachable(error.to_string())
}
