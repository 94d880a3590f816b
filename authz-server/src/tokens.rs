//! Issuing and recognising tokens: JWT access tokens (RFC 9068), reference tokens, ID tokens
//! (OpenID Connect Core §2).
//!
//! Every access token has a record in the store, so that a JWT can be revoked before it expires
//! wherever introspection is asked. Read next: `store/tokens.rs`.

pub(crate) mod peek;

use std::time::Duration;

use ringwall_proto::WireToken;
use ringwall_proto::introspection::Actor;
use ringwall_proto::oauth::TokenResponse;
use ringwall_token::claims::{self, AccessToken, IdToken};
use serde::{Deserialize, Serialize};

use crate::acl::Standing;
use crate::audit::Event;
use crate::clients::Client;
use crate::clock::UnixTime;
use crate::config::clients::TokenFormat;
use crate::error::{Code, Error};
use crate::ids::{ClientId, FamilyId, SessionId, Subject, TokenId};
use crate::random::{OpaqueToken, REFERENCE_PREFIX, TokenHash, left_half_hash};
use crate::scopes::Scopes;
use crate::server::Server;
use crate::store::tokens::{AccessRecord, Handle, LiveToken};

const MAX_PRESENTED_BYTES: usize = 8 * 1024;

/// What a user has allowed a client, fixed when the code is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Granted {
    pub(crate) subject: Subject,
    pub(crate) session: SessionId,
    pub(crate) scopes: Scopes,
    pub(crate) audience: String,
    pub(crate) auth_time: UnixTime,
    pub(crate) acr: String,
    pub(crate) nonce: Option<String>,
}

/// What an access token of a user needs before its grant is looked at. The store writes its
/// record in the transaction that spends the code or refresh token: one winner, one token.
#[derive(Clone)]
pub(crate) struct Mint {
    reference: Option<OpaqueToken>,
    client: ClientId,
    issued_at: UnixTime,
    natural_end: UnixTime,
}

impl Mint {
    pub(crate) fn prepare(server: &Server, client: &Client) -> Result<Self, Error> {
        let reference = match client.declaration.access_tokens {
            TokenFormat::Jwt => None,
            TokenFormat::Reference => Some(OpaqueToken::reference()?),
        };
        let issued_at = server.now();
        Ok(Self {
            reference,
            client: client.id().clone(),
            issued_at,
            natural_end: issued_at.plus(server.settings.lifetimes.access_token),
        })
    }

    /// The record; no access token outlives its family.
    pub(crate) fn record(
        &self,
        family: FamilyId,
        granted: &Granted,
        scopes: Scopes,
        family_end: UnixTime,
    ) -> AccessRecord {
        AccessRecord {
            jti: TokenId::random(),
            reference: self.reference.as_ref().map(OpaqueToken::hash),
            family: Some(family),
            client: self.client.clone(),
            sub: granted.subject.clone(),
            user: true,
            sid: Some(granted.session.clone()),
            audience: granted.audience.clone(),
            scopes,
            acr: Some(granted.acr.clone()),
            auth_time: Some(granted.auth_time),
            act: None,
            issued_at: self.issued_at,
            expires_at: self.natural_end.min(family_end),
        }
    }
}

/// A user's access token whose record is stored.
pub(crate) struct UserTokens {
    pub(crate) record: AccessRecord,
    pub(crate) granted: Granted,
    pub(crate) standing: Standing,
}

/// Access token and, with `openid`, ID token. The refresh token is the caller's business.
pub(crate) async fn for_user(
    server: &Server,
    client: &Client,
    mint: &Mint,
    tokens: UserTokens,
) -> Result<TokenResponse, Error> {
    let UserTokens {
        record,
        granted,
        standing,
    } = tokens;
    let access = match &mint.reference {
        Some(token) => wire(token.text())?,
        None => {
            let claims = access_claims(server, &record, standing.roles.clone());
            wire(&server.keys.sign(AccessToken::TYP, &claims)?)?
        }
    };
    let scopes = &record.scopes;
    let id_token = if scopes.contains("openid") {
        Some(id_token(server, client, &granted, scopes, &standing, access.expose()).await?)
    } else {
        None
    };
    let mut response = bearer(
        access,
        record.expires_at.remaining_at(record.issued_at),
        scopes,
    );
    response.id_token = id_token;
    Ok(response)
}

/// Records the token and makes its text. The record comes first and is durable: a token that this
/// server does not remember never leaves it.
pub(crate) async fn issue_access(
    server: &Server,
    mut record: AccessRecord,
    roles: Vec<String>,
    format: TokenFormat,
    event: Option<Event>,
) -> Result<WireToken, Error> {
    let text = match format {
        TokenFormat::Jwt => server
            .keys
            .sign(AccessToken::TYP, &access_claims(server, &record, roles))?,
        TokenFormat::Reference => {
            let token = OpaqueToken::reference()?;
            record.reference = Some(token.hash());
            token.text().to_owned()
        }
    };
    let token = wire(&text)?;
    if !server.store.record_access(record, event).await? {
        return Err(Error::refused(
            Code::InvalidGrant,
            "the grant has been revoked",
        ));
    }
    Ok(token)
}

