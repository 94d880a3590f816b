//! The user-context token: the gateway's statement about the user, for exactly one upstream (R14).
//!
//! Owns: the signing key (ES256, in memory only, made at start), its rotation with overlap, and the claims. The
//! trace is told by `traceparent`; the token leaves `trace_id` out, so that one token serves every request of a
//! session for up to 40 s and the hot path signs nothing. Must not: know requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::HeaderValue;
use ringwall_identity::SpiffeId;
use ringwall_token::claims::UserContext;
use ringwall_token::{Algorithm, JwkSet, KeyRing, SigningKey, TokenError};
use uuid::Uuid;

use crate::token_cache::VerifiedToken;

/// How long an upstream believes the token.
const LIFETIME: Duration = UserContext::MAX_LIFETIME;
/// How long the gateway sends the same token: what is left of its life covers the way to the upstream.
const REUSE: Duration = Duration::from_secs(40);
/// How long a key is published before it signs: longer than upstreams cache the key set.
const ANNOUNCE: Duration = Duration::from_secs(15 * 60);
/// How long a key signs.
const ROTATE: Duration = Duration::from_secs(12 * 60 * 60);

/// Signs user-context tokens.
pub(crate) struct UserContextIssuer {
    issuer: SpiffeId,
    ring: ArcSwap<KeyRing>,
}

impl std::fmt::Debug for UserContextIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserContextIssuer")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl UserContextIssuer {
    pub(crate) fn new(issuer: SpiffeId) -> Result<Self, TokenError> {
        let ring = ArcSwap::from_pointee(KeyRing::generate(Algorithm::Es256)?);
        Ok(Self { issuer, ring })
    }

    /// The public keys: `/.well-known/jwks.json` of the mesh listener.
    pub(crate) fn jwks(&self) -> JwkSet {
        self.ring.load().jwks()
    }

    /// The header value for `audience`, signed once and reused while it is fresh.
    pub(crate) fn header_for(
        &self,
        token: &VerifiedToken,
        audience: &SpiffeId,
        now: SystemTime,
    ) -> Result<HeaderValue, TokenError> {
        token.context(audience, now, || {
            let signed = self.sign(token, audience, now)?;
            let mut value = HeaderValue::try_from(signed)
                .map_err(|_| TokenError::Sign("a token is not a header value".to_owned()))?;
            value.set_sensitive(true);
            Ok((value, now + REUSE))
        })
    }

    fn sign(
        &self,
        token: &VerifiedToken,
        audience: &SpiffeId,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let iat = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let claims = UserContext {
            iss: self.issuer.clone(),
            aud: audience.clone(),
            sub: token.subject().to_owned(),
            client_id: token.client().to_owned(),
            roles: token.roles.clone(),
            scope: token.scopes.join(" "),
            trace_id: None,
            iat,
            exp: iat + LIFETIME.as_secs(),
            jti: Uuid::new_v4().simple().to_string(),
        };
        self.ring.load().sign(UserContext::TYP, &claims)
    }

    /// Rotates for as long as the process lives: announce, wait, sign.
    pub(crate) async fn rotate(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROTATE - ANNOUNCE).await;
            let announced = self.change(|ring| {
                ring.prune(SystemTime::now());
                ring.announce(SigningKey::generate(Algorithm::Es256)?)
            });
            tokio::time::sleep(ANNOUNCE).await;
            let rotated = self.change(|ring| ring.rotate(LIFETIME * 2, SystemTime::now()));
            if let Err(error) = announced.and(rotated) {
                tracing::error!(%error, "user-context key was not rotated");
            }
        }
    }

    fn change(
        &self,
        change: impl FnOnce(&mut KeyRing) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        let mut ring = KeyRing::clone(&self.ring.load());
        change(&mut ring)?;
        self.ring.store(Arc::new(ring));
        Ok(())
    }
}
