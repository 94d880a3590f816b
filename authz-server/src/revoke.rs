//! Revocation (RFC 7009): a client takes back its own tokens. A refresh token takes its family with
//! it, access tokens included.

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ringwall_service::Peer;

use crate::clients::authentication;
use crate::error::Error;
use crate::params;
use crate::random::TokenHash;
use crate::server::Server;
use crate::tokens;

/// `POST /revoke`. The answer is 200 also for unknown and foreign tokens (RFC 7009 §2.2), and the
/// `token_type_hint` is not needed: the text shows what it is.
pub(crate) async fn revoke(
    State(server): State<Arc<Server>>,
    Peer(peer): Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Error> {
    let params = params::from_form(&headers, &body)?;
    let client = authentication::authenticate(&server, &headers, &peer, &params).await?;
    let token = params.require("token")?;
    let now = server.now();
    let id = client.id().clone();
    let revoked = match tokens::handle_of(&server, token) {
        Some(handle) => server.store.revoke_access(handle, id, now).await?,
        None => {
            server
                .store
                .revoke_refresh(TokenHash::of(token), id, now)
                .await?
        }
    };
    tracing::info!(client = %client.id(), revoked, "revocation");
    Ok(StatusCode::OK)
}
