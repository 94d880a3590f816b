//! Is this bearer token valid, and what does it say?
//!
//! Owns: JWT verification with the issuer's key set (RFC 9068), and the choice between it and introspection
//! (RFC 7662). Must not: know routes beyond the audience asked for. Next: `tokens/introspect.rs`.

mod introspect;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ringwall_service::{Shell, StartError, Upstream};
use ringwall_token::claims::AccessToken;
use ringwall_token::{Expectation, JwksCache, JwksLimits, TokenError};
use tokio::runtime::Handle;

use self::introspect::Introspector;
use crate::config::TokensConfig;
use crate::refusal::Refusal;
use crate::token_cache::{TokenClaims, TokenKind};

/// A key that the issuer withdraws stops working here after this time at the latest, whatever was cached.
const MAX_JWT_AGE: Duration = Duration::from_secs(60);
const REFERENCE_PREFIX: &str = "rwr_";

/// The gateway's view of one authorization server.
pub(crate) struct Tokens {
    issuer: String,
    leeway: Duration,
    keys: JwksCache,
    introspector: Introspector,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Calls to the authorization server run on `control`, never on a worker.
    pub(crate) fn new(
        shell: &Shell,
        config: &TokensConfig,
        control: &Handle,
    ) -> Result<Self, StartError> {
        let upstream = shell.upstream(&config.upstream)?;
        let secret = shell.secrets.get_string(&config.client_secret)?;
        Ok(Self {
            issuer: config.issuer.clone(),
            leeway: config.leeway,
            keys: key_set(upstream.clone(), config.jwks_path.clone(), control.clone()),
            introspector: Introspector::new(upstream, config, &secret, control.clone()),
        })
    }

    /// Verifies `token` for `audience`; what comes back is believed until its `valid_until`.
    pub(crate) async fn verify(
        &self,
        token: &str,
        audience: &str,
        now: SystemTime,
    ) -> Result<TokenClaims, Refusal> {
        if token.starts_with(REFERENCE_PREFIX) {
            self.introspector.introspect(token, &self.issuer, now).await
        } else {
            self.verify_jwt(token, audience, now).await
        }
    }

    async fn verify_jwt(
        &self,
        token: &str,
        audience: &str,
        now: SystemTime,
    ) -> Result<TokenClaims, Refusal> {
        let expectation = Expectation {
            issuer: self.issuer.clone(),
            audience: audience.to_owned(),
            typ: AccessToken::TYP,
            leeway: self.leeway,
        };
        let claims: AccessToken = self
            .keys
            .verify(token, &expectation, now)
            .await
            .map_err(|error| refusal_of(&error))?;
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(claims.exp) + self.leeway;
        Ok(TokenClaims {
            kind: TokenKind::Jwt,
            audience: claims.aud,
            subject: claims.sub,
            client: claims.client_id,
            roles: claims.roles,
            scope: claims.scope,
            acr: claims.acr,
            valid_until: expires.min(now + MAX_JWT_AGE),
        })
    }
}

fn refusal_of(error: &TokenError) -> Refusal {
    match error {
        TokenError::KeySetUnavailable(_) => Refusal::AuthUnavailable(Arc::from(error.to_string())),
        TokenError::TooLong { .. } => Refusal::TokenInvalid("token-too-long"),
        TokenError::Malformed(_) => Refusal::TokenInvalid("token-malformed"),
        TokenError::Header(_) => Refusal::TokenInvalid("token-header"),
        TokenError::UnknownKey => Refusal::TokenInvalid("token-unknown-key"),
        TokenError::Algorithm => Refusal::TokenInvalid("token-algorithm"),
        TokenError::Type { .. } => Refusal::TokenInvalid("token-type"),
        TokenError::Signature => Refusal::TokenInvalid("token-signature"),
        TokenError::Claims(_) => Refusal::TokenInvalid("token-claims"),
        TokenError::Issuer => Refusal::TokenInvalid("token-issuer"),
        TokenError::Audience => Refusal::TokenInvalid("token-audience"),
        TokenError::Expired => Refusal::TokenInvalid("token-expired"),
        TokenError::NotYetValid => Refusal::TokenInvalid("token-not-yet-valid"),
        _ => Refusal::TokenInvalid("token-refused"),
    }
}

fn key_set(upstream: Upstream, path: String, control: Handle) -> JwksCache {
    let fetch = move || {
        let (upstream, path, control) = (upstream.clone(), path.clone(), control.clone());
        let fetched = control.spawn(async move { upstream.fetch_jwks(&path).await });
        Box::pin(async move { fetched.await? }) as ringwall_token::FetchFuture
    };
    JwksCache::new(fetch, JwksLimits::default())
}
