//! `GET /auth/callback`: the browser is back with a code, and a session begins.
//!
//! Owns: the order of the checks: our own started sign-in (state and cookie), the right issuer, the
//! code with its verifier, the ID token with its nonce. Only then is there a session, under a new id.
//! Must not: show the reason of a refusal; the log has it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use http::HeaderMap;
use ringwall_proto::{WireToken, oauth::TokenResponse, session::SessionUser};
use ringwall_token::claims::IdToken;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::{see_other, transaction::Transaction};
use crate::{
    app::Ringwall,
    authority::AuthorityError,
    cookies::{self, Cookies},
    error::{Error, SignInError},
    sessions::{SignedIn, Tokens},
};

/// Authorization response (RFC 6749 §4.1.2, RFC 9207 §2). A parameter that occurs twice is refused.
#[derive(Debug, Deserialize)]
pub(crate) struct CallbackQuery {
    state: Option<String>,
    iss: Option<String>,
    code: Option<String>,
    error: Option<String>,
}

pub(crate) async fn callback(
    State(app): State<Arc<Ringwall>>,
    headers: HeaderMap,
    query: Result<Query<CallbackQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Ok(Query(query)) = query else {
        return Ok(refused(&SignInError::UnknownTransaction, None));
    };
    let cookies = Cookies::read(&headers);
    let name = query.state.as_deref().map(Transaction::cookie_name);
    let previous = cookies.one(cookies::SESSION)?;
    match sign_in(&app, &query, &cookies, SystemTime::now()).await {
        Ok((signed_in, return_to)) => {
            if let Some(id) = previous {
                app.end_session(id);
            }
            tracing::info!(sub = %signed_in.user.sub, "signed in");
            let id = app.sessions.start(signed_in, SystemTime::now());
            let mut set = vec![cookies::set(cookies::SESSION, &id, None)];
            set.extend(name.as_deref().map(cookies::remove));
            Ok(see_other(&return_to, set))
        }
        Err(reason) => Ok(refused(&reason, name.as_deref())),
    }
}

fn refused(reason: &SignInError, used: Option<&str>) -> Response {
    tracing::warn!(%reason, "sign-in refused");
    let removals = used.map(cookies::remove).into_iter().collect();
    see_other(&format!("/?sign_in={}", reason.word()), removals)
}

async fn sign_in(
    app: &Ringwall,
    query: &CallbackQuery,
    cookies: &Cookies<'_>,
    now: SystemTime,
) -> Result<(SignedIn, String), SignInError> {
    let transaction = started(app, query, cookies, now)?;
    // RFC 9207 §2.4: before anything else of the answer is believed, errors included.
    if query.iss.as_deref() != Some(transaction.issuer.as_str()) {
        return Err(SignInError::IssuerMismatch);
    }
    let code = match (&query.code, query.error.as_deref()) {
        (Some(code), None) => code,
        (_, Some("access_denied")) => return Err(SignInError::Denied),
        _ => return Err(SignInError::ServerError),
    };
    let answer = app.authority.redeem_code(code, &transaction.verifier).await;
    let answer = answer.map_err(|error| match error {
        AuthorityError::Refused(_) => SignInError::CodeRefused,
        AuthorityError::NoAnswer(_) => SignInError::Unreachable,
    })?;
    let (claims, id_token) = identity(app, &answer, &transaction, now).await?;
    Ok((
        session_of(claims, id_token, answer, now),
        transaction.return_to,
    ))
}

/// The sign-in that this browser started with this state.
fn started(
    app: &Ringwall,
    query: &CallbackQuery,
    cookies: &Cookies<'_>,
    now: SystemTime,
) -> Result<Transaction, SignInError> {
    let unknown = || SignInError::UnknownTransaction;
    let state = query.state.as_deref().ok_or_else(unknown)?;
    let name = Transaction::cookie_name(state);
    let value = cookies.one(&name).ok().flatten().ok_or_else(unknown)?;
    let transaction = app.sealer.open(&name, value).ok_or_else(unknown)?;
    if !bool::from(transaction.state.as_bytes().ct_eq(state.as_bytes())) {
        return Err(unknown());
    }
    if transaction.is_over(now) {
        Err(SignInError::Expired)
    } else {
        Ok(transaction)
    }
}

/// The ID token of the answer, verified, and made for this very sign-in (OpenID Connect Core 1.0
/// §3.1.3.7 item 11).
async fn identity(
    app: &Ringwall,
    answer: &TokenResponse,
    transaction: &Transaction,
    now: SystemTime,
) -> Result<(IdToken, WireToken), SignInError> {
    let id_token = answer.id_token.clone();
    let id_token = id_token.ok_or_else(|| SignInError::IdToken("there is none".to_owned()))?;
    let claims = app.authority.verify_id_token(&id_token, now).await;
    let claims = claims.map_err(|error| SignInError::IdToken(error.to_string()))?;
    let nonce = claims.nonce.as_deref().unwrap_or("");
    if !bool::from(nonce.as_bytes().ct_eq(transaction.nonce.as_bytes())) {
        return Err(SignInError::IdToken(
            "its nonce belongs to another sign-in".to_owned(),
        ));
    }
    Ok((claims, id_token))
}

fn session_of(
    claims: IdToken,
    id_token: WireToken,
    answer: TokenResponse,
    now: SystemTime,
) -> SignedIn {
    let name = claims
        .name
        .or(claims.preferred_username)
        .unwrap_or_else(|| claims.sub.clone());
    SignedIn {
        user: SessionUser {
            sub: claims.sub,
            name,
            roles: claims.roles,
        },
        sid: claims.sid,
        tokens: Tokens {
            access: answer.access_token,
            access_expires: now + Duration::from_secs(answer.expires_in),
            refresh: answer.refresh_token,
            id_token,
            retry_after: None,
        },
    }
}
