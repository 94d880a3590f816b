//! Asks the authorization server whether a user's access token is active, here and now.
//!
//! Owns: the request (RFC 7662 §2.1) and what an answer must say. Must not: cache an answer, since
//! a revoked token must not buy a source token. Read next: `tokens.rs`.

use std::future::Future;
use std::pin::Pin;

use ringwall_http_io::{ClientError, Transport};
use ringwall_proto::ids::{ClientId, Subject};
use ringwall_proto::introspection::IntrospectionResponse;
use ringwall_proto::{WireToken, paths};
use time::OffsetDateTime;

use crate::binding::OnBehalfOf;
use crate::config::SubjectConfig;
use crate::error::TokenizerError;

/// Our client id; the connection's SPIFFE identity proves it (RFC 8705 §2.1).
const CLIENT_ID: &str = "tokenizer";

type Answer<'a> =
    Pin<Box<dyn Future<Output = Result<IntrospectionResponse, ClientError>> + Send + 'a>>;

/// Whatever can carry the question: the traced mesh upstream, or a plain client in tests.
pub(crate) trait Introspect: Send + Sync {
    fn introspect<'a>(&'a self, token: &'a WireToken) -> Answer<'a>;
}

impl<T: Transport + Send + Sync> Introspect for T {
    fn introspect<'a>(&'a self, token: &'a WireToken) -> Answer<'a> {
        Box::pin(async move {
            let form = [
                ("token", token.expose()),
                ("token_type_hint", "access_token"),
                ("client_id", CLIENT_ID),
            ];
            let call = self.post(paths::AUTHZ_INTROSPECT).form(&form);
            Ok(call.receive().await?.body)
        })
    }
}

/// A user's access token that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveSubject {
    pub(crate) user: OnBehalfOf,
    /// The source token must not outlive it.
    pub(crate) expires_at: Option<OffsetDateTime>,
}

/// Checks the answer; every doubt is a refusal.
pub(crate) fn accept(
    answer: IntrospectionResponse,
    subject: &SubjectConfig,
    scope: Option<&str>,
    now: OffsetDateTime,
) -> Result<ActiveSubject, TokenizerError> {
    let refuse = |reason| Err(TokenizerError::Subject(reason));
    if !answer.active {
        return refuse("inactive");
    }
    if answer
        .iss
        .as_deref()
        .is_some_and(|issuer| issuer != subject.issuer)
    {
        return refuse("wrong issuer");
    }
    if answer.aud.as_deref() != Some(subject.audience.as_str()) {
        return refuse("wrong audience");
    }
    // A refresh token can be active too, but it is no access token.
    if answer.token_type.as_deref() == Some("refresh_token") {
        return refuse("not an access token");
    }
    if scope.is_some_and(|scope| !answer.has_scope(scope)) {
        return refuse("missing scope");
    }
    let expires_at = match answer.exp.map(i64::try_from) {
        None => None,
        Some(Ok(seconds)) => OffsetDateTime::from_unix_timestamp(seconds).ok(),
        Some(Err(_)) => return refuse("unusable expiry"),
    };
    if expires_at.is_some_and(|end| end <= now) {
        return refuse("expired");
    }
    let (Some(sub), Some(client_id)) = (answer.sub, answer.client_id) else {
        return refuse("no subject or client");
    };
    let (Ok(sub), Ok(client_id)) = (Subject::parse(sub), ClientId::parse(client_id)) else {
        return refuse("unusable subject or client");
    };
    Ok(ActiveSubject {
        user: OnBehalfOf { sub, client_id },
        expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> SubjectConfig {
        SubjectConfig {
            issuer: "https://auth.localhost:8443".to_owned(),
            audience: "https://api.localhost:8443".to_owned(),
        }
    }

    fn active() -> IntrospectionResponse {
        IntrospectionResponse {
            active: true,
            iss: Some(subject().issuer),
            sub: Some("alice".to_owned()),
            aud: Some(subject().audience),
            client_id: Some("spa-proxy".to_owned()),
            scope: Some("openid orders:write".to_owned()),
            token_type: Some("Bearer".to_owned()),
            exp: Some(2000),
            ..IntrospectionResponse::default()
        }
    }

    fn check(answer: IntrospectionResponse) -> Result<ActiveSubject, TokenizerError> {
        let now = OffsetDateTime::from_unix_timestamp(1000).unwrap();
        accept(answer, &subject(), Some("orders:write"), now)
    }

    #[test]
    fn an_active_token_names_its_user_and_its_end() {
        let found = check(active()).unwrap();
        assert_eq!(found.user.sub.as_str(), "alice");
        assert_eq!(found.user.client_id.as_str(), "spa-proxy");
        assert_eq!(found.expires_at.unwrap().unix_timestamp(), 2000);
    }

    #[test]
    fn every_doubt_is_a_refusal() {
        type Change = fn(&mut IntrospectionResponse);
        let changes: [(&str, Change); 13] = [
            ("inactive", |a| a.active = false),
            ("wrong issuer", |a| {
                a.iss = Some("https://evil.example".to_owned())
            }),
            ("wrong audience", |a| a.aud = Some("payments".to_owned())),
            ("wrong audience", |a| {
                a.aud = Some(format!("{}/", subject().audience))
            }),
            ("wrong audience", |a| a.aud = None),
            ("not an access token", |a| {
                a.token_type = Some("refresh_token".to_owned())
            }),
            ("missing scope", |a| a.scope = None),
            ("missing scope", |a| {
                a.scope = Some("orders:writes".to_owned())
            }),
            ("expired", |a| a.exp = Some(1000)),
            ("unusable expiry", |a| a.exp = Some(u64::MAX)),
            ("no subject or client", |a| a.sub = None),
            ("no subject or client", |a| a.client_id = None),
            ("unusable subject or client", |a| {
                a.sub = Some("a\nb".to_owned())
            }),
        ];
        for (reason, change) in changes {
            let mut answer = active();
            change(&mut answer);
            match check(answer) {
                Err(TokenizerError::Subject(seen)) => assert_eq!(seen, reason),
                other => panic!("{reason}: {other:?}"),
            }
        }
    }
}
