//! The sign-in of a browser: found by cookie, begun with a new cookie value each time.

use http::HeaderMap;

use crate::cookies::{self, SESSION_COOKIE};
use crate::error::Error;
use crate::ids::{SessionId, Subject};
use crate::random::{OpaqueToken, TokenHash};
use crate::server::Server;
use crate::store::sessions::{LoginSession, NewSession};

/// Authentication context of a password (the `acr` claim).
pub(crate) const ACR_PASSWORD: &str = "urn:ringwall:acr:password";

/// Who is signed in here, if anybody.
pub(crate) async fn current(
    server: &Server,
    headers: &HeaderMap,
) -> Result<Option<LoginSession>, Error> {
    let Some(cookie) = cookies::get(headers, SESSION_COOKIE)? else {
        return Ok(None);
    };
    let idle = server.settings.lifetimes.login_idle;
    Ok(server
        .store
        .session(TokenHash::of(cookie), idle, server.now())
        .await?)
}

/// Begins a sign-in and returns the cookie value. The value is always new, so that one planted
/// before the sign-in is worth nothing after it.
pub(crate) async fn begin(
    server: &Server,
    headers: &HeaderMap,
    sub: Subject,
    interaction: TokenHash,
    address: String,
) -> Result<OpaqueToken, Error> {
    let former = current(server, headers).await?;
    let sid = former
        .as_ref()
        .filter(|session| session.sub == sub)
        .map_or_else(SessionId::random, |session| session.sid.clone());
    let cookie = OpaqueToken::random()?;
    let auth_time = server.now();
    let session = LoginSession {
        sid,
        sub,
        auth_time,
        acr: ACR_PASSWORD.to_owned(),
    };
    server
        .store
        .begin_session(NewSession {
            session,
            cookie: cookie.hash(),
            expires_at: auth_time.plus(server.settings.lifetimes.login_session),
            address,
            former: former.map(|session| session.sid),
            interaction,
        })
        .await?;
    Ok(cookie)
}
