//! `POST /auth/backchannel-logout`: the authorization server says that a session is over (OpenID
//! Connect Back-Channel Logout 1.0).
//!
//! Owns: whose session a logout token means, and the memory of used tokens (§2.6 step 8).
//! Must not: tell whether a session existed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Form,
    extract::{State, rejection::FormRejection},
};
use http::StatusCode;
use parking_lot::Mutex;
use ringwall_token::claims::LogoutToken;
use serde::Deserialize;

use crate::{app::Ringwall, error::Error, sessions::Session};

/// Used tokens are remembered for this long; older ones are refused by their age.
const REMEMBER: Duration = Duration::from_secs(10 * 60);
const MAX_REMEMBERED: usize = 10_000;

#[derive(Debug, Deserialize)]
pub(crate) struct LogoutRequest {
    logout_token: String,
}

pub(crate) async fn logout(
    State(app): State<Arc<Ringwall>>,
    form: Result<Form<LogoutRequest>, FormRejection>,
) -> Result<StatusCode, Error> {
    let Ok(Form(request)) = form else {
        return Err(Error::LogoutToken("there is none"));
    };
    let now = SystemTime::now();
    let token = app
        .authority
        .verify_logout_token(&request.logout_token, now)
        .await;
    let token = token.map_err(|error| {
        tracing::warn!(%error, "logout token not verified");
        Error::LogoutToken("it cannot be verified")
    })?;
    token
        .check()
        .map_err(|_| Error::LogoutToken("it is no logout token"))?;
    if !app.seen_logout_tokens.first_time(&token.jti, now) {
        return Err(Error::LogoutToken("it was used before"));
    }
    let ended = app.sessions.end_where(|session| concerns(&token, session));
    tracing::info!(ended, "back-channel logout");
    Ok(StatusCode::OK)
}

/// `sid` names one session; without it, `sub` names all of a person's.
fn concerns(token: &LogoutToken, session: &Session) -> bool {
    let same_person = token
        .sub
        .as_ref()
        .is_none_or(|sub| *sub == session.user.sub);
    let same_session = token
        .sid
        .as_ref()
        .is_none_or(|sid| session.sid.as_ref() == Some(sid));
    same_person && same_session
}

/// Ids of logout tokens that were used.
#[derive(Default)]
pub(crate) struct SeenLogoutTokens(Mutex<HashMap<String, SystemTime>>);

impl SeenLogoutTokens {
    fn first_time(&self, jti: &str, now: SystemTime) -> bool {
        let mut seen = self.0.lock();
        if seen.len() >= MAX_REMEMBERED {
            seen.retain(|_, until| now < *until);
        }
        // Full of fresh ids: a repeat cannot be told from a first use, so nothing is believed.
        seen.len() < MAX_REMEMBERED && seen.insert(jti.to_owned(), now + REMEMBER).is_none()
    }

    /// Forgets ids whose tokens have ended; called every now and then.
    pub(crate) fn sweep(&self, now: SystemTime) {
        self.0.lock().retain(|_, until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r44_a_logout_token_works_once() {
        let seen = SeenLogoutTokens::default();
        let now = SystemTime::now();
        assert!(seen.first_time("a", now));
        assert!(!seen.first_time("a", now));
        assert!(seen.first_time("b", now));
    }
}
