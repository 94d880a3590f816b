//! The claims of the platform's tokens, one type for each `typ`.
//!
//! Owns: names and JSON types of claims, and the checks that belong to one kind of token alone.
//! Must not: verify signatures. These types are believed only as results of [`crate::verify`].
//!
//! Unknown claims are ignored (RFC 7519 §4); known ones have one JSON type and stand once.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ringwall_identity::SpiffeId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Expectation, TokenError, VerifyingKeys, verify};

/// Access token in JWT form (RFC 9068). Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    /// The authorization server.
    pub iss: String,
    /// The user, or the client itself with client_credentials.
    pub sub: String,
    /// The one resource server.
    pub aud: String,
    /// End.
    pub exp: u64,
    /// Issue.
    pub iat: u64,
    /// Unique id, for revocation and audit.
    pub jti: String,
    /// The client that asked for the token.
    pub client_id: String,
    /// Scopes, separated by spaces (RFC 6749 §3.3).
    #[serde(default)]
    pub scope: String,
    /// Roles of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// How the user was authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// When the user was authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
    /// Who acts for the subject after a token exchange (RFC 8693 §4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
    /// The sign-in session, for back-channel logout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

/// One link of a delegation chain, the newest outermost (RFC 8693 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The workload or client that acts.
    pub sub: String,
    /// Who acted before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor>>,
}

/// ID token (OpenID Connect Core §2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdToken {
    /// The authorization server.
    pub iss: String,
    /// The user.
    pub sub: String,
    /// The one client.
    pub aud: String,
    /// End.
    pub exp: u64,
    /// Issue.
    pub iat: u64,
    /// What the client sent with its request, to be compared by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// When the user was authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
    /// How the user was authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// Left half of the hash of the access token (§3.1.3.6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_hash: Option<String>,
    /// The sign-in session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Sign-in name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<String>,
    /// Mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether the address was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
    /// Roles of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// Logout token (OpenID Connect Back-Channel Logout §2.4). Call [`LogoutToken::check`] after
/// verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoutToken {
    /// The authorization server.
    pub iss: String,
    /// The one client.
    pub aud: String,
    /// End.
    pub exp: u64,
    /// Issue.
    pub iat: u64,
    /// Unique id; the client refuses a second one.
    pub jti: String,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Holds the member [`LogoutToken::EVENT`].
    pub events: BTreeMap<String, Value>,
    /// Must be absent, so that an ID token never passes for a logout token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Value>,
}

/// The gateway's statement about the user, for exactly one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserContext {
    /// The gateway's workload identity.
    pub iss: SpiffeId,
    /// The upstream's workload identity.
    pub aud: SpiffeId,
    /// The user.
    pub sub: String,
    /// The client that the user uses.
    pub client_id: String,
    /// Roles of the user.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Scopes, separated by spaces.
    #[serde(default)]
    pub scope: String,
    /// The W3C trace id of the request, for audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Issue.
    pub iat: u64,
    /// End, at most 60 s after issue.
    pub exp: u64,
    /// Unique id.
    pub jti: String,
}

/// Client authentication by a signed assertion (RFC 7523 §3). Call [`ClientAssertion::check`] after
/// verification, and accept each `jti` once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAssertion {
    /// The client.
    pub iss: String,
    /// The client again.
    pub sub: String,
    /// The authorization server.
    pub aud: String,
    /// End.
    pub exp: u64,
    /// Unique id.
    pub jti: String,
    /// Issue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
}

impl AccessToken {
    /// RFC 9068 §2.1.
    pub const TYP: &'static str = "at+jwt";

    /// Whether `scope` is among the token's scopes, as a whole word.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        has_word(&self.scope, scope)
    }
}

impl IdToken {
    /// What OpenID providers write.
    pub const TYP: &'static str = "JWT";
}

impl LogoutToken {
    /// OpenID Connect Back-Channel Logout §2.4.
    pub const TYP: &'static str = "logout+jwt";
    /// The member of `events` that makes a token a logout token.
    pub const EVENT: &'static str = "http://schemas.openid.net/event/backchannel-logout";

