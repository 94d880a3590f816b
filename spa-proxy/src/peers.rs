//! Which workload may call which path of the mesh listener.
//!
//! Owns: the table below, checked before routing. The listener itself admits only declared callers;
//! this narrows them down to what each is for. Must not: serve anything.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::HeaderMap;
use ringwall_identity::SpiffeId;
use ringwall_proto::paths;
use ringwall_service::Peer;

use crate::error::Error;

const GATEWAY: &str = "gateway";
const AUTHZ_SERVER: &str = "authz-server";

/// What the gateway adds to each request that it forwards, and what browsers add.
const SIGNS_OF_A_BROWSER: [&str; 6] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "cookie",
    "origin",
    "sec-fetch-site",
];

/// Layer: refuses a caller that the path is not meant for.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let peer = request
        .extensions()
        .get::<Peer>()
        .map(|Peer(id)| id.clone());
    match peer {
        Some(peer) if may_call(&peer, request.uri().path(), request.headers()) => {
            next.run(request).await
        }
        _ => Error::PeerRefused.into_response(),
    }
}

fn may_call(peer: &SpiffeId, path: &str, headers: &HeaderMap) -> bool {
    match path {
        // Every component exports its spans here, the gateway too; but what the gateway merely
        // forwards is the internet speaking.
        paths::OTLP_TRACES => peer.path() != GATEWAY || !is_forwarded(headers),
        paths::BACKCHANNEL_LOGOUT => peer.path() == AUTHZ_SERVER,
        _ => peer.path() == GATEWAY,
    }
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    SIGNS_OF_A_BROWSER
        .iter()
        .any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn may(workload: &str, path: &str, header: Option<&'static str>) -> bool {
        let peer = SpiffeId::parse(&format!("spiffe://ringwall.local/{workload}")).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(name) = header {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        may_call(&peer, path, &headers)
    }

    #[test]
    fn r18_only_the_gateway_serves_browsers() {
        for path in [
            "/",
            "/api/session",
            "/auth/login",
            "/auth/callback",
            "/assets/app.js",
        ] {
            assert!(may("gateway", path, None));
            assert!(!may("orders", path, None), "{path}");
            assert!(!may("authz-server", path, None), "{path}");
        }
    }

    #[test]
    fn r18_only_the_authorization_server_ends_sessions_from_behind() {
        assert!(may("authz-server", "/auth/backchannel-logout", None));
        assert!(!may("gateway", "/auth/backchannel-logout", None));
        assert!(!may("orders", "/auth/backchannel-logout", None));
    }

    #[test]
    fn spans_come_from_components_and_never_through_the_gateway() {
        for workload in [
            "gateway",
            "orders",
            "payments",
            "spa-proxy",
            "notifications",
        ] {
            assert!(may(workload, "/v1/traces", None), "{workload}");
        }
        for sign in SIGNS_OF_A_BROWSER {
            assert!(!may("gateway", "/v1/traces", Some(sign)), "{sign}");
        }
    }
}
