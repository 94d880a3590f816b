//! Token exchange (RFC 8693): a service that received a user's token gets one for the next
//! service, with itself in the `act` chain. Scope and life can only shrink.

use std::time::Duration;

use ringwall_proto::introspection::Actor;
use ringwall_proto::oauth::{ACCESS_TOKEN_TYPE, TokenResponse};

use super::{Grant, GrantFuture};
use crate::audit::{Event, Kind};
use crate::clients::Client;
use crate::config::clients::{Exchange, GrantName, TokenFormat};
use crate::error::{Code, Error};
use crate::ids::TokenId;
use crate::params::Params;
use crate::scopes::Scopes;
use crate::server::Server;
use crate::store::tokens::{AccessRecord, LiveToken};
use crate::tokens;

/// `urn:ietf:params:oauth:token-type:jwt` of RFC 8693 §3; an access token here is both.
const JWT_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// Longer delegation chains are no longer something that a person can follow.
const MAX_ACTORS: usize = 4;

pub(crate) struct TokenExchange;

impl Grant for TokenExchange {
    fn name(&self) -> GrantName {
        GrantName::TokenExchange
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
    let exchange = client.declaration.exchange.as_ref().ok_or_else(|| {
        Error::refused(
            Code::UnauthorizedClient,
            "the client has no audience to exchange for",
        )
    })?;
    check_types(params)?;
    let audience = target(exchange, params)?;
    let subject = tokens::find_live(server, params.require("subject_token")?)
        .await?
        .ok_or_else(|| Error::refused(Code::InvalidRequest, "the subject token is not valid"))?;
    // A token that was made for somebody else must not be laundered by whoever got hold of it.
    if !exchange
        .subject_audiences
        .contains(&subject.record.audience)
    {
        return Err(Error::refused(
            Code::InvalidRequest,
            "the subject token was not issued for this client's audience",
        ));
    }
    if subject.record.user && !subject.standing.may_reach(&audience) {
        return Err(Error::refused(
            Code::InvalidTarget,
            "the user may not use this audience",
        ));
    }
    let scopes = shrunk_scopes(&subject, params.get("scope"))?;
    let record = exchanged(server, client, &subject, audience, scopes)?;
    let scopes = record.scopes.clone();
    let lifetime = record.expires_at.remaining_at(record.issued_at);
    let event = Event::new(Kind::TokenExchanged)
        .subject(&record.sub)
        .client(client.id())
        .detail(format!("audience {}", record.audience));
    let roles = subject.standing.roles;
    let token = tokens::issue_access(server, record, roles, TokenFormat::Jwt, Some(event)).await?;
    let mut response = tokens::bearer(token, lifetime, &scopes);
    response.issued_token_type = Some(ACCESS_TOKEN_TYPE.to_owned());
    Ok(response)
}

fn check_types(params: &Params) -> Result<(), Error> {
    if params.require("subject_token_type")? != ACCESS_TOKEN_TYPE {
        return Err(Error::refused(
            Code::InvalidRequest,
            "only access tokens can be exchanged",
        ));
    }
    let requested = params
        .get("requested_token_type")
        .unwrap_or(ACCESS_TOKEN_TYPE);
    if requested != ACCESS_TOKEN_TYPE && requested != JWT_TOKEN_TYPE {
        return Err(Error::refused(
            Code::InvalidRequest,
            "only access tokens are issued",
        ));
    }
    // The actor is always the authenticated client; a token that says otherwise is not looked at.
    if params.get("actor_token").is_some() {
        return Err(Error::refused(
            Code::InvalidRequest,
            "actor tokens are not accepted",
        ));
    }
    Ok(())
}

/// Exactly one target, by its logical name or as a resource.
fn target(exchange: &Exchange, params: &Params) -> Result<String, Error> {
    let wanted = match (params.get("audience"), params.get("resource")) {
        (Some(_), Some(_)) => {
            return Err(Error::refused(
                Code::InvalidTarget,
                "exactly one audience is possible",
            ));
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return Err(Error::refused(Code::InvalidTarget, "audience is missing")),
    };
    exchange
        .audiences
        .iter()
        .find(|a| *a == wanted)
        .cloned()
        .ok_or_else(|| {
            Error::refused(
                Code::InvalidTarget,
                "the client may not exchange for this audience",
            )
        })
}

fn shrunk_scopes(subject: &LiveToken, wanted: Option<&str>) -> Result<Scopes, Error> {
    let most = subject.record.scopes.without_identity_scopes();
    match wanted {
        None => Ok(most),
        Some(text) => Scopes::parse(text)
            .filter(|scopes| scopes.is_subset(&most))
            .ok_or_else(|| Error::refused(Code::InvalidScope, "the scope can only shrink")),
    }
}

fn exchanged(
    server: &Server,
    client: &Client,
    subject: &LiveToken,
    audience: String,
    scopes: Scopes,
) -> Result<AccessRecord, Error> {
    let before = &subject.record;
    if chain_length(before.act.as_ref()) >= MAX_ACTORS {
        return Err(Error::refused(
            Code::InvalidRequest,
            "the chain of actors is too long",
        ));
    }
    let issued_at = server.now();
    let lifetime: Duration = server.settings.lifetimes.exchanged_token;
    Ok(AccessRecord {
        jti: TokenId::random(),
        reference: None,
        // Family and session are inherited, so that revoking them ends this token too.
        family: before.family.clone(),
        client: client.id().clone(),
        sub: before.sub.clone(),
        user: before.user,
        sid: before.sid.clone(),
        audience,
        scopes,
        acr: before.acr.clone(),
        auth_time: before.auth_time,
        act: Some(Actor {
            sub: client.id().as_str().to_owned(),
            act: before.act.clone().map(Box::new),
        }),
        issued_at,
        expires_at: issued_at.plus(lifetime).min(before.expires_at),
    })
}

fn chain_length(actor: Option<&Actor>) -> usize {
    std::iter::successors(actor, |a| a.act.as_deref()).count()
}