    /// The checks of §2.6, steps 4 to 6, that are not those of every token.
    ///
    /// # Errors
    /// [`TokenError::Claims`] names the rule that is broken.
    pub fn check(&self) -> Result<(), TokenError> {
        let refuse = |why: &str| Err(TokenError::Claims(why.to_owned()));
        if self.sub.is_none() && self.sid.is_none() {
            return refuse("a logout token needs sub or sid");
        }
        if !self.events.get(Self::EVENT).is_some_and(Value::is_object) {
            return refuse("a logout token needs the back-channel logout event");
        }
        if self.nonce.is_some() {
            return refuse("a logout token must not have a nonce");
        }
        Ok(())
    }

    /// The value of `events`.
    #[must_use]
    pub fn event() -> BTreeMap<String, Value> {
        BTreeMap::from([(
            Self::EVENT.to_owned(),
            Value::Object(serde_json::Map::new()),
        )])
    }
}

impl UserContext {
    /// Ours alone, so that no other token passes for it.
    pub const TYP: &'static str = "user-context+jwt";
    /// Longest life: one request.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(60);

    /// Whether `scope` is among the scopes, as a whole word.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        has_word(&self.scope, scope)
    }

    /// Whether the user has `role`.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }
}

/// Verifies a user-context token that `issuer` (the gateway) made for `audience` (us): everything
/// that [`verify`] checks, and the bound of its lifetime.
///
/// # Errors
/// As [`verify`], and [`TokenError::Claims`] when it lives longer than [`UserContext::MAX_LIFETIME`].
pub fn verify_user_context(
    token: &str,
    keys: &VerifyingKeys,
    issuer: &SpiffeId,
    audience: &SpiffeId,
    now: SystemTime,
) -> Result<UserContext, TokenError> {
    let expectation = Expectation {
        issuer: issuer.to_string(),
        audience: audience.to_string(),
        typ: UserContext::TYP,
        // Gateway and upstream are in one mesh, whose certificates allow a minute of difference.
        leeway: Duration::from_secs(5),
    };
    let context: UserContext = verify(token, keys, &expectation, now)?;
    match context.exp.checked_sub(context.iat) {
        Some(lifetime) if lifetime <= UserContext::MAX_LIFETIME.as_secs() => Ok(context),
        _ => Err(TokenError::Claims(
            "a user context lives at most 60 s".to_owned(),
        )),
    }
}

impl ClientAssertion {
    /// What clients' libraries write when they are not told otherwise.
    pub const TYP: &'static str = "JWT";
    /// Longest life, which is also how long a `jti` must be remembered.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(300);

    /// RFC 7523 §3: issuer and subject are the client; and the assertion must be short-lived.
    ///
    /// # Errors
    /// [`TokenError::Claims`] names the rule that is broken.
    pub fn check(&self, client_id: &str, now: SystemTime) -> Result<(), TokenError> {
        let refuse = |why: &str| Err(TokenError::Claims(why.to_owned()));
        if self.iss != client_id || self.sub != client_id {
            return refuse("iss and sub of an assertion must both be the client");
        }
        if self.jti.is_empty() || self.jti.len() > 256 {
            return refuse("jti of an assertion must have 1 to 256 bytes");
        }
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        if self.exp > now.saturating_add(Self::MAX_LIFETIME.as_secs()) {
            return refuse("an assertion ends at most 300 s from now");
        }
        Ok(())
    }
}

