//! Introspection (RFC 7662): what a token means at this moment.
//!
//! Roles and access are read anew each time, so that a disabled user, a removed membership, a
//! sign-out or a revocation counts at the next question (R11, R54).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CACHE_CONTROL;
use ringwall_proto::introspection::IntrospectionResponse;
use ringwall_service::Peer;

use crate::clients::authentication;
use crate::clock::UnixTime;
use crate::config::clients::Introspect;
use crate::error::{Code, Error};
use crate::params;
use crate::server::Server;
use crate::store::tokens::LiveToken;
use crate::tokens;

/// `POST /introspect`.
pub(crate) async fn introspect(
    State(server): State<Arc<Server>>,
    Peer(peer): Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let params = params::from_form(&headers, &body)?;
    let client = authentication::authenticate(&server, &headers, &peer, &params).await?;
    let allowed = &client.declaration.introspect;
    if *allowed == Introspect::Nothing {
        return Err(Error::refused(
            Code::UnauthorizedClient,
            "the client is not registered for introspection",
        ));
    }
    let live = tokens::find_live(&server, params.require("token")?).await?;
    let answer = match live.filter(|live| allowed.allows(&live.record.audience)) {
        Some(live) => describe(&server, live).await?,
        // RFC 7662 §2.2: no reason is given, not even that the token exists.
        None => IntrospectionResponse::inactive(),
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

async fn describe(server: &Server, live: LiveToken) -> Result<IntrospectionResponse, Error> {
    let LiveToken { record, standing } = live;
    let username = if record.user {
        server
            .store
            .profile(record.sub.clone())
            .await?
            .map(|profile| profile.username)
    } else {
        None
    };
    Ok(IntrospectionResponse {
        active: true,
        iss: Some(server.settings.issuer.clone()),
        sub: Some(record.sub.to_string()),
        aud: Some(record.audience),
        client_id: Some(record.client.to_string()),
        username,
        scope: Some(record.scopes.to_string()),
        token_type: Some("Bearer".to_owned()),
        exp: Some(record.expires_at.unsigned()),
        iat: Some(record.issued_at.unsigned()),
        nbf: None,
        jti: Some(record.jti.to_string()),
        roles: standing.roles,
        acr: record.acr,
        auth_time: record.auth_time.map(UnixTime::unsigned),
        sid: record.sid.map(|sid| sid.to_string()),
        act: record.act,
    })
}
