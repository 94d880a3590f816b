//! Second credential: an access token (RFC 9068) for this service, in which `orders` acts for the
//! user (RFC 8693 §4.1).
//!
//! It must not accept the token that the user's own client holds: that one has another audience
//! and no `act`. Read next: `source_token.rs`.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, header};
use ringwall_token::claims::AccessToken;
use ringwall_token::{Expectation, JwksCache};

use crate::config::AccessTokensConfig;
use crate::error::PaymentError;

/// Verifies access tokens with the authorization server's published keys. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessTokens {
    keys: JwksCache,
    expectation: Arc<Expectation>,
    actor: Arc<str>,
}

/// Evidence of a valid access token in which the expected service acts for a user.
#[must_use]
#[derive(Debug)]
pub(crate) struct OnBehalfOf {
    user: String,
    client: String,
}

impl AccessTokens {
    /// `keys` fetches from the authorization server's address alone: a token cannot name another.
    pub(crate) fn new(keys: JwksCache, config: &AccessTokensConfig) -> Self {
        Self {
            keys,
            expectation: Arc::new(Expectation {
                issuer: config.issuer.clone(),
                audience: config.audience.clone(),
                typ: AccessToken::TYP,
                leeway: config.leeway,
            }),
            actor: config.actor.as_str().into(),
        }
    }

    pub(super) async fn prove(&self, headers: &HeaderMap) -> Result<OnBehalfOf, PaymentError> {
        let token = bearer(headers).ok_or(PaymentError::AccessTokenMissing)?;
        let claims: AccessToken = self
            .keys
            .verify(token, &self.expectation, SystemTime::now())
            .await
            .map_err(PaymentError::AccessToken)?;
        // Only the outermost actor is current; nested ones are history (RFC 8693 §4.1).
        match claims.act {
            Some(actor) if *actor.sub == *self.actor => {}
            Some(actor) => return Err(PaymentError::WrongActor(actor.sub)),
            None => return Err(PaymentError::WrongActor("nobody".to_owned())),
        }
        Ok(OnBehalfOf {
            user: claims.sub,
            client: claims.client_id,
        })
    }
}

impl OnBehalfOf {
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn client(&self) -> &str {
        &self.client
    }
}

/// The credentials of exactly one `Authorization: Bearer` header (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (values.next()?, values.next());
    if second.is_some() {
        return None;
    }
    let (scheme, token) = first.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}
