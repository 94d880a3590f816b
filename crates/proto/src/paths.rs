//! Paths of the mesh contracts, so that a caller and its callee cannot drift apart.

/// Keys of the gateway (user context) and of orders (event signatures); RFC 8615 well-known location.
pub const JWKS: &str = "/.well-known/jwks.json";
/// OpenID Connect Discovery 1.0 §4.
pub const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
/// RFC 8414 §3.
pub const OAUTH_METADATA: &str = "/.well-known/oauth-authorization-server";

/// authz-server: keys of its tokens.
pub const AUTHZ_JWKS: &str = "/jwks";
pub const AUTHZ_AUTHORIZE: &str = "/authorize";
pub const AUTHZ_PAR: &str = "/par";
pub const AUTHZ_TOKEN: &str = "/token";
pub const AUTHZ_INTROSPECT: &str = "/introspect";
pub const AUTHZ_REVOKE: &str = "/revoke";
pub const AUTHZ_USERINFO: &str = "/userinfo";
pub const AUTHZ_LOGIN: &str = "/login";
pub const AUTHZ_CONSENT: &str = "/consent";
pub const AUTHZ_LOGOUT: &str = "/logout";

pub const SOURCE_TOKENS: &str = "/v1/source-tokens";
pub const SOURCE_TOKENS_REDEEM: &str = "/v1/source-tokens/redeem";
pub const SOURCE_TOKENS_REVOKE: &str = "/v1/source-tokens/revoke";

pub const INVENTORY_ITEMS: &str = "/v1/items";
pub const INVENTORY_RESERVATIONS: &str = "/v1/reservations";

pub const PAYMENTS: &str = "/v1/payments";

pub const CATALOGUE: &str = "/v1/catalogue";
pub const ORDERS: &str = "/v1/orders";
pub const TOPICS: &str = "/v1/topics";

pub const NOTIFICATIONS: &str = "/v1/notifications";
pub const NOTIFICATIONS_STREAM: &str = "/v1/notifications/stream";

/// OTLP/HTTP trace export.
pub const OTLP_TRACES: &str = "/v1/traces";

pub const BACKCHANNEL_LOGOUT: &str = "/auth/backchannel-logout";