pub(crate) fn bearer(token: WireToken, lifetime: Duration, scopes: &Scopes) -> TokenResponse {
    TokenResponse {
        access_token: token,
        token_type: "Bearer".to_owned(),
        expires_in: lifetime.as_secs(),
        scope: (!scopes.is_empty()).then(|| scopes.to_string()),
        refresh_token: None,
        id_token: None,
        issued_token_type: None,
    }
}

pub(crate) fn wire(text: &str) -> Result<WireToken, Error> {
    WireToken::new(text).map_err(|_| {
        Error::Token(ringwall_token::TokenError::Sign(
            "token text out of bounds".to_owned(),
        ))
    })
}

fn access_claims(server: &Server, record: &AccessRecord, roles: Vec<String>) -> AccessToken {
    AccessToken {
        iss: server.settings.issuer.clone(),
        sub: record.sub.to_string(),
        aud: record.audience.clone(),
        exp: record.expires_at.unsigned(),
        iat: record.issued_at.unsigned(),
        jti: record.jti.to_string(),
        client_id: record.client.to_string(),
        scope: record.scopes.to_string(),
        roles,
        acr: record.acr.clone(),
        auth_time: record.auth_time.map(UnixTime::unsigned),
        act: record.act.as_ref().map(actor_claim),
        sid: record.sid.as_ref().map(ToString::to_string),
    }
}

fn actor_claim(actor: &Actor) -> claims::Actor {
    claims::Actor {
        sub: actor.sub.clone(),
        act: actor.act.as_deref().map(actor_claim).map(Box::new),
    }
}

async fn id_token(
    server: &Server,
    client: &Client,
    granted: &Granted,
    scopes: &Scopes,
    standing: &Standing,
    access_token: &str,
) -> Result<WireToken, Error> {
    let issued_at = server.now();
    let profile = server.store.profile(granted.subject.clone()).await?;
    let wants = |scope| profile.as_ref().filter(|_| scopes.contains(scope));
    let claims = IdToken {
        iss: server.settings.issuer.clone(),
        sub: granted.subject.to_string(),
        aud: client.id().to_string(),
        exp: issued_at
            .plus(server.settings.lifetimes.id_token)
            .unsigned(),
        iat: issued_at.unsigned(),
        auth_time: Some(granted.auth_time.unsigned()),
        nonce: granted.nonce.clone(),
        acr: Some(granted.acr.clone()),
        sid: Some(granted.session.to_string()),
        at_hash: Some(left_half_hash(access_token)),
        name: wants("profile").map(|p| p.name.clone()),
        preferred_username: wants("profile").map(|p| p.username.clone()),
        email: wants("email").map(|p| p.email.clone()),
        email_verified: None,
        roles: if scopes.contains("profile") {
            standing.roles.clone()
        } else {
            Vec::new()
        },
    };
    wire(&server.keys.sign(IdToken::TYP, &claims)?)
}

/// Which record a presented access token points to, if this server made it. A JWT's own claims
/// decide nothing but its `jti`: the record is the truth.
pub(crate) fn handle_of(server: &Server, presented: &str) -> Option<Handle> {
    if presented.starts_with(REFERENCE_PREFIX) {
        return Some(Handle::Reference(TokenHash::of(presented)));
    }
    let verified = ringwall_token::verify_bytes(
        presented,
        &server.keys.verifying(),
        AccessToken::TYP,
        MAX_PRESENTED_BYTES,
    )
    .ok()?;
    let claims: AccessToken = serde_json::from_slice(&verified.payload).ok()?;
    (claims.iss == server.settings.issuer).then(|| Handle::Jwt(TokenId::new(claims.jti)))
}

/// The live token that is presented, in either format.
pub(crate) async fn find_live(
    server: &Server,
    presented: &str,
) -> Result<Option<LiveToken>, Error> {
    let Some(handle) = handle_of(server, presented) else {
        return Ok(None);
    };
    Ok(server.store.live_token(handle, server.now()).await?)
}

/// An ID token as a hint: signature and issuer must hold, expiry need not (OpenID Connect
/// RP-Initiated Logout §2: "the OP SHOULD accept ID Tokens when the RP identified [...] even when
/// the exp time has passed").
pub(crate) fn verify_hint(server: &Server, hint: &str) -> Option<IdToken> {
    let verified = ringwall_token::verify_bytes(
        hint,
        &server.keys.verifying(),
        IdToken::TYP,
        MAX_PRESENTED_BYTES,
    )
    .ok()?;
    let claims: IdToken = serde_json::from_slice(&verified.payload).ok()?;
    (claims.iss == server.settings.issuer).then_some(claims)
}