/// Whether `word` stands in a list that is separated by spaces (RFC 6749 §3.3).
fn has_word(list: &str, word: &str) -> bool {
    !word.is_empty() && list.split(' ').any(|one| one == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, SigningKey};
    use serde_json::json;
    use std::time::UNIX_EPOCH;

    #[test]
    fn scopes_are_whole_words() {
        assert!(has_word("orders:read openid", "openid"));
        for absent in ["", "order", "orders", "orders:read openid", " "] {
            assert!(!has_word("orders:read openid", absent), "{absent:?}");
        }
    }

    #[test]
    fn optional_claims_are_left_out_and_unknown_ones_ignored() {
        let claims = json!({
            "iss": "i", "sub": "s", "aud": "a", "exp": 2, "iat": 1, "jti": "j", "client_id": "c",
            "act": {"sub": "orders", "act": {"sub": "gateway"}}, "unknown": [1],
        });
        let token: AccessToken = serde_json::from_value(claims).unwrap();
        let act = token.act.clone().unwrap();
        assert_eq!(
            (act.sub.as_str(), act.act.unwrap().sub.as_str()),
            ("orders", "gateway")
        );
        let text = serde_json::to_string(&token).unwrap();
        assert!(!text.contains("roles") && !text.contains("unknown") && !text.contains("null"));
    }

    #[test]
    fn r12_wrong_json_types_are_refused_in_every_claim() {
        let good = json!({
            "iss": "i", "sub": "s", "aud": "a", "exp": 2, "iat": 1, "jti": "j", "client_id": "c",
            "scope": "x", "roles": ["r"], "acr": "1", "auth_time": 1, "sid": "s", "act": {"sub": "o"},
        });
        assert!(serde_json::from_value::<AccessToken>(good.clone()).is_ok());
        for claim in good.as_object().unwrap().keys() {
            for wrong in [json!({"a": 1}), json!([[1]]), json!(true), json!(1.5)] {
                let mut bad = good.clone();
                bad[claim] = wrong;
                assert!(
                    serde_json::from_value::<AccessToken>(bad.clone()).is_err(),
                    "{bad}"
                );
            }
        }
    }

    #[test]
    fn logout_tokens_keep_their_rules() {
        let good = LogoutToken {
            iss: "i".into(),
            aud: "a".into(),
            exp: 2,
            iat: 1,
            jti: "j".into(),
            sub: None,
            sid: Some("s".into()),
            events: LogoutToken::event(),
            nonce: None,
        };
        assert_eq!(good.check(), Ok(()));
        assert!(
            LogoutToken {
                sid: None,
                ..good.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            LogoutToken {
                events: BTreeMap::new(),
                ..good.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            LogoutToken {
                nonce: Some(json!("n")),
                ..good.clone()
            }
            .check()
            .is_err()
        );
        let null = BTreeMap::from([(LogoutToken::EVENT.to_owned(), Value::Null)]);
        assert!(
            LogoutToken {
                events: null,
                ..good
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn assertions_are_the_clients_own_and_short() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let good = ClientAssertion {
            iss: "demo-jwt".into(),
            sub: "demo-jwt".into(),
            aud: "as".into(),
            exp: 1300,
            jti: "j".into(),
            iat: None,
            nbf: None,
        };
        assert_eq!(good.check("demo-jwt", now), Ok(()));
        assert!(good.check("demo-cli", now).is_err());
        assert!(
            ClientAssertion {
                iss: "x".into(),
                ..good.clone()
            }
            .check("demo-jwt", now)
            .is_err()
        );
        assert!(
            ClientAssertion {
                sub: "x".into(),
                ..good.clone()
            }
            .check("demo-jwt", now)
            .is_err()
        );
        assert!(
            ClientAssertion {
                exp: 1301,
                ..good.clone()
            }
            .check("demo-jwt", now)
            .is_err()
        );
        assert!(
            ClientAssertion {
                jti: String::new(),
                ..good
            }
            .check("demo-jwt", now)
            .is_err()
        );
    }

    #[test]
    fn r14_user_context_is_for_one_upstream_and_one_minute() {
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap();
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let keys = crate::KeyRing::new(key.clone()).verifying_keys().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let context = UserContext {
            iss: id("gateway"),
            aud: id("orders"),
            sub: "alice".into(),
            client_id: "spa-proxy".into(),
            roles: vec!["customer".into()],
            scope: "orders:read".into(),
            trace_id: None,
            iat: 1000,
            exp: 1060,
            jti: "j".into(),
        };
        let check = |typ: &str, claims: &UserContext, issuer: &str, audience: &str| {
            let token = key.sign(typ, claims).unwrap();
            verify_user_context(&token, &keys, &id(issuer), &id(audience), now)
        };
        let seen = check(UserContext::TYP, &context, "gateway", "orders").unwrap();
        assert!(seen.has_role("customer") && seen.has_scope("orders:read"));
        assert_eq!(
            check(UserContext::TYP, &context, "gateway", "payments"),
            Err(TokenError::Audience)
        );
        assert_eq!(
            check(UserContext::TYP, &context, "orders", "orders"),
            Err(TokenError::Issuer)
        );
        assert!(check(AccessToken::TYP, &context, "gateway", "orders").is_err());
        for (iat, exp) in [(1000, 1061), (1000, 999)] {
            let long = UserContext {
                iat,
                exp,
                ..context.clone()
            };
            assert!(
                check(UserContext::TYP, &long, "gateway", "orders").is_err(),
                "{exp}"
            );
        }
    }
}
