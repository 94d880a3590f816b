//! The token endpoint (RFC 6749 §3.2): who asks, by which grant, and the grant's own answer.
//!
//! A grant is one implementation of [`Grant`] in `grants/`; what is not in [`GrantRegistry`] does
//! not exist, and what a client is not registered for is refused before the grant sees it (R10).

mod authorization_code;
mod client_credentials;
mod refresh_token;
mod token_exchange;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};
use ringwall_proto::oauth::TokenResponse;
use ringwall_service::Peer;

use crate::clients::{Client, authentication};
use crate::config::clients::GrantName;
use crate::error::{Code, Error};
use crate::params::{self, Params};
use crate::server::Server;

/// The future of a grant; boxed, because grants stand behind a trait object.
pub(crate) type GrantFuture<'a> =
    Pin<Box<dyn Future<Output = Result<TokenResponse, Error>> + Send + 'a>>;

/// One way to get tokens.
pub(crate) trait Grant: Send + Sync {
    fn name(&self) -> GrantName;

    /// Answers a request of an authenticated client that is registered for this grant.
    fn redeem<'a>(
        &'a self,
        server: &'a Server,
        client: &'a Client,
        params: &'a Params,
    ) -> GrantFuture<'a>;
}

/// The grants that this server serves.
pub(crate) struct GrantRegistry(Vec<Box<dyn Grant>>);

impl GrantRegistry {
    pub(crate) fn standard() -> Self {
        Self(vec![
            Box::new(authorization_code::AuthorizationCode),
            Box::new(refresh_token::RefreshToken),
            Box::new(client_credentials::ClientCredentials),
            Box::new(token_exchange::TokenExchange),
        ])
    }

    pub(crate) fn find(&self, name: &str) -> Option<&dyn Grant> {
        self.0
            .iter()
            .find(|g| g.name().as_str() == name)
            .map(AsRef::as_ref)
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|g| g.name().as_str()).collect()
    }
}

/// `POST /token`.
pub(crate) async fn token(
    State(server): State<Arc<Server>>,
    Peer(peer): Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let params = params::from_form(&headers, &body)?;
    let client = authentication::authenticate(&server, &headers, &peer, &params).await?;
    let name = params.require("grant_type")?;
    let grant = server.grants.find(name).ok_or_else(|| {
        Error::refused(
            Code::UnsupportedGrantType,
            "this server does not serve the grant",
        )
    })?;
    if !client.declaration.may_use(grant.name()) {
        return Err(Error::refused(
            Code::UnauthorizedClient,
            "the client is not registered for this grant",
        ));
    }
    let response = grant.redeem(&server, &client, &params).await?;
    tracing::info!(client = %client.id(), grant = name, "tokens issued");
    // RFC 6749 §5.1: token responses are never cached.
    Ok((
        [(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")],
        Json(response),
    )
        .into_response())
}
