//! Pushed authorization requests (RFC 9126): the client authenticates, the request is validated,
//! and the browser carries nothing but a reference that works once.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, StatusCode};
use ringwall_proto::oauth::ParResponse;
use ringwall_service::Peer;

use crate::authorize::request::{self, Invalid};
use crate::clients::authentication;
use crate::error::{Code, Error};
use crate::params;
use crate::random::OpaqueToken;
use crate::server::Server;

/// RFC 9126 §2.2.
pub(crate) const REQUEST_URI_PREFIX: &str = "urn:ietf:params:oauth:request_uri:";

/// `POST /par`.
pub(crate) async fn push(
    State(server): State<Arc<Server>>,
    Peer(peer): Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let params = params::from_form(&headers, &body)?;
    let client = authentication::authenticate(&server, &headers, &peer, &params).await?;
    if params.get("request_uri").is_some() {
        return Err(Error::refused(
            Code::InvalidRequest,
            "request_uri cannot be pushed",
        ));
    }
    // With Basic or an assertion the id stands elsewhere; if it is given too, it must agree.
    if params
        .get("client_id")
        .is_some_and(|id| id != client.id().as_str())
    {
        return Err(Error::refused(Code::InvalidRequest, "two client ids"));
    }
    let request = request::validate(&server, &client, &params).map_err(Invalid::into_error)?;
    let handle = OpaqueToken::random()?;
    let lifetime = server.settings.lifetimes.pushed_request;
    let expires_at = server.now().plus(lifetime);
    server
        .store
        .push_request(handle.hash(), request, expires_at)
        .await?;
    let body = ParResponse {
        request_uri: format!("{REQUEST_URI_PREFIX}{}", handle.text()),
        expires_in: lifetime.as_secs(),
    };
    Ok((
        StatusCode::CREATED,
        [(CACHE_CONTROL, "no-store")],
        Json(body),
    )
        .into_response())
}
