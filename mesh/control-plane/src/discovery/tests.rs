//! The parts together: `simulation.rs` (state machines under any interleaving), `streams.rs` (the service on a paused
//! clock).

mod simulation;
mod streams;

use ringwall_mesh_api::v1;
use ringwall_policy::mesh::Edge;

use super::world::RegisteredService;

pub(super) fn service(name: &str) -> RegisteredService {
    RegisteredService {
        service: v1::Service {
            name: name.into(),
            spiffe_id: format!("spiffe://ringwall.local/{name}"),
            ports: vec![v1::Port {
                number: 80,
                protocol: v1::Protocol::Http.into(),
            }],
            ..v1::Service::default()
        },
        nodes: vec!["n1".into()],
    }
}

pub(super) fn edge(caller: &str, callee: &str) -> Edge {
    Edge {
        caller: caller.into(),
        callee: callee.into(),
        ports: vec![],
    }
}

pub(super) fn policy(version: u64) -> v1::SignedPolicy {
    v1::SignedPolicy {
        version,
        jws: format!("policy {version}"),
    }
}
