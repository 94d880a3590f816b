//! The user on whose behalf the gateway calls, as policies may ask for.
//!
//! Owns: the verification of the user-context token, and the memory of those that were verified, by their SHA-256: a
//! token's text is never kept. Must not: believe one that another workload than the gateway brings.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use foldhash::fast::RandomState;
use ringwall_identity::SpiffeId;
use ringwall_policy::mesh::UserFacts;
use ringwall_proto::paths;
use ringwall_service::{Shell, StartError, UserContextVerifier};
use ringwall_token::{FetchFuture, JwksCache, JwksLimits, TokenError};
use tokio::runtime::Handle;

use crate::config::UserContextConfig;

/// Users that one worker remembers.
const MAX_USERS: usize = 4096;

/// Verifies user contexts.
pub(crate) struct Users {
    verifier: Arc<UserContextVerifier>,
    /// The only workload that may bring one.
    pub(crate) issuer: SpiffeId,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Users {
    /// Fetches keys from the configured upstream, on `control`, never on a worker.
    ///
    /// # Errors
    /// When the upstream is not declared.
    pub(crate) fn new(
        shell: &Shell,
        config: &UserContextConfig,
        control: Handle,
    ) -> Result<Self, StartError> {
        let upstream = shell.upstream(&config.issuer_upstream)?;
        let identity = shell
            .config
            .upstreams
            .get(&config.issuer_upstream)
            .map_or(config.issuer_upstream.as_str(), |upstream| {
                upstream.identity.as_str()
            });
        let issuer = shell.config.workload(identity)?;
        let fetch = move || -> FetchFuture {
            let upstream = upstream.clone();
            let fetched = control.spawn(async move { upstream.fetch_jwks(paths::JWKS).await });
            Box::pin(async move { fetched.await? })
        };
        let keys = JwksCache::new(fetch, JwksLimits::default());
        Ok(Self::over(keys, issuer, shell.spiffe_id()))
    }

    /// Over keys of any origin; `audience` is the workload beside us.
    pub(crate) fn over(keys: JwksCache, issuer: SpiffeId, audience: SpiffeId) -> Self {
        Self {
            verifier: UserContextVerifier::new(keys, issuer.clone(), audience),
            issuer,
        }
    }

    /// What the token says, and until when.
    pub(crate) async fn verify(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<(Arc<UserFacts>, SystemTime), TokenError> {
        let context = self.verifier.verify(token, now).await?;
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(context.exp);
        let words = |text: &str| {
            text.split(' ')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let facts = UserFacts {
            scopes: words(&context.scope),
            sub: context.sub,
            client: context.client_id,
            roles: context.roles,
        };
        Ok((Arc::new(facts), until))
    }
}

/// Digest of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey([u8; 32]);

impl TokenKey {
    pub(crate) fn of(token: &str) -> Self {
        let digest = digest(&SHA256, token.as_bytes());
        Self(digest.as_ref().try_into().unwrap_or_default())
    }
}

/// Verified users of one worker.
#[derive(Debug, Default)]
pub(crate) struct UserCache {
    known: HashMap<TokenKey, (Arc<UserFacts>, SystemTime), RandomState>,
}

impl UserCache {
    pub(crate) fn get(&mut self, key: &TokenKey, now: SystemTime) -> Option<Arc<UserFacts>> {
        let (facts, until) = self.known.get(key)?;
        if *until <= now {
            self.known.remove(key);
            return None;
        }
        Some(Arc::clone(facts))
    }

    pub(crate) fn insert(
        &mut self,
        key: TokenKey,
        facts: Arc<UserFacts>,
        until: SystemTime,
        now: SystemTime,
    ) {
        if self.known.len() >= MAX_USERS {
            self.known.retain(|_, (_, until)| *until > now);
        }
        // Tokens live for a minute: whoever finds it full is verified again next time.
        if self.known.len() < MAX_USERS {
            self.known.insert(key, (facts, until));
        }
    }
}
