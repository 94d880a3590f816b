//! The signed-in user, as the gateway states it: the `x-ringwall-user-context` token, verified.
//!
//! Owns: the check that the token is the gateway's, for us, now, and that the gateway itself
//! presents it. Must not: accept a token that another workload passes on.

use std::{sync::Arc, time::SystemTime};

use axum::{Extension, extract::FromRequestParts, http::request::Parts};
use http::StatusCode;
use ringwall_http_io::Problem;
use ringwall_identity::SpiffeId;
use ringwall_proto::{headers, paths, problems};
use ringwall_token::{
    JwksCache, TokenError,
    claims::{UserContext, verify_user_context},
    peek_kid,
};

use crate::{config::ConfigError, peer::Peer, shell::Shell};

/// Name of the upstream that issues user contexts.
const GATEWAY: &str = "gateway";

/// Verifies user-context tokens made for this component.
pub struct UserContextVerifier {
    keys: JwksCache,
    issuer: SpiffeId,
    audience: SpiffeId,
}

impl UserContextVerifier {
    /// For this component, with the keys of the upstream `gateway`.
    pub fn from_shell(shell: &Shell) -> Result<Arc<Self>, ConfigError> {
        let keys = shell.upstream(GATEWAY)?.jwks(paths::JWKS);
        Ok(Self::new(
            keys,
            shell.config.workload(GATEWAY)?,
            shell.spiffe_id(),
        ))
    }

    /// For tokens that `issuer` signs with one of `keys` for `audience`.
    pub fn new(keys: JwksCache, issuer: SpiffeId, audience: SpiffeId) -> Arc<Self> {
        Arc::new(Self {
            keys,
            issuer,
            audience,
        })
    }

    /// Verifies one token.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<UserContext, TokenError> {
        let keys = self.keys.keys_for(&peek_kid(token)?).await?;
        verify_user_context(token, &keys, &self.issuer, &self.audience, now)
    }
}

/// The user on whose behalf the gateway calls. Needs [`crate::App::users`].
#[derive(Debug, Clone)]
pub struct User(pub UserContext);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let verifier =
            Extension::<Arc<UserContextVerifier>>::from_request_parts(parts, state).await;
        let Ok(Extension(verifier)) = verifier else {
            tracing::error!("a handler asks for the user, but App::users was not called");
            return Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                problems::INTERNAL,
                "Internal error",
            ));
        };
        let mut tokens = parts.headers.get_all(headers::USER_CONTEXT).iter();
        let (token, more) = (tokens.next(), tokens.next());
        let Some(token) = token else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                problems::USER_CONTEXT_MISSING,
                "User context missing",
            ));
        };
        if more.is_some() {
            return Err(invalid("the header stands more than once"));
        }
        let peer = parts.extensions.get::<Peer>();
        if peer.is_none_or(|peer| peer.0 != verifier.issuer) {
            return Err(invalid("the caller is not the gateway"));
        }
        let token = token
            .to_str()
            .map_err(|_| invalid("the header is not ASCII"))?;
        match verifier.verify(token, SystemTime::now()).await {
            Ok(context) => Ok(Self(context)),
            Err(error) => Err(invalid(&error.to_string())),
        }
    }
}

/// The log says why; the answer does not.
fn invalid(why: &str) -> Problem {
    tracing::warn!(why, "user context refused");
    Problem::new(
        StatusCode::UNAUTHORIZED,
        problems::USER_CONTEXT_INVALID,
        "User context invalid",
    )
}

#[cfg(test)]
#[path = "user_context/tests.rs"]
mod tests;
