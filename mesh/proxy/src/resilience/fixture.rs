//! Services as tests need them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use super::Tally;
use super::callee::Tallies;
use crate::snapshot::{
    Breaker, Endpoint, Outlier, Port, Protocol, Retries, Service, Snapshot, TrafficPolicy,
};

/// Series that nobody reads.
pub(crate) struct Untold;

impl Tallies for Untold {
    fn tally(&self, _: &str, _: u16) -> Tally {
        Tally::default()
    }

    fn picks(&self, _: &str, _: SocketAddr) -> Counter {
        Counter::default()
    }

    fn gone(&self, _: &str, _: SocketAddr) {}
}

/// A snapshot that knows `service` alone.
pub(crate) fn known(revision: u64, service: Service) -> (Snapshot, Arc<Service>) {
    let service = Arc::new(service);
    let mut snapshot = Snapshot::empty();
    snapshot.revision = revision;
    let name = Arc::clone(&service.name);
    snapshot.services.insert(name, Arc::clone(&service));
    (snapshot, service)
}

/// The defaults of `config.proto`.
pub(crate) fn traffic() -> TrafficPolicy {
    TrafficPolicy {
        timeout: Duration::from_secs(15),
        connect_timeout: Duration::from_secs(1),
        retries: Retries {
            attempts: 1,
            per_try_timeout: None,
            budget_permille: 200,
            budget_floor: 3,
            statuses: vec![502, 503, 504],
        },
        outlier: Outlier {
            consecutive_failures: 5,
            ejection: Duration::from_secs(5),
            max_ejected_percent: 50,
        },
        breaker: Breaker {
            max_connections: 1024,
            max_requests: 1024,
            max_pending: 1024,
            failure_permille: 500,
            min_requests: 20,
            open: Duration::from_secs(5),
        },
        hedge: None,
        routes: Vec::new(),
    }
}

/// An endpoint at `address`, in the zone `a`.
pub(crate) fn endpoint(address: SocketAddr, port: u16) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address,
        port,
        zone: "a".into(),
        weight: 1,
        instance: address.to_string().into(),
    })
}

/// A service with one port.
pub(crate) fn service(name: &str, port: Port, addresses: &[SocketAddr]) -> Service {
    let id = format!("spiffe://ringwall.local/{name}");
    Service {
        name: name.into(),
        identity: id.parse().expect("a SPIFFE id"),
        ports: vec![port],
        tier: String::new(),
        traffic: traffic(),
        direct: Vec::new(),
        endpoints: addresses
            .iter()
            .map(|address| endpoint(*address, port.number))
            .collect(),
    }
}

/// A port that speaks HTTP.
pub(crate) const fn http(number: u16) -> Port {
    Port {
        number,
        protocol: Protocol::Http,
    }
}
