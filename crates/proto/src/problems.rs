//! Slugs of RFC 9457 problem types. The `type` member is `urn:ringwall:problem:<slug>`.
//!
//! A slug names the layer that refused and nothing that helps an attacker to tell causes apart.

pub const BAD_REQUEST: &str = "bad-request";
pub const INVALID_BODY: &str = "invalid-body";
pub const BODY_TOO_LARGE: &str = "body-too-large";
pub const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported-media-type";
pub const NOT_FOUND: &str = "not-found";
pub const METHOD_NOT_ALLOWED: &str = "method-not-allowed";
pub const INTERNAL: &str = "internal";
pub const UNAVAILABLE: &str = "unavailable";
pub const TIMEOUT: &str = "timeout";
pub const BAD_GATEWAY: &str = "bad-gateway";
pub const TOO_MANY_REQUESTS: &str = "too-many-requests";

/// Of a proxy on the way: nobody has seen the request.
pub const UPSTREAM_UNREACHABLE: &str = "upstream-unreachable";
pub const NO_ENDPOINT: &str = "no-endpoint";
pub const NOT_READY: &str = "not-ready";
pub const OVERLOADED: &str = "overloaded";
pub const CIRCUIT_OPEN: &str = "circuit-open";
pub const DENIED: &str = "denied";
pub const EDGE_NOT_DECLARED: &str = "edge-not-declared";
pub const UNKNOWN_SERVICE: &str = "unknown-service";
/// Of a proxy on the way: what has become of the request is not known; so it is with every word that is not here.
pub const UPSTREAM_FAILED: &str = "upstream-failed";

pub const UNAUTHENTICATED: &str = "unauthenticated";
pub const FORBIDDEN: &str = "forbidden";
/// The mTLS peer may not use this route.
pub const PEER_REFUSED: &str = "peer-refused";
pub const USER_CONTEXT_MISSING: &str = "user-context-missing";
pub const USER_CONTEXT_INVALID: &str = "user-context-invalid";
pub const API_KEY_MISSING: &str = "api-key-missing";
pub const API_KEY_REFUSED: &str = "api-key-refused";
pub const ACCESS_TOKEN_MISSING: &str = "access-token-missing";
pub const ACCESS_TOKEN_REFUSED: &str = "access-token-refused";
pub const SOURCE_TOKEN_MISSING: &str = "source-token-missing";
pub const SOURCE_TOKEN_REFUSED: &str = "source-token-refused";
pub const CSRF_REFUSED: &str = "csrf-refused";

pub const OUT_OF_STOCK: &str = "out-of-stock";
pub const UNKNOWN_ITEM: &str = "unknown-item";
pub const RESERVATION_CONFLICT: &str = "reservation-conflict";
pub const PAYMENT_DECLINED: &str = "payment-declined";
pub const PAYMENT_CONFLICT: &str = "payment-conflict";
pub const PRICE_CHANGED: &str = "price-changed";
pub const ORDERS_UNAVAILABLE: &str = "orders-unavailable";
pub const INVENTORY_UNAVAILABLE: &str = "inventory-unavailable";
pub const PAYMENTS_UNAVAILABLE: &str = "payments-unavailable";
pub const NOTIFICATIONS_UNAVAILABLE: &str = "notifications-unavailable";
pub const IDEMPOTENCY_KEY_MISSING: &str = "idempotency-key-missing";
pub const IDEMPOTENCY_KEY_REUSED: &str = "idempotency-key-reused";
pub const CURSOR_CONFLICT: &str = "cursor-conflict";

/// A policy bundle is wrong; members `faults` and `failed_examples` say where.
pub const POLICY_REFUSED: &str = "policy-refused";
/// The version that a change replaces is not the active one any more; member `current` has that one.
pub const VERSION_CONFLICT: &str = "version-conflict";
pub const PRECONDITION_MISSING: &str = "precondition-missing";
/// Another replica leads; member `leader` names it.
pub const NOT_LEADER: &str = "not-leader";
