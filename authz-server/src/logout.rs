//! RP-initiated logout (OpenID Connect RP-Initiated Logout 1.0) and its back channel.
//!
//! A valid `id_token_hint` ends the session that it names, without a question, also when no cookie
//! comes along (a client may call over the mesh). Without one, a person who is signed in here is
//! asked. Redirects go only to an exactly registered address. Read next: `logout/backchannel.rs`.

pub(crate) mod backchannel;

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ringwall_token::claims::IdToken;
use url::form_urlencoded::Serializer;

use crate::authorize::response;
use crate::clients::Client;
use crate::cookies::{self, BROWSER_COOKIE, SESSION_COOKIE};
use crate::error::{Code, Error, PageError};
use crate::ids::SessionId;
use crate::login::check_form_token;
use crate::pages;
use crate::params::{self, Params};
use crate::server::Server;
use crate::store::sessions::LoginSession;
use crate::{origin, sessions, tokens};

/// Parameters that survive the confirmation page.
const CARRIED: [&str; 3] = ["client_id", "post_logout_redirect_uri", "state"];
const MAX_STATE: usize = 1024;

/// `GET /logout`.
pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let params = Params::parse(query.unwrap_or_default().as_bytes())?;
    logout(&server, &headers, &params).await
}

/// `POST /logout`: the same request by form, or the answer of the confirmation page.
pub(crate) async fn post(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, PageError> {
    let params = params::from_form(&headers, &body)?;
    if params.get("decision").is_some() {
        return decide(&server, &headers, &params).await;
    }
    logout(&server, &headers, &params).await
}

async fn logout(
    server: &Server,
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response, PageError> {
    let hint = params
        .get("id_token_hint")
        .and_then(|hint| tokens::verify_hint(server, hint));
    let target = target(server, params, hint.as_ref())?;
    let session = sessions::current(server, headers).await?;
    let named = hint.and_then(|hint| hint.sid).map(SessionId::new);
    match (named, session) {
        (Some(sid), session) if session.as_ref().is_none_or(|s| s.sid == sid) => {
            end(server, sid, target).await
        }
        (_, Some(session)) => confirm(server, headers, params, &session).await,
        (_, None) => Ok(leave(server, target)?),
    }
}

/// The answer of the confirmation page.
async fn decide(
    server: &Server,
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response, PageError> {
    origin::check(server, headers)?;
    let target = target(server, params, None)?;
    let Some(session) = sessions::current(server, headers).await? else {
        return Ok(leave(server, target)?);
    };
    check_form_token(params, &form_token(server, headers, &session)?)?;
    if params.require("decision")? != "leave" {
        let text = "Nothing was changed. You can close this page.";
        return Ok(pages::done(
            &server.settings.origin,
            "You are still signed in",
            text,
        )?);
    }
    end(server, session.sid, target).await
}

async fn end(
    server: &Server,
    sid: SessionId,
    target: Option<String>,
) -> Result<Response, PageError> {
    if server.store.end_session(sid, server.now()).await? {
        server.logout_wake.notify_one();
    }
    Ok(leave(server, target)?)
}

fn leave(server: &Server, target: Option<String>) -> Result<Response, Error> {
    let mut response = match target {
        Some(target) => response::see_other(&target)?,
        None => pages::done(
            &server.settings.origin,
            "You are signed out",
            "Your session has ended in every application that used it. You can close this page.",
        )?,
    };
    cookies::clear(&mut response, SESSION_COOKIE);
    Ok(response)
}

/// Where to go afterwards: an address that the named client has registered, character by
/// character; anything else is a page, and nothing is ended.
fn target(
    server: &Server,
    params: &Params,
    hint: Option<&IdToken>,
) -> Result<Option<String>, Error> {
    let refused = |text| Err(Error::refused(Code::InvalidRequest, text));
    let client_id = match (params.get("client_id"), hint.map(|h| h.aud.as_str())) {
        (Some(named), Some(hinted)) if named != hinted => {
            return refused("the client_id and the id_token_hint disagree");
        }
        (named, hinted) => named.or(hinted),
    };
    let Some(uri) = params.get("post_logout_redirect_uri") else {
        return Ok(None);
    };
    let client = client_id.and_then(|id| server.clients.find(id));
    if !client.is_some_and(|client| is_registered(&client, uri)) {
        return refused("the return address is not one of this application");
    }
    let Some(state) = params.get("state") else {
        return Ok(Some(uri.to_owned()));
    };
    if state.len() > MAX_STATE {
        return refused("the state of the application is too long");
    }
    let query = Serializer::new(String::new())
        .append_pair("state", state)
        .finish();
    let separator = if uri.contains('?') { '&' } else { '?' };
    Ok(Some(format!("{uri}{separator}{query}")))
}

fn is_registered(client: &Client, uri: &str) -> bool {
    client
        .declaration
        .post_logout_redirect_uris
        .iter()
        .any(|registered| registered == uri)
}

async fn confirm(
    server: &Server,
    headers: &HeaderMap,
    params: &Params,
    session: &LoginSession,
) -> Result<Response, PageError> {
    let user = server.store.profile(session.sub.clone()).await?;
    let page = pages::Logout {
        stylesheet: &pages::stylesheet(),
        origin: &server.settings.origin,
        user: user.as_ref().map_or("", |u| &u.username),
        csrf: &form_token(server, headers, session)?,
        carried: CARRIED
            .iter()
            .filter_map(|n| params.get(n).map(|v| (*n, v)))
            .collect(),
    };
    Ok(pages::show(
        StatusCode::OK,
        &page,
        params.get("post_logout_redirect_uri"),
    )?)
}

/// Bound to the sign-in cookie; the browser cookie may be absent here.
fn form_token(
    server: &Server,
    headers: &HeaderMap,
    session: &LoginSession,
) -> Result<String, Error> {
    let browser = cookies::get(headers, BROWSER_COOKIE)?.unwrap_or_default();
    let cookie = cookies::get(headers, SESSION_COOKIE)?.unwrap_or_default();
    let bound = format!("{browser}.{cookie}");
    Ok(server
        .keys
        .derivation()
        .form_token(&bound, "logout", session.sid.as_str()))
}
