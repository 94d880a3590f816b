//! `refresh_token` (RFC 6749 §6) with rotation, reuse detection and a retry-safe answer (R9).

use ringwall_proto::oauth::TokenResponse;

use super::{Grant, GrantFuture};
use crate::clients::Client;
use crate::config::clients::GrantName;
use crate::error::{Code, Error};
use crate::params::Params;
use crate::random::TokenHash;
use crate::scopes::Scopes;
use crate::server::Server;
use crate::store::tokens::{Rotated, Rotation};
use crate::tokens::{self, Mint};

pub(crate) struct RefreshToken;

impl Grant for RefreshToken {
    fn name(&self) -> GrantName {
        GrantName::RefreshToken
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
    let presented = params.require("refresh_token")?;
    let wanted = params.get("scope").map(parse_scope).transpose()?;
    let successor = server.keys.derivation().refresh_successor(presented);
    let mint = Mint::prepare(server, client)?;
    let rotation = Rotation {
        presented: TokenHash::of(presented),
        successor: successor.hash(),
        client: client.id().clone(),
        retry_window: server.settings.lifetimes.refresh_retry,
        wanted,
        mint: mint.clone(),
    };
    match server.store.rotate(rotation, server.now()).await? {
        Rotated::Granted(granted) => {
            let mut response = tokens::for_user(server, client, &mint, *granted).await?;
            response.refresh_token = Some(tokens::wire(successor.text())?);
            Ok(response)
        }
        Rotated::TooWide => Err(Error::refused(
            Code::InvalidScope,
            "the scope can only shrink",
        )),
        Rotated::Replayed => {
            tracing::warn!(client = %client.id(), "refresh token replayed, family revoked");
            Err(invalid_grant())
        }
        Rotated::Refused => Err(invalid_grant()),
    }
}

fn parse_scope(text: &str) -> Result<Scopes, Error> {
    Scopes::parse(text).ok_or_else(|| Error::refused(Code::InvalidScope, "malformed scope"))
}

fn invalid_grant() -> Error {
    Error::refused(Code::InvalidGrant, "the refresh token is not valid")
}
