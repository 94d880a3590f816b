//! `client_credentials` (RFC 6749 §4.4): a client acts for itself. No user, no refresh token.

use ringwall_proto::oauth::TokenResponse;

use super::{Grant, GrantFuture};
use crate::clients::Client;
use crate::config::clients::GrantName;
use crate::error::{Code, Error};
use crate::ids::{Subject, TokenId};
use crate::params::Params;
use crate::scopes::Scopes;
use crate::server::Server;
use crate::store::tokens::AccessRecord;
use crate::tokens;

pub(crate) struct ClientCredentials;

impl Grant for ClientCredentials {
    fn name(&self) -> GrantName {
        GrantName::ClientCredentials
    }

    fn redeem<'a>(
        &'a self,
        server: &'a Server,
        client: &'a Client,
        params: &'a Params,
    ) -> GrantFuture<'a> {
        Box::pin(redeem(server, client, params))
    }
}

async fn redeem(server: &Server, client: &Client, params: &Params) -> Result<TokenResponse, Error> {
    if client.declaration.is_public() {
        return Err(Error::refused(
            Code::UnauthorizedClient,
            "a public client cannot act for itself",
        ));
    }
    let audience = client.audience(params.get("resource")).ok_or_else(|| {
        Error::refused(
            Code::InvalidTarget,
            "the client is not registered for this audience",
        )
    })?;
    let scopes = granted_scopes(client, params.get("scope"))?;
    let issued_at = server.now();
    let lifetime = server.settings.lifetimes.access_token;
    let record = AccessRecord {
        jti: TokenId::random(),
        reference: None,
        family: None,
        client: client.id().clone(),
        sub: Subject::new(client.id().as_str()),
        user: false,
        sid: None,
        audience,
        scopes: scopes.clone(),
        acr: None,
        auth_time: None,
        act: None,
        issued_at,
        expires_at: issued_at.plus(lifetime),
    };
    let access_token = tokens::issue_access(
        server,
        record,
        Vec::new(),
        client.declaration.access_tokens,
        None,
    )
    .await?;
    Ok(tokens::bearer(access_token, lifetime, &scopes))
}

fn granted_scopes(client: &Client, wanted: Option<&str>) -> Result<Scopes, Error> {
    let registered = client.declaration.scopes.without_identity_scopes();
    let Some(text) = wanted else {
        return Ok(registered);
    };
    let scopes = Scopes::parse(text)
        .filter(|s| s.is_subset(&registered) && !s.has_identity_scope())
        .ok_or_else(|| {
            Error::refused(
                Code::InvalidScope,
                "the client is not registered for this scope",
            )
        })?;
    Ok(scopes)
}
