//! Sign-in with a password.
//!
//! Unknown user, wrong password, disabled user: one answer, after the same work. Read next:
//! `throttle.rs`, `passwords.rs`, `sessions.rs`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use ringwall_secret::SecretString;
use ringwall_service::Peer;
use subtle::ConstantTimeEq as _;

use crate::audit::{Event, Kind};
use crate::authorize::response;
use crate::authorize::steps::{self, Resumed};
use crate::cookies::{self, SESSION_COOKIE};
use crate::error::{Error, PageError};
use crate::ids::Subject;
use crate::pages;
use crate::params::{self, Params};
use crate::passwords::MAX_PASSWORD_BYTES;
use crate::server::Server;
use crate::throttle::{self, Limited};
use crate::{consent, origin, sessions};

const MAX_USERNAME_BYTES: usize = 128;
const WRONG: &str = "The user name or the password is not right.";
const LIMITED: &str = "Too many attempts. Wait a few minutes and try again.";

/// `GET /login?interaction=…`.
pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let params = Params::parse(query.unwrap_or_default().as_bytes())?;
    let resumed = steps::find(&server, &headers, params.require("interaction")?).await?;
    let hint = resumed
        .interaction
        .request
        .login_hint
        .clone()
        .unwrap_or_default();
    page(&server, &headers, &resumed, StatusCode::OK, &hint, None).await
}

/// `POST /login`.
pub(crate) async fn post(
    State(server): State<Arc<Server>>,
    Peer(peer): Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, PageError> {
    origin::check(&server, &headers)?;
    let params = params::from_form(&headers, &body)?;
    let resumed = steps::find(&server, &headers, params.require("interaction")?).await?;
    check_form_token(&params, &form_token(&server, &resumed))?;
    let username = params.get("username").unwrap_or_default();
    let address = throttle::client_address(&headers, peer == server.settings.ingress);
    match attempt(&server, username, params.get("password"), address).await? {
        Outcome::SignedIn(sub) => {
            let handle = resumed.interaction.handle;
            let source = address.map_or_else(|| "unknown".to_owned(), |a| a.to_string());
            let cookie = sessions::begin(&server, &headers, sub, handle, source).await?;
            server.logout_wake.notify_one();
            let mut response = response::see_other(&steps::resume_path(&resumed.handle))?;
            cookies::set(&mut response, SESSION_COOKIE, cookie.text());
            Ok(response)
        }
        Outcome::Wrong => {
            let status = StatusCode::FORBIDDEN;
            page(&server, &headers, &resumed, status, username, Some(WRONG)).await
        }
        Outcome::Limited(limited) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            let mut response =
                page(&server, &headers, &resumed, status, username, Some(LIMITED)).await?;
            let seconds = HeaderValue::from(limited.retry_after.as_secs().max(1));
            response.headers_mut().insert(RETRY_AFTER, seconds);
            Ok(response)
        }
    }
}

/// Constant-time comparison of a form's token.
pub(crate) fn check_form_token(params: &Params, expected: &str) -> Result<(), Error> {
    let presented = params.get("csrf").unwrap_or_default();
    if presented.as_bytes().ct_eq(expected.as_bytes()).into() {
        Ok(())
    } else {
        Err(Error::FormRefused)
    }
}

enum Outcome {
    SignedIn(Subject),
    Wrong,
    Limited(Limited),
}

async fn attempt(
    server: &Server,
    username: &str,
    password: Option<&str>,
    address: Option<IpAddr>,
) -> Result<Outcome, Error> {
    let password = password.unwrap_or_default();
    if username.len() > MAX_USERNAME_BYTES || password.len() > MAX_PASSWORD_BYTES {
        return Ok(Outcome::Wrong);
    }
    let now = server.now();
    let admitted = match server.throttle.admit(username, address, now) {
        Ok(admitted) => admitted,
        Err(limited) => {
            // Not audited each time: whoever is limited must not fill the disk instead.
            tracing::warn!(address = ?address, "sign-in limited");
            return Ok(Outcome::Limited(limited));
        }
    };
    let known = server.store.credentials(username.to_owned()).await?;
    let hash = known.as_ref().map(|k| k.password_hash.clone());
    let verdict = server
        .passwords
        .verify(SecretString::new(password.to_owned()), hash)
        .await;
    let matches = match verdict {
        Ok(matches) => matches,
        Err(error) => {
            server.throttle.forgive(admitted);
            return Err(error);
        }
    };
    match known {
        Some(user) if matches && !user.disabled => {
            server.throttle.forgive(admitted);
            Ok(Outcome::SignedIn(user.sub))
        }
        known => {
            let mut event = Event::new(Kind::SignInFailed);
            event.subject = known.map(|user| user.sub);
            event.detail = address.map_or_else(String::new, |a| a.to_string());
            server.store.audit(event, now).await?;
            Ok(Outcome::Wrong)
        }
    }
}

fn form_token(server: &Server, resumed: &Resumed) -> String {
    server
        .keys
        .derivation()
        .form_token(&resumed.browser, "login", &resumed.handle)
}

async fn page(
    server: &Server,
    headers: &HeaderMap,
    resumed: &Resumed,
    status: StatusCode,
    username: &str,
    message: Option<&str>,
) -> Result<Response, PageError> {
    let request = &resumed.interaction.request;
    let client = server.clients.find(request.client_id.as_str());
    let session = sessions::current(server, headers).await?;
    let page = pages::Login {
        stylesheet: &pages::stylesheet(),
        origin: &server.settings.origin,
        client: client
            .as_ref()
            .map_or("an application", |c| &c.declaration.name),
        message,
        username,
        interaction: &resumed.handle,
        csrf: &form_token(server, resumed),
        cancel_csrf: &consent::form_token(server, resumed, session.as_ref()),
    };
    Ok(pages::show(status, &page, Some(&request.redirect_uri))?)
}
