//! What still stands between a request and its code: sign-in, access, consent; and the code.

use axum::response::Response;
use http::HeaderMap;

use super::request::AuthorizationRequest;
use super::response;
use crate::clock::UnixTime;
use crate::config::clients::ConsentPolicy;
use crate::cookies::{self, BROWSER_COOKIE};
use crate::error::{Code, Error, PageError};
use crate::ids::FamilyId;
use crate::random::{OpaqueToken, TokenHash};
use crate::server::Server;
use crate::store::interactions::{Interaction, NewCode};
use crate::store::sessions::LoginSession;
use crate::tokens::Granted;
use crate::{consent, sessions};

/// What a request lacks although somebody is signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    SignIn,
    Consent,
    /// The user's groups do not reach the audience (R54), or it is not the expected user.
    Access,
}

/// An interaction together with its handle's text and the browser that it belongs to.
pub(crate) struct Resumed {
    pub(crate) interaction: Interaction,
    pub(crate) handle: String,
    pub(crate) browser: String,
}

/// Where an interaction goes on.
pub(crate) fn resume_path(handle: &str) -> String {
    format!("/authorize?interaction={handle}")
}

pub(crate) fn login_path(handle: &str) -> String {
    format!("/login?interaction={handle}")
}

/// Finds the interaction of this browser.
pub(crate) async fn find(
    server: &Server,
    headers: &HeaderMap,
    handle: &str,
) -> Result<Resumed, Error> {
    let gone = || {
        Error::refused(
            Code::InvalidRequest,
            "this sign-in has expired or has ended",
        )
    };
    let browser = cookies::get(headers, BROWSER_COOKIE)?.ok_or_else(gone)?;
    let interaction = server
        .store
        .interaction(TokenHash::of(handle), TokenHash::of(browser), server.now())
        .await?
        .ok_or_else(gone)?;
    Ok(Resumed {
        interaction,
        handle: handle.to_owned(),
        browser: browser.to_owned(),
    })
}

/// Goes on with an interaction: the next page, or the redirect that ends it.
///
/// Finishing takes the sign-in cookie and not only the interaction, so that whoever planted an
/// interaction in a browser cannot collect its result.
pub(crate) async fn resume(
    server: &Server,
    headers: &HeaderMap,
    handle: &str,
) -> Result<Response, PageError> {
    let resumed = find(server, headers, handle).await?;
    let Some(session) = sessions::current(server, headers).await? else {
        return Ok(response::see_other(&login_path(handle))?);
    };
    let interaction = &resumed.interaction;
    let request = &interaction.request;
    match missing(server, request, server.now(), Some(interaction), &session).await? {
        None => Ok(finish(server, resumed.interaction, session).await?),
        Some(Missing::SignIn) => Ok(response::see_other(&login_path(handle))?),
        Some(Missing::Consent) => consent::page(server, &resumed, &session).await,
        Some(Missing::Access) => {
            server
                .store
                .close_interaction(interaction.handle, None, server.now())
                .await?;
            Ok(no_access(server, request)?)
        }
    }
}

/// The first thing that is missing, in the order in which a person meets it.
pub(crate) async fn missing(
    server: &Server,
    request: &AuthorizationRequest,
    now: UnixTime,
    interaction: Option<&Interaction>,
    session: &LoginSession,
) -> Result<Option<Missing>, Error> {
    // A sign-in within the interaction satisfies prompt=login and every max_age.
    let signed_in_here = interaction.is_some_and(|i| i.signed_in.as_ref() == Some(&session.sid));
    let too_old = request
        .max_age
        .is_some_and(|most| session.auth_time.age_at(now) > most);
    let someone_else = request
        .expected_user
        .as_ref()
        .is_some_and(|user| *user != session.sub);
    if (request.prompt.login || too_old || someone_else) && !signed_in_here {
        return Ok(Some(Missing::SignIn));
    }
    // The application expected one user, and another one has signed in.
    if someone_else {
        return Ok(Some(Missing::Access));
    }
    let standing = server.store.standing(session.sub.clone()).await?;
    if !standing.is_some_and(|s| s.may_reach(&request.audience)) {
        return Ok(Some(Missing::Access));
    }
    let consented_here = interaction.is_some_and(|i| i.consented_by.as_ref() == Some(&session.sub));
    if consented_here {
        return Ok(None);
    }
    if request.prompt.consent {
        return Ok(Some(Missing::Consent));
    }
    let skips = server
        .clients
        .find(request.client_id.as_str())
        .is_some_and(|c| c.declaration.consent == ConsentPolicy::Skip);
    if skips {
        return Ok(None);
    }
    let granted = server
        .store
        .consented(session.sub.clone(), request.client_id.clone())
        .await?;
    Ok((!request.scopes.is_subset(&granted)).then_some(Missing::Consent))
}

/// `prompt=none` (OpenID Connect Core §3.1.2.6): an answer without any page.
pub(crate) async fn answer_silently(
    server: &Server,
    request: AuthorizationRequest,
    session: Option<LoginSession>,
    now: UnixTime,
) -> Result<Response, Error> {
    let to = request.return_path();
    let Some(session) = session else {
        return response::error(server, &to, Code::LoginRequired, "nobody is signed in");
    };
    match missing(server, &request, now, None, &session).await? {
        None => finish_at_once(server, request, session, now).await,
        Some(Missing::SignIn) => {
            response::error(server, &to, Code::LoginRequired, "a new sign-in is needed")
        }
        Some(Missing::Consent) => {
            response::error(server, &to, Code::ConsentRequired, "consent is needed")
        }
        Some(Missing::Access) => no_access(server, &request),
    }
}

/// The code at once: signed in already (single sign-on, R87) and nothing to ask.
pub(crate) async fn finish_at_once(
    server: &Server,
    request: AuthorizationRequest,
    session: LoginSession,
    now: UnixTime,
) -> Result<Response, Error> {
    let to = request.return_path();
    server.store.touch_session(session.sid.clone(), now).await?;
    let (code, new) = new_code(server, &request, session, now)?;
    server.store.grant_code(request, new).await?;
    response::code(server, &to, code.text())
}

async fn finish(
    server: &Server,
    interaction: Interaction,
    session: LoginSession,
) -> Result<Response, Error> {
    let to = interaction.request.return_path();
    let now = server.now();
    let (code, new) = new_code(server, &interaction.request, session, now)?;
    if !server.store.complete_interaction(interaction, new).await? {
        return Err(Error::refused(
            Code::InvalidRequest,
            "this sign-in has ended",
        ));
    }
    response::code(server, &to, code.text())
}

fn new_code(
    server: &Server,
    request: &AuthorizationRequest,
    session: LoginSession,
    now: UnixTime,
) -> Result<(OpaqueToken, NewCode), Error> {
    let code = OpaqueToken::random()?;
    let new = NewCode {
        code: code.hash(),
        family: FamilyId::random(),
        granted: Granted {
            subject: session.sub,
            session: session.sid,
            scopes: request.scopes.clone(),
            audience: request.audience.clone(),
            auth_time: session.auth_time,
            acr: session.acr,
            nonce: request.nonce.clone(),
        },
        expires_at: now.plus(server.settings.lifetimes.code),
    };
    Ok((code, new))
}

fn no_access(server: &Server, request: &AuthorizationRequest) -> Result<Response, Error> {
    let to = request.return_path();
    response::error(
        server,
        &to,
        Code::AccessDenied,
        "the user may not use this service",
    )
}
