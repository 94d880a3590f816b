//! `authorization_code` with PKCE (RFC 6749 §4.1.3, RFC 7636 §4.5): one redemption, by the client,
//! redirect URI and verifier that the code was made for.

use std::time::Duration;

use ringwall_proto::oauth::TokenResponse;

use super::{Grant, GrantFuture};
use crate::clients::Client;
use crate::config::clients::GrantName;
use crate::error::{Code, Error};
use crate::params::Params;
use crate::random::{OpaqueToken, TokenHash, base64url_sha256};
use crate::server::Server;
use crate::store::codes::{Redeemed, Redemption};
use crate::tokens::{self, Mint};

pub(crate) struct AuthorizationCode;

impl Grant for AuthorizationCode {
    fn name(&self) -> GrantName {
        GrantName::AuthorizationCode
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
    let verifier = params.require("code_verifier")?;
    if !is_verifier(verifier) {
        return Err(invalid_grant());
    }
    let refresh = if client.declaration.may_use(GrantName::RefreshToken) {
        Some(OpaqueToken::refresh()?)
    } else {
        None
    };
    let mint = Mint::prepare(server, client)?;
    let now = server.now();
    let presented = Redemption {
        code: TokenHash::of(params.require("code")?),
        client: client.id().clone(),
        redirect_uri: params.require("redirect_uri")?.to_owned(),
        code_challenge: base64url_sha256(verifier),
        family_expires_at: now.plus(family_life(server)),
        refresh: refresh.as_ref().map(OpaqueToken::hash),
        mint: mint.clone(),
    };
    match server.store.redeem_code(presented, now).await? {
        Redeemed::Granted(granted) => {
            let mut response = tokens::for_user(server, client, &mint, *granted).await?;
            response.refresh_token = refresh.map(|t| tokens::wire(t.text())).transpose()?;
            Ok(response)
        }
        Redeemed::Replayed => {
            tracing::warn!(client = %client.id(), "authorization code replayed, family revoked");
            Err(invalid_grant())
        }
        Redeemed::Refused => Err(invalid_grant()),
    }
}

fn family_life(server: &Server) -> Duration {
    server.settings.lifetimes.refresh_family
}

/// One answer for unknown, expired, spent and foreign codes and for a wrong verifier.
fn invalid_grant() -> Error {
    Error::refused(Code::InvalidGrant, "the code or its verifier is not valid")
}

/// `code-verifier = 43*128unreserved` (RFC 7636 §4.1).
fn is_verifier(text: &str) -> bool {
    (43..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r07_verifiers_outside_the_grammar_are_refused() {
        assert!(is_verifier(&"a".repeat(43)));
        assert!(!is_verifier(&"a".repeat(42)));
        assert!(!is_verifier(&"a".repeat(129)));
        assert!(!is_verifier(&"+".repeat(43)));
    }
}
