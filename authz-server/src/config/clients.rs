//! Declaration of a client: its metadata in the words of RFC 7591 §2 where that has a word.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::ClientId;
use crate::scopes::Scopes;

/// One registered client.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientDeclaration {
    pub(crate) id: ClientId,
    /// Name on the consent page.
    pub(crate) name: String,
    /// Methods by which the client may authenticate; `[none]` is a public client.
    pub(crate) authentication: Vec<AuthenticationMethod>,
    /// SPIFFE id of the workload, for `tls_client_auth` (RFC 8705 §2.1.2).
    #[serde(default)]
    pub(crate) tls_client_auth_san_uri: Option<String>,
    /// Name of the client secret in the secret provider; default `client-<id>-secret`.
    #[serde(default)]
    pub(crate) secret: Option<String>,
    /// Public keys (JWK Set) for `private_key_jwt`.
    #[serde(default)]
    pub(crate) jwks: Option<serde_json::Value>,
    /// Demo clients only: name of a secret that holds the client's own PKCS#8 key, of which the
    /// public half is registered.
    #[serde(default)]
    pub(crate) key_secret: Option<String>,
    #[serde(default)]
    pub(crate) grants: Vec<GrantName>,
    #[serde(default)]
    pub(crate) redirect_uris: Vec<String>,
    /// A native application: the port of a loopback redirect may vary (RFC 8252 §7.3).
    #[serde(default)]
    pub(crate) native: bool,
    #[serde(default)]
    pub(crate) post_logout_redirect_uris: Vec<String>,
    #[serde(default)]
    pub(crate) backchannel_logout: Option<BackchannelLogout>,
    #[serde(default)]
    pub(crate) scopes: Scopes,
    /// Audiences that the client may ask for; the first is the default.
    #[serde(default)]
    pub(crate) audiences: Vec<String>,
    #[serde(default)]
    pub(crate) access_tokens: TokenFormat,
    #[serde(default)]
    pub(crate) consent: ConsentPolicy,
    /// Requests must be pushed first (RFC 9126 §6).
    #[serde(default)]
    pub(crate) require_pushed_requests: bool,
    #[serde(default)]
    pub(crate) introspect: Introspect,
    #[serde(default)]
    pub(crate) exchange: Option<Exchange>,
}

impl ClientDeclaration {
    pub(crate) fn secret_name(&self) -> String {
        self.secret
            .clone()
            .unwrap_or_else(|| format!("client-{}-secret", self.id))
    }

    pub(crate) fn authenticates_by(&self, method: AuthenticationMethod) -> bool {
        self.authentication.contains(&method)
    }

    pub(crate) fn has_secret(&self) -> bool {
        self.authenticates_by(AuthenticationMethod::ClientSecretBasic)
            || self.authenticates_by(AuthenticationMethod::ClientSecretPost)
    }

    pub(crate) fn is_public(&self) -> bool {
        self.authenticates_by(AuthenticationMethod::None)
    }

    pub(crate) fn may_use(&self, grant: GrantName) -> bool {
        self.grants.contains(&grant)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuthenticationMethod {
    None,
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    TlsClientAuth,
}

impl AuthenticationMethod {
    pub(crate) const ALL: [Self; 5] = [
        Self::ClientSecretBasic,
        Self::ClientSecretPost,
        Self::PrivateKeyJwt,
        Self::TlsClientAuth,
        Self::None,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::TlsClientAuth => "tls_client_auth",
        }
    }
}

/// Grants that a client can be declared for. The legacy two can be written down, so that the
/// refusal names them, but are not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum GrantName {
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    #[serde(rename = "refresh_token")]
    RefreshToken,
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
    #[serde(rename = "password")]
    Password,
    #[serde(rename = "implicit")]
    Implicit,
}

impl GrantName {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
            Self::Password => "password",
            Self::Implicit => "implicit",
        }
    }

    pub(crate) const fn is_legacy(self) -> bool {
        matches!(self, Self::Password | Self::Implicit)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TokenFormat {
    /// RFC 9068: readable by the resource server itself.
    #[default]
    Jwt,
    /// Opaque: meaningful only through introspection, and revoked at once.
    Reference,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConsentPolicy {
    #[default]
    Ask,
    /// First-party clients.
    Skip,
}

/// Whose tokens a client may introspect (RFC 7662 §4: a token's data is not for everyone).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Introspect {
    #[default]
    Nothing,
    Any,
    /// Tokens for these audiences.
    Audiences(Vec<String>),
}

impl Introspect {
    pub(crate) fn allows(&self, audience: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Any => true,
            Self::Audiences(list) => list.iter().any(|a| a == audience),
        }
    }
}

/// What a client may exchange (RFC 8693).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    /// Audiences of the subject tokens that the client legitimately receives.
    pub(crate) subject_audiences: Vec<String>,
    /// Audiences of the tokens that it may get.
    pub(crate) audiences: Vec<String>,
}

/// Where logout tokens go: a declared upstream of this service, so that nothing else is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackchannelLogout {
    pub(crate) upstream: String,
    pub(crate) path: String,
}
