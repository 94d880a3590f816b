//! The authorization endpoint (RFC 6749 §3.1, OpenID Connect Core §3.1.2): from a validated
//! request to sign-in, consent and at last a code.
//!
//! One rule above all: until client and redirect URI are known to belong together, every failure
//! is a page and never a redirect. Read next: `authorize/request.rs` (validation),
//! `authorize/steps.rs` (what is still missing), `authorize/response.rs` (what travels back).

pub(crate) mod redirect;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod steps;

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;

use crate::cookies::{self, BROWSER_COOKIE};
use crate::error::{Code, Error, PageError};
use crate::ids::ClientId;
use crate::params::{self, Params};
use crate::random::{OpaqueToken, TokenHash};
use crate::server::Server;
use crate::{par, sessions};
use request::{AuthorizationRequest, Invalid};

/// `GET /authorize`.
pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let params = Params::parse(query.unwrap_or_default().as_bytes())?;
    if let Some(handle) = params.get("interaction") {
        return steps::resume(&server, &headers, handle).await;
    }
    begin(&server, &headers, &params).await
}

/// `POST /authorize`, which OpenID Connect Core §3.1.2.1 requires beside GET.
pub(crate) async fn post(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, PageError> {
    begin(&server, &headers, &params::from_form(&headers, &body)?).await
}

async fn begin(
    server: &Server,
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response, PageError> {
    let request = match validated(server, params).await? {
        Ok(request) => request,
        Err(Invalid::Page(error)) => return Err(PageError(error)),
        Err(Invalid::Redirect {
            to,
            code,
            description,
        }) => {
            return Ok(response::error(server, &to, code, &description)?);
        }
    };
    let session = sessions::current(server, headers).await?;
    let now = server.now();
    if request.prompt.none {
        return Ok(steps::answer_silently(server, request, session, now).await?);
    }
    if let Some(session) = &session
        && steps::missing(server, &request, now, None, session)
            .await?
            .is_none()
    {
        let session = session.clone();
        return Ok(steps::finish_at_once(server, request, session, now).await?);
    }
    open_interaction(server, headers, request).await
}

/// The request of the parameters, or of the pushed request that they name (RFC 9126 §4).
async fn validated(
    server: &Server,
    params: &Params,
) -> Result<Result<AuthorizationRequest, Invalid>, Error> {
    let page = |code, text| Ok(Err(Invalid::Page(Error::refused(code, text))));
    let Some(id) = params.get("client_id") else {
        return page(
            Code::InvalidRequest,
            "the application did not say who it is",
        );
    };
    let Some(client) = server.clients.find(id) else {
        return page(
            Code::InvalidRequest,
            "this application is not registered here",
        );
    };
    let Some(uri) = params.get("request_uri") else {
        if client.declaration.require_pushed_requests {
            return page(
                Code::InvalidRequest,
                "this application must push its requests",
            );
        }
        return Ok(request::validate(server, &client, params));
    };
    let Some(handle) = uri.strip_prefix(par::REQUEST_URI_PREFIX) else {
        return page(
            Code::InvalidRequestUri,
            "the request reference is not one of this server",
        );
    };
    let id = ClientId::new(id);
    let pushed = server
        .store
        .consume_pushed_request(TokenHash::of(handle), id, server.now())
        .await?;
    match pushed {
        Some(request) => Ok(Ok(request)),
        None => page(
            Code::InvalidRequestUri,
            "this sign-in link has expired or was used already",
        ),
    }
}

/// Puts the request aside and shows the person what is missing.
async fn open_interaction(
    server: &Server,
    headers: &HeaderMap,
    request: AuthorizationRequest,
) -> Result<Response, PageError> {
    let known = cookies::get(headers, BROWSER_COOKIE)?;
    let fresh = if known.is_none() {
        Some(OpaqueToken::random()?)
    } else {
        None
    };
    let browser = match (known, &fresh) {
        (Some(known), _) => TokenHash::of(known),
        (None, Some(fresh)) => fresh.hash(),
        (None, None) => return Err(PageError(Error::Random)),
    };
    let handle = OpaqueToken::random()?;
    let now = server.now();
    let expires_at = now.plus(server.settings.lifetimes.interaction);
    server
        .store
        .open_interaction(handle.hash(), browser, request, now, expires_at)
        .await?;
    let mut response = response::see_other(&steps::resume_path(handle.text()))?;
    if let Some(fresh) = fresh {
        cookies::set(&mut response, BROWSER_COOKIE, fresh.text());
    }
    Ok(response)
}
