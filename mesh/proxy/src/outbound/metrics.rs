//! The series of resilience: per destination what breaker, endpoints, retries and limits did.
//!
//! Owns: names and labels. Requests themselves are counted by edge in `crate::metrics`. Labels are names of services and
//! addresses of endpoints that the control plane has told; they go with their endpoint.

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_service::Metrics;

use crate::resilience::Tally;
use crate::resilience::callee::Tallies;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Destination {
    destination: Arc<str>,
    port: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    destination: Arc<str>,
    endpoint: String,
}

/// Families by destination.
#[derive(Debug, Clone, Default)]
pub(crate) struct OutboundMetrics {
    retries: Family<Destination, Counter>,
    hedges: Family<Destination, Counter>,
    exhausted: Family<Destination, Counter>,
    in_flight: Family<Destination, Gauge>,
    breaker: Family<Destination, Gauge>,
    opened: Family<Destination, Counter>,
    ejections: Family<Destination, Counter>,
    ejected: Family<Destination, Gauge>,
    panicking: Family<Destination, Gauge>,
    picks: Family<EndpointLabels, Counter>,
}

impl OutboundMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        let counter = |name: &str, help: &str, family: &Family<Destination, Counter>| {
            metrics.register(name, help, family.clone());
        };
        counter("mesh_retries", "Attempts beyond the first", &own.retries);
        counter(
            "mesh_hedges",
            "Second attempts beside a slow first",
            &own.hedges,
        );
        counter(
            "mesh_retry_budget_exhausted",
            "Retries that the budget did not allow",
            &own.exhausted,
        );
        counter("mesh_breaker_opened", "Circuits opened", &own.opened);
        counter("mesh_ejections", "Endpoints ejected", &own.ejections);
        let gauge = |name: &str, help: &str, family: &Family<Destination, Gauge>| {
            metrics.register(name, help, family.clone());
        };
        gauge(
            "mesh_requests_in_flight",
            "Calls that are not over",
            &own.in_flight,
        );
        gauge(
            "mesh_breaker_state",
            "0 closed, 1 half-open, 2 open",
            &own.breaker,
        );
        gauge(
            "mesh_endpoints_ejected",
            "Endpoints left alone",
            &own.ejected,
        );
        gauge(
            "mesh_endpoints_panic",
            "1 while all endpoints are ejected, and so all are used",
            &own.panicking,
        );
        metrics.register(
            "mesh_endpoint_requests",
            "Attempts by endpoint",
            own.picks.clone(),
        );
        own
    }
}

impl Tallies for OutboundMetrics {
    fn tally(&self, service: &str, port: u16) -> Tally {
        let labels = Destination {
            destination: service.into(),
            port: u32::from(port),
        };
        Tally {
            retries: self.retries.get_or_create(&labels).clone(),
            hedges: self.hedges.get_or_create(&labels).clone(),
            exhausted: self.exhausted.get_or_create(&labels).clone(),
            in_flight: self.in_flight.get_or_create(&labels).clone(),
            breaker: self.breaker.get_or_create(&labels).clone(),
            opened: self.opened.get_or_create(&labels).clone(),
            ejections: self.ejections.get_or_create(&labels).clone(),
            ejected: self.ejected.get_or_create(&labels).clone(),
            panicking: self.panicking.get_or_create(&labels).clone(),
        }
    }

    fn picks(&self, service: &str, address: SocketAddr) -> Counter {
        let labels = EndpointLabels {
            destination: service.into(),
            endpoint: address.to_string(),
        };
        self.picks.get_or_create(&labels).clone()
    }

    fn gone(&self, service: &str, address: SocketAddr) {
        self.picks.remove(&EndpointLabels {
            destination: service.into(),
            endpoint: address.to_string(),
        });
    }
}
