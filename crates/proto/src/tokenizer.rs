//! Contract of the tokenizer: single-use service source tokens, in the form of RFC 8693.

use std::{borrow::Cow, fmt};

use ringwall_identity::SpiffeId;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    error::ProtoError,
    ids::{ClientId, Name, Subject},
    wire_token::WireToken,
};

/// Grant type of RFC 8693 §2.1.
pub use crate::oauth::{ACCESS_TOKEN_TYPE, GRANT_TOKEN_EXCHANGE};

/// Token type identifier of a source token.
pub const SOURCE_TOKEN_TYPE: &str = "urn:ringwall:params:oauth:token-type:source-token";
/// Prefix of the token text, so that a leaked one is recognised by scanners.
pub const SOURCE_TOKEN_PREFIX: &str = "rws_";
/// RFC 8693 §2.2.1: `N_A`, since a source token is not an access token.
pub const TOKEN_TYPE_NA: &str = "N_A";
/// Longest life of a source token, in seconds.
pub const MAX_LIFETIME_SECONDS: u32 = 30;

/// base64url (no padding) of SHA-256: exactly 43 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BodyDigest(String);

impl BodyDigest {
    pub fn parse(text: impl Into<String>) -> Result<Self, ProtoError> {
        let text = text.into();
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if text.len() == 43 && text.bytes().all(alphabet) {
            Ok(Self(text))
        } else {
            Err(ProtoError::Text {
                what: "body_digest",
                expected: "43 characters of base64url (SHA-256)",
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BodyDigest {
    type Error = ProtoError;
    fn try_from(text: String) -> Result<Self, ProtoError> {
        Self::parse(text)
    }
}

impl From<BodyDigest> for String {
    fn from(digest: BodyDigest) -> Self {
        digest.0
    }
}

impl fmt::Display for BodyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for BodyDigest {
    fn schema_name() -> Cow<'static, str> {
        "BodyDigest".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{43}$" })
    }
}

/// Method that a source token is good for (`htm`, as RFC 9449 §4.2 names it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TokenMethod {
    Get,
    Post,
    Put,
    Delete,
}

impl TokenMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// Path that a source token is good for (`htu`): absolute, at most 256 bytes, no query, no dots segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenPath(String);

impl TokenPath {
    pub fn parse(text: impl Into<String>) -> Result<Self, ProtoError> {
        let text = text.into();
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
        let dots = text
            .split('/')
            .any(|segment| segment == "." || segment == "..");
        if text.starts_with('/') && text.len() <= 256 && text.bytes().all(alphabet) && !dots {
            Ok(Self(text))
        } else {
            Err(ProtoError::Text {
                what: "htu",
                expected: "an absolute path of at most 256 unreserved characters",
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenPath {
    type Error = ProtoError;
    fn try_from(text: String) -> Result<Self, ProtoError> {
        Self::parse(text)
    }
}

impl From<TokenPath> for String {
    fn from(path: TokenPath) -> Self {
        path.0
    }
}

impl JsonSchema for TokenPath {
    fn schema_name() -> Cow<'static, str> {
        "TokenPath".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^/[A-Za-z0-9/._~-]{0,255}$" })
    }
}

/// Form of `POST /v1/source-tokens` (RFC 8693 §2.1). The caller is the mTLS peer, never a field.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceTokenRequest {
    pub grant_type: String,
    pub subject_token: WireToken,
    pub subject_token_type: String,
    pub requested_token_type: String,
    pub audience: Name,
    pub htm: TokenMethod,
    pub htu: TokenPath,
    pub body_digest: BodyDigest,
}

impl SourceTokenRequest {
    /// A request with the three fixed type names filled in.
    pub fn new(
        subject_token: WireToken,
        audience: Name,
        htm: TokenMethod,
        htu: TokenPath,
        body_digest: BodyDigest,
    ) -> Self {
        Self {
            grant_type: GRANT_TOKEN_EXCHANGE.into(),
            subject_token,
            subject_token_type: ACCESS_TOKEN_TYPE.into(),
            requested_token_type: SOURCE_TOKEN_TYPE.into(),
            audience,
            htm,
            htu,
            body_digest,
        }
    }

    /// The three type names must be the only ones that this service knows.
    pub fn validate(&self) -> Result<(), ProtoError> {
        let checks = [
            (&self.grant_type, GRANT_TOKEN_EXCHANGE, "grant_type"),
            (
                &self.subject_token_type,
                ACCESS_TOKEN_TYPE,
                "subject_token_type",
            ),
            (
                &self.requested_token_type,
                SOURCE_TOKEN_TYPE,
                "requested_token_type",
            ),
        ];
        for (seen, expected, what) in checks {
            if seen != expected {
                return Err(ProtoError::Text { what, expected });
            }
        }
        Ok(())
    }

    /// Pairs for `ringwall_http_io::client::Call::form`.
    pub fn form(&self) -> [(&'static str, &str); 8] {
        [
            ("grant_type", &self.grant_type),
            ("subject_token", self.subject_token.expose()),
            ("subject_token_type", &self.subject_token_type),
            ("requested_token_type", &self.requested_token_type),
            ("audience", self.audience.as_str()),
            ("htm", self.htm.as_str()),
            ("htu", self.htu.as_str()),
            ("body_digest", self.body_digest.as_str()),
        ]
    }
}

/// Answer `200` of `POST /v1/source-tokens` (RFC 8693 §2.2.1).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SourceTokenResponse {
    pub access_token: WireToken,
    pub issued_token_type: String,
    pub token_type: String,
    /// Seconds, at most 30.
    pub expires_in: u32,
}

/// Body of `POST /v1/source-tokens/redeem`. The audience is the mTLS peer, never a field.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedeemRequest {
    pub token: WireToken,
    /// Who presented the token to the redeeming service.
    #[schemars(with = "String")]
    pub caller: SpiffeId,
    pub htm: TokenMethod,
    pub htu: TokenPath,
    pub body_digest: BodyDigest,
}

/// Answer `200` of a redemption: on whose behalf the caller acts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Redeemed {
    pub sub: Subject,
    pub client_id: ClientId,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub issued_at: OffsetDateTime,
}

/// Body of `POST /v1/source-tokens/revoke`; the answer is `200` whether or not the token was known (RFC 7009 §2.2).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    pub token: WireToken,
}

/// State of a source token in the list of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceTokenState {
    Active,
    Used,
    Expired,
    Revoked,
}

/// One row of `GET /v1/source-tokens`: never the token's text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SourceTokenSummary {
    pub id: String,
    pub audience: Name,
    pub htm: TokenMethod,
    pub htu: TokenPath,
    pub state: SourceTokenState,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub issued_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub expires_at: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SourceTokenRequest {
        SourceTokenRequest::new(
            WireToken::new("at").unwrap(),
            Name::parse("payments").unwrap(),
            TokenMethod::Post,
            TokenPath::parse("/v1/payments").unwrap(),
            BodyDigest::parse("A".repeat(43)).unwrap(),
        )
    }

    #[test]
    fn a_request_round_trips_through_its_form() {
        let request = request();
        let pairs: serde_json::Map<String, serde_json::Value> = request
            .form()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let back: SourceTokenRequest = serde_json::from_value(pairs.into()).unwrap();
        assert_eq!(back.form(), request.form());
        assert!(back.validate().is_ok());
    }

    #[test]
    fn other_type_names_are_refused() {
        let mut wrong = request();
        wrong.subject_token_type = "urn:ietf:params:oauth:token-type:refresh_token".into();
        assert!(wrong.validate().is_err());
    }

    #[test]
    fn paths_with_tricks_are_refused() {
        for bad in [
            "v1", "/v1/../x", "/v1/./x", "/a?b", "/a#b", "/%2e%2e", "/a b", "",
        ] {
            assert!(TokenPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_have_one_length_and_alphabet() {
        for bad in [
            "A".repeat(42),
            "A".repeat(44),
            "A".repeat(42) + "=",
            "A".repeat(42) + "+",
        ] {
            assert!(BodyDigest::parse(bad).is_err());
        }
    }
}
