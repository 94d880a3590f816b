//! What plugins may ask about a stream, by Envoy's names.
//!
//! Owns: the facts of a connection and of a request, of both directions. A peer's certificate was verified before anybody
//! asks. Must not: decide whether a plugin may ask; its capabilities do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ringwall_identity::leaf;
use ringwall_plugin_host::{
    ConnectionInfo, Direction, PeerCertificate, StreamInfo, UpstreamInfo, Value,
};
use ringwall_policy::mesh::UserFacts;

use crate::inbound::caller::Caller;
use crate::serve::Session;
use crate::snapshot::{Port, Service};

/// Between proxies there is this version alone (`ringwall_tls`).
const TLS: &str = "TLSv1.3";

/// A connection of a peer: mutual TLS, so that both ends are known.
pub(crate) fn of_a_peer(caller: &Caller) -> ConnectionInfo {
    let shared = &caller.session.worker.shared;
    let peer = &caller.peer;
    let own = shared.identity.leaf();
    ConnectionInfo {
        tls_version: Some(TLS.into()),
        peer: Some(PeerCertificate {
            uri_san: Some(peer.id.as_str().into()),
            dns_san: None,
            subject: peer.subject().map(Into::into),
            sha256: Some(Arc::from(&*peer.fingerprint)),
        }),
        local_uri_san: Some(shared.id.as_str().into()),
        local_subject: own.and_then(|own| leaf::subject(&own)).map(Into::into),
        ..of_a_socket(&caller.session)
    }
}

/// A connection of the application: plaintext on loopback.
pub(crate) fn of_a_socket(session: &Session) -> ConnectionInfo {
    ConnectionInfo {
        id: session.id,
        source: Some(session.peer),
        destination: session.local,
        ..ConnectionInfo::default()
    }
}

/// A stream to the application's `port`.
pub(crate) fn inbound(caller: &Caller, port: u16) -> StreamInfo {
    let workload = &caller.session.worker.shared.workload;
    let mut facts = StreamInfo::new(caller.facts(), SystemTime::now());
    facts.route_name = format!("{workload}:{port}").into();
    facts.cluster_name = Arc::clone(workload);
    facts.direction = Direction::Inbound;
    facts
}

/// A stream of the application to `port` of `service`, which is the only one that will be believed there.
pub(crate) fn outbound(
    connection: Arc<ConnectionInfo>,
    service: &Service,
    port: Port,
) -> StreamInfo {
    let mut facts = StreamInfo::new(connection, SystemTime::now());
    facts.route_name = format!("{}:{}", service.name, port.number).into();
    facts.cluster_name = Arc::clone(&service.name);
    facts.direction = Direction::Outbound;
    if service.direct.is_empty() {
        facts.upstream = UpstreamInfo {
            address: None::<SocketAddr>,
            uri_san: Some(service.identity.as_str().into()),
            tls_version: Some(TLS.into()),
        };
    }
    facts
}

/// `metadata`: the claims of a verified user context under `filter_metadata.ringwall.user`.
pub(crate) fn user(user: &UserFacts) -> Value {
    let user = Value::map([
        ("sub", Value::text(&user.sub)),
        ("client_id", Value::text(&user.client)),
        (
            "scope",
            Value::text(
                user.scopes
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        ),
    ]);
    let ringwall = Value::map([("user", user)]);
    let filters = Value::map([("ringwall", ringwall)]);
    Value::map([("filter_metadata", filters)])
}
