//! `POST /auth/logout`: ends the session here, its refresh token, and the server's own session.
//!
//! Owns: the order: locally first, so that signing out works even when nothing else answers.
//! Must not: hand the ID token to the browser; the server gets it over the mesh instead of in a URL.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use serde::Serialize;

use crate::{
    app::Ringwall,
    cookies::{self, Cookies},
    error::Error,
    sessions::Session,
};

/// Signing out does not wait longer than this for the authorization server.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the page goes next.
#[derive(Debug, Serialize)]
struct SignedOut {
    location: String,
}

pub(crate) async fn logout(
    State(app): State<Arc<Ringwall>>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let id = Cookies::read(&headers).one(cookies::SESSION)?;
    let session = id.and_then(|id| app.sessions.end(id));
    let location = match &session {
        Some(session) => {
            if tokio::time::timeout(PATIENCE, end_at_server(&app, session))
                .await
                .is_err()
            {
                tracing::warn!("the authorization server was too slow at sign-out");
            }
            let url = app.authority.end_session_url();
            url.map_err(|error| Error::AuthorityUnreachable(error.to_string()))?
        }
        None => "/".to_owned(),
    };
    let mut response = Json(SignedOut { location }).into_response();
    response
        .headers_mut()
        .append(header::SET_COOKIE, cookies::remove(cookies::SESSION));
    Ok(response)
}

async fn end_at_server(app: &Ringwall, session: &Session) {
    let (refresh, id_token) = {
        let tokens = session.tokens.lock().await;
        (tokens.refresh.clone(), tokens.id_token.clone())
    };
    let revoke = async {
        match &refresh {
            Some(token) => app.authority.revoke(token).await,
            None => Ok(()),
        }
    };
    let (revoked, ended) = tokio::join!(revoke, app.authority.end_session(&id_token));
    for (what, outcome) in [
        ("revoking the refresh token", revoked),
        ("single logout", ended),
    ] {
        if let Err(error) = outcome {
            tracing::warn!(%error, what, "sign-out is incomplete at the authorization server");
        }
    }
}
