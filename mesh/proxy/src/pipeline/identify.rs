//! Step 3: on whose behalf?
//!
//! Owns: what becomes of the gateway's statement about the user. A sound one is known to policies and passes on; one
//! that is forged, ended, for somebody else, or brought by another workload than the gateway is taken out, so that
//! policy and application alike see a request without a user; when keys cannot be had, policies see no user and the
//! application gets the statement to judge by itself. Must not: refuse; that is for policies and applications.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use ringwall_policy::mesh::UserFacts;
use ringwall_proto::headers::USER_CONTEXT;
use ringwall_token::TokenError;

use super::exchange::Exchange;
use super::strip::Stripped;
use crate::inbound::caller::Caller;
use crate::inbound::{TokenKey, Users};

/// Evidence: what is said of a user is true.
#[derive(Debug)]
pub(crate) struct Identified {
    pub(super) stripped: Stripped,
    pub(super) user: Option<Arc<UserFacts>>,
}

pub(crate) async fn identify(
    caller: &Caller,
    mut stripped: Stripped,
    exchange: &mut Exchange,
) -> Identified {
    let shared = &caller.session.worker.shared;
    let Some(users) = &shared.users else {
        return Identified {
            stripped,
            user: None,
        };
    };
    let headers = &mut stripped.parts.headers;
    if !headers.contains_key(USER_CONTEXT) {
        return Identified {
            stripped,
            user: None,
        };
    }
    let user = match token(headers, caller, users) {
        Some(token) => Box::pin(verified(caller, users, token)).await,
        None => Err(TokenError::Issuer),
    };
    let user = match user {
        Ok(user) => Some(user),
        Err(TokenError::KeySetUnavailable(_)) => None,
        Err(error) => {
            tracing::debug!(caller = caller.name(), %error, "user context taken out");
            headers.remove(USER_CONTEXT);
            None
        }
    };
    exchange.user.clone_from(&user);
    Identified { stripped, user }
}

/// The one statement, if it is the gateway that brings it.
fn token<'a>(headers: &'a HeaderMap, caller: &Caller, users: &Users) -> Option<&'a str> {
    let mut values = headers.get_all(USER_CONTEXT).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    (caller.peer.id == users.issuer).then_some(())?;
    value.to_str().ok()
}

async fn verified(
    caller: &Caller,
    users: &Users,
    token: &str,
) -> Result<Arc<UserFacts>, TokenError> {
    let now = SystemTime::now();
    let key = TokenKey::of(token);
    let cache = &caller.session.worker.inbound.users;
    let known = cache.lock().get(&key, now);
    if let Some(known) = known {
        return Ok(known);
    }
    let (facts, until) = users.verify(token, now).await?;
    cache.lock().insert(key, Arc::clone(&facts), until, now);
    Ok(facts)
}
