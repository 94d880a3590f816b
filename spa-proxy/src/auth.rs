//! Signing in and out, and the extractor that every protected handler names.
//!
//! Owns: the routes under `/auth/` and the session endpoint.
//! Must not: hand a token to the browser, in a body, a header or a URL.
//! Read next: `login` and `callback` in their order, then `logout`.

mod backchannel;
mod callback;
mod login;
mod logout;
mod transaction;

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use ringwall_proto::{paths, session};

pub(crate) use self::{backchannel::SeenLogoutTokens, transaction::Sealer};
use crate::{app::Ringwall, cookies, cookies::Cookies, error::Error, sessions::Session};

/// What a browser opens by navigation; protected by state and cookies instead of the CSRF header.
pub(crate) fn navigation() -> Router<Arc<Ringwall>> {
    Router::new()
        .route("/auth/login", get(login::login))
        .route("/auth/callback", get(callback::callback))
}

/// What the page calls.
pub(crate) fn page_api() -> Router<Arc<Ringwall>> {
    Router::new()
        .route("/auth/logout", post(logout::logout))
        .route("/api/session", get(session_state))
}

/// What the authorization server calls.
pub(crate) fn mesh() -> Router<Arc<Ringwall>> {
    Router::new().route(paths::BACKCHANNEL_LOGOUT, post(backchannel::logout))
}

/// The live session of a request; refuses with 401 when there is none.
pub(crate) struct CurrentSession(pub Arc<Session>);

impl FromRequestParts<Arc<Ringwall>> for CurrentSession {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<Ringwall>) -> Result<Self, Error> {
        let id = Cookies::read(&parts.headers).one(cookies::SESSION)?;
        let session = id.and_then(|id| app.sessions.find(id, SystemTime::now()));
        session.map(Self).ok_or(Error::NoSession)
    }
}

/// The live session, or none. Unlike `Option` this still refuses a duplicate cookie.
pub(crate) struct MaybeSession(pub Option<Arc<Session>>);

impl FromRequestParts<Arc<Ringwall>> for MaybeSession {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<Ringwall>) -> Result<Self, Error> {
        match CurrentSession::from_request_parts(parts, app).await {
            Ok(CurrentSession(session)) => Ok(Self(Some(session))),
            Err(Error::NoSession) => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }
}

/// `GET /api/session`: who is signed in, and never a token.
async fn session_state(MaybeSession(session): MaybeSession) -> Json<session::Session> {
    Json(match session {
        Some(session) => session::Session {
            signed_in: true,
            user: Some(session.user.clone()),
            csrf: None,
        },
        None => session::Session::anonymous(),
    })
}

/// 303 (RFC 9110 §15.4.4), never 307: what was sent here is not sent on.
fn see_other(location: &str, cookies: Vec<HeaderValue>) -> Response {
    let location = HeaderValue::from_str(location).unwrap_or(HeaderValue::from_static("/"));
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, location);
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
