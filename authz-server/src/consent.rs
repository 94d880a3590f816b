//! Consent: what a client asks for, in words, and the user's decision.
//!
//! Consent is kept per user, client and scope. First-party clients are declared `consent: skip`;
//! that decision stands in `authorize/steps.rs`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::authorize::response;
use crate::authorize::steps::{self, Resumed};
use crate::error::{Code, Error, PageError};
use crate::login::check_form_token;
use crate::pages::{self, ScopeLine};
use crate::params;
use crate::server::Server;
use crate::store::interactions::denied;
use crate::store::sessions::LoginSession;
use crate::{origin, sessions};

/// The page that asks.
pub(crate) async fn page(
    server: &Server,
    resumed: &Resumed,
    session: &LoginSession,
) -> Result<Response, PageError> {
    let request = &resumed.interaction.request;
    let client = server.clients.find(request.client_id.as_str());
    let user = server.store.profile(session.sub.clone()).await?;
    let destination = destination(&request.redirect_uri);
    let page = pages::Consent {
        stylesheet: &pages::stylesheet(),
        origin: &server.settings.origin,
        client: client
            .as_ref()
            .map_or("An application", |c| &c.declaration.name),
        user: user.as_ref().map_or("", |u| &u.username),
        scopes: request
            .scopes
            .iter()
            .map(|name| ScopeLine {
                name,
                title: describe(name),
            })
            .collect(),
        destination: &destination,
        interaction: &resumed.handle,
        csrf: &form_token(server, resumed, Some(session)),
    };
    Ok(pages::show(
        StatusCode::OK,
        &page,
        Some(&request.redirect_uri),
    )?)
}

/// `POST /consent`. Also the way out of the sign-in page, which needs no session.
pub(crate) async fn post(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, PageError> {
    origin::check(&server, &headers)?;
    let params = params::from_form(&headers, &body)?;
    let resumed = steps::find(&server, &headers, params.require("interaction")?).await?;
    let session = sessions::current(&server, &headers).await?;
    check_form_token(&params, &form_token(&server, &resumed, session.as_ref()))?;
    match (params.require("decision")?, session) {
        ("allow", Some(session)) => Ok(allow(&server, resumed, session).await?),
        ("deny", session) => Ok(deny(&server, resumed, session).await?),
        _ => Err(PageError(Error::FormRefused)),
    }
}

/// Bound to browser, interaction and, if there is one, the session.
pub(crate) fn form_token(
    server: &Server,
    resumed: &Resumed,
    session: Option<&LoginSession>,
) -> String {
    let sid = session.map_or("", |s| s.sid.as_str());
    let about = format!("{}.{sid}", resumed.handle);
    server
        .keys
        .derivation()
        .form_token(&resumed.browser, "consent", &about)
}

async fn allow(
    server: &Server,
    resumed: Resumed,
    session: LoginSession,
) -> Result<Response, Error> {
    let request = resumed.interaction.request;
    let handle = resumed.interaction.handle;
    let (client, scopes) = (request.client_id, request.scopes);
    server
        .store
        .consent(session.sub, client, scopes, handle, server.now())
        .await?;
    response::see_other(&steps::resume_path(&resumed.handle))
}

async fn deny(
    server: &Server,
    resumed: Resumed,
    session: Option<LoginSession>,
) -> Result<Response, Error> {
    let interaction = resumed.interaction;
    let event = session.map(|session| denied(&session.sub, &interaction.request.client_id));
    let closed = server
        .store
        .close_interaction(interaction.handle, event, server.now())
        .await?;
    if !closed {
        return Err(Error::refused(
            Code::InvalidRequest,
            "this sign-in has ended",
        ));
    }
    let to = interaction.request.return_path();
    response::error(server, &to, Code::AccessDenied, "the user did not allow it")
}

fn describe(scope: &str) -> &'static str {
    match scope {
        "openid" => "Know that it is you",
        "profile" => "See your name and your roles",
        "email" => "See your email address",
        "offline_access" => "Keep access while you are away",
        "orders:read" => "See your orders",
        "orders:write" => "Place orders for you",
        "notifications:read" => "See your notifications",
        _ => "Use a permission of this platform",
    }
}

/// Where the user will be sent, short enough to be read.
fn destination(redirect_uri: &str) -> String {
    Url::parse(redirect_uri)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_else(|| "the application".to_owned())
}
