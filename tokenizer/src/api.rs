//! The HTTP contract: four routes. The caller or the audience is always the mTLS peer.
//!
//! Owns: the translation between requests and `tokens.rs`. Must not: decide.
//! Read next: `tokens.rs`, and `ringwall_proto::tokenizer` for the messages.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderValue, StatusCode, header};
use ringwall_proto::paths;
use ringwall_proto::tokenizer::{RedeemRequest, RevokeRequest, SourceTokenRequest};
use ringwall_service::Peer;
use ringwall_service::extract::{Form, Json};

use crate::error::TokenizerError;
use crate::tokens::Tokenizer;

/// Largest request: one access token (8 KiB) and a few short fields.
pub(crate) const MAX_BODY: usize = 16 * 1024;

pub(crate) fn router(tokenizer: Tokenizer) -> Router {
    Router::new()
        .route(paths::SOURCE_TOKENS, post(issue))
        .route(paths::SOURCE_TOKENS, get(list))
        .route(paths::SOURCE_TOKENS_REDEEM, post(redeem))
        .route(paths::SOURCE_TOKENS_REVOKE, post(revoke))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(tokenizer)
}

async fn issue(
    State(tokenizer): State<Tokenizer>,
    Peer(caller): Peer,
    Form(request): Form<SourceTokenRequest>,
) -> Result<Response, TokenizerError> {
    let issued = tokenizer.issue(&caller, request).await?;
    Ok(unstored(axum::Json(issued)))
}

async fn redeem(
    State(tokenizer): State<Tokenizer>,
    Peer(audience): Peer,
    Json(request): Json<RedeemRequest>,
) -> Result<Response, TokenizerError> {
    let redeemed = tokenizer.redeem(&audience, request).await?;
    Ok(unstored(axum::Json(redeemed)))
}

async fn revoke(
    State(tokenizer): State<Tokenizer>,
    Peer(peer): Peer,
    Json(request): Json<RevokeRequest>,
) -> Result<StatusCode, TokenizerError> {
    tokenizer.revoke(&peer, &request.token).await?;
    Ok(StatusCode::OK)
}

async fn list(
    State(tokenizer): State<Tokenizer>,
    Peer(caller): Peer,
) -> Result<Response, TokenizerError> {
    let tokens = tokenizer.list(&caller).await?;
    Ok(unstored(axum::Json(tokens)))
}

/// No cache may keep an answer with a token or about one (RFC 6749 §5.1).
fn unstored(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
