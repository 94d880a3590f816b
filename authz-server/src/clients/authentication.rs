//! Client authentication (RFC 6749 §2.3): exactly one method per request, and only a method that
//! the client is registered for.
//!
//! Every failure is the same `invalid_client`; the reason goes to the log. Mutual TLS
//! (RFC 8705 §2.1) counts only between workloads: the ingress forwards everybody's requests over
//! its own certificate, so that certificate proves nothing about a client.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ringwall_identity::SpiffeId;
use ringwall_proto::oauth::CLIENT_ASSERTION_TYPE;
use ringwall_secret::SecretString;

use super::{Client, assertion};
use crate::audit::{Event, Kind};
use crate::config::clients::AuthenticationMethod;
use crate::error::{Code, Error};
use crate::params::Params;
use crate::server::Server;

/// The client that sends this request.
pub(crate) async fn authenticate(
    server: &Server,
    headers: &HeaderMap,
    peer: &SpiffeId,
    params: &Params,
) -> Result<Arc<Client>, Error> {
    let basic = basic_credentials(headers)?;
    let secret = params.get("client_secret");
    let assertion = params.get("client_assertion");
    let methods = [basic.is_some(), secret.is_some(), assertion.is_some()];
    if methods.into_iter().filter(|used| *used).count() > 1 {
        return Err(Error::refused(
            Code::InvalidRequest,
            "more than one method of client authentication",
        ));
    }
    let outcome = if let Some((id, password)) = &basic {
        by_secret(
            server,
            params,
            id,
            password.expose(),
            AuthenticationMethod::ClientSecretBasic,
        )
    } else if let Some(secret) = secret {
        let id = params.require("client_id")?;
        by_secret(
            server,
            params,
            id,
            secret,
            AuthenticationMethod::ClientSecretPost,
        )
    } else if let Some(text) = assertion {
        by_assertion(server, params, text).await
    } else {
        by_connection(server, peer, params.require("client_id")?)
    };
    if let Err(Error::ClientRefused { reason, .. }) = &outcome {
        record_refusal(
            server,
            params,
            basic.as_ref().map(|(id, _)| id.as_str()),
            reason,
        )
        .await?;
    }
    outcome
}

/// Only refusals of registered clients are worth a durable line; anybody can invent an id.
async fn record_refusal(
    server: &Server,
    params: &Params,
    basic: Option<&str>,
    reason: &str,
) -> Result<(), Error> {
    let id = basic
        .or_else(|| params.get("client_id"))
        .unwrap_or_default();
    if let Some(client) = server.clients.find(id) {
        let event = Event::new(Kind::ClientRefused)
            .client(client.id())
            .detail(reason);
        server.store.audit(event, server.now()).await?;
    }
    Ok(())
}

fn refused(basic: bool, reason: &'static str) -> Error {
    Error::ClientRefused { basic, reason }
}

fn by_secret(
    server: &Server,
    params: &Params,
    id: &str,
    secret: &str,
    method: AuthenticationMethod,
) -> Result<Arc<Client>, Error> {
    let basic = method == AuthenticationMethod::ClientSecretBasic;
    if params.get("client_id").is_some_and(|named| named != id) {
        return Err(refused(basic, "two client ids"));
    }
    let client = server
        .clients
        .find(id)
        .ok_or_else(|| refused(basic, "unknown client"))?;
    if !client.declaration.authenticates_by(method) {
        return Err(refused(basic, "method not registered"));
    }
    if !client.secret_matches(secret, &server.secrets)? {
        return Err(refused(basic, "wrong secret"));
    }
    Ok(client)
}

async fn by_assertion(server: &Server, params: &Params, text: &str) -> Result<Arc<Client>, Error> {
    if params.require("client_assertion_type")? != CLIENT_ASSERTION_TYPE {
        return Err(Error::refused(
            Code::InvalidRequest,
            "unknown client_assertion_type",
        ));
    }
    assertion::verify(server, params.get("client_id"), text).await
}

/// No credential in the request: either the connection itself proves the client, or the client is
/// public and proves possession by PKCE.
fn by_connection(server: &Server, peer: &SpiffeId, id: &str) -> Result<Arc<Client>, Error> {
    let client = server
        .clients
        .find(id)
        .ok_or_else(|| refused(false, "unknown client"))?;
    let declaration = &client.declaration;
    if declaration.is_public() {
        return Ok(client);
    }
    if !declaration.authenticates_by(AuthenticationMethod::TlsClientAuth) {
        return Err(refused(false, "no credential"));
    }
    if *peer == server.settings.ingress {
        return Err(refused(false, "the ingress's certificate proves no client"));
    }
    if declaration.tls_client_auth_san_uri.as_deref() != Some(peer.as_str()) {
        return Err(refused(false, "another workload's certificate"));
    }
    Ok(client)
}

/// RFC 6749 §2.3.1: both halves are form-encoded before they are joined and base64-encoded.
fn basic_credentials(headers: &HeaderMap) -> Result<Option<(String, SecretString)>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let malformed = || refused(true, "malformed authorization header");
    if values.next().is_some() {
        return Err(malformed());
    }
    let text = value.to_str().map_err(|_| malformed())?;
    let (scheme, encoded) = text.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let joined = STANDARD.decode(encoded.trim()).map_err(|_| malformed())?;
    let joined = SecretString::new(String::from_utf8(joined).map_err(|_| malformed())?);
    let (id, secret) = joined.expose().split_once(':').ok_or_else(malformed)?;
    Ok(Some((
        form_decode(id),
        SecretString::new(form_decode(secret)),
    )))
}

fn form_decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("v={}", text.replace('&', "%26")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn with_authorization(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn basic_credentials_are_form_decoded() {
        let encoded = STANDARD.encode("my%20client:a%3Ab%26c+d");
        let headers = with_authorization(&format!("Basic {encoded}"));
        let (id, secret) = basic_credentials(&headers).unwrap().unwrap();
        assert_eq!(id, "my client");
        assert_eq!(secret.expose(), "a:b&c d");
    }

    #[test]
    fn malformed_headers_are_a_refusal_not_an_absence() {
        for bad in ["Basic", "Basic !!!", "Bearer x", "Basic bm9jb2xvbg=="] {
            assert!(
                basic_credentials(&with_authorization(bad)).is_err(),
                "{bad}"
            );
        }
        assert!(basic_credentials(&HeaderMap::new()).unwrap().is_none());
        let mut twice = with_authorization("Basic YTpi");
        twice.append(AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
        assert!(basic_credentials(&twice).is_err());
    }
}
