//! Metadata (OpenID Connect Discovery 1.0 §3, RFC 8414 §2) and the key set (RFC 7517 §5).
//!
//! Both documents say only what is served; a test compares them with the registries.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use serde_json::{Value, json};

use crate::config::clients::AuthenticationMethod;
use crate::server::Server;
use crate::sessions::ACR_PASSWORD;

/// Resource servers may keep documents this long; a new signing key is announced earlier than that
/// before it signs.
const CACHEABLE: &str = "public, max-age=300";

/// `GET /.well-known/openid-configuration` and `/.well-known/oauth-authorization-server`.
pub(crate) async fn metadata(State(server): State<Arc<Server>>) -> Response {
    ([(CACHE_CONTROL, CACHEABLE)], Json(document(&server))).into_response()
}

/// `GET /jwks`.
pub(crate) async fn jwks(State(server): State<Arc<Server>>) -> Response {
    ([(CACHE_CONTROL, CACHEABLE)], Json(server.keys.jwks())).into_response()
}

fn document(server: &Server) -> Value {
    let methods: Vec<&str> = AuthenticationMethod::ALL
        .iter()
        .map(|m| m.as_str())
        .collect();
    let confidential: Vec<&str> = methods.iter().copied().filter(|m| *m != "none").collect();
    let at = |path: &str| server.settings.endpoint(path);
    json!({
        "issuer": server.settings.issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "jwks_uri": at("/jwks"),
        "pushed_authorization_request_endpoint": at("/par"),
        "introspection_endpoint": at("/introspect"),
        "revocation_endpoint": at("/revoke"),
        "end_session_endpoint": at("/logout"),
        "scopes_supported": server.settings.scopes.iter().collect::<Vec<_>>(),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": server.grants.names(),
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
        "introspection_endpoint_auth_methods_supported": confidential,
        "revocation_endpoint_auth_methods_supported": methods,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "acr_values_supported": [ACR_PASSWORD],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "claims_supported": [
            "sub", "name", "preferred_username", "email", "roles",
            "auth_time", "acr", "nonce", "sid", "at_hash",
        ],
        "authorization_response_iss_parameter_supported": true,
        "require_pushed_authorization_requests": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "claims_parameter_supported": false,
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
    })
}
