//! `private_key_jwt`: a client assertion (RFC 7523 §3), usable once.

use std::sync::Arc;
use std::time::Duration;

use ringwall_token::claims::ClientAssertion;

use super::Client;
use crate::clock::UnixTime;
use crate::config::clients::AuthenticationMethod;
use crate::error::Error;
use crate::random::TokenHash;
use crate::server::Server;
use crate::tokens::peek;

/// The client that signed the assertion. The audience is the issuer or the token endpoint, as one
/// string; the key is one of the client's registered keys.
pub(crate) async fn verify(
    server: &Server,
    named: Option<&str>,
    text: &str,
) -> Result<Arc<Client>, Error> {
    let refused = |reason| Error::ClientRefused {
        basic: false,
        reason,
    };
    let hint = peek::claims(text).ok_or_else(|| refused("malformed assertion"))?;
    let id = hint
        .iss
        .as_deref()
        .ok_or_else(|| refused("assertion without issuer"))?;
    if named.is_some_and(|named| named != id) {
        return Err(refused("two client ids"));
    }
    let client = server
        .clients
        .find(id)
        .ok_or_else(|| refused("unknown client"))?;
    if !client
        .declaration
        .authenticates_by(AuthenticationMethod::PrivateKeyJwt)
    {
        return Err(refused("method not registered"));
    }
    let keys = client
        .keys
        .as_ref()
        .ok_or_else(|| refused("no registered key"))?;
    let now = server.now();
    let claims = [
        server.settings.issuer.clone(),
        server.settings.endpoint("/token"),
    ]
    .iter()
    .filter(|audience| hint.aud.as_deref() == Some(audience.as_str()))
    .find_map(|audience| {
        let expected = server.expectation(id, audience, ClientAssertion::TYP);
        ringwall_token::verify::<ClientAssertion>(text, keys, &expected, now.to_system()).ok()
    })
    .ok_or_else(|| refused("assertion does not verify"))?;
    // Subject, bounded life, usable jti: what RFC 7523 §3 asks beyond a valid JWT.
    claims
        .check(id, now.to_system())
        .map_err(|_| refused("claims of an assertion"))?;
    let expires_at = UnixTime::from_seconds(i64::try_from(claims.exp).unwrap_or(i64::MAX));
    let jti = TokenHash::of(&claims.jti);
    // Remembered past the leeway with which the expiry is judged.
    let remember = expires_at.plus(Duration::from_secs(60));
    if !server
        .store
        .consume_assertion(client.id().clone(), jti, remember, now)
        .await?
    {
        return Err(refused("assertion replayed"));
    }
    Ok(client)
}
