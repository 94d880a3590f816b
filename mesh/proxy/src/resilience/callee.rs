//! One destination, as its callers in this process see it.
//!
//! Owns: [`Callees`], the destinations by service and port; [`Entered`], the place of one request among those in flight; and
//! [`Attempt`], one try at one endpoint, whose verdict goes to breaker, latency and conduct exactly once, however it ends.
//! Must not: wait. The lock of a destination is held for a choice or a verdict, never over I/O.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use ringwall_data_path::random::Random;
use tokio::time::Instant;

use super::balance::{Balancer, NodeId, Picked};
use super::breaker::{CircuitBreaker, IsOpen, Outcome, Phase, Ticket};
use super::budget::Budget;
use super::tally::Tally;
use crate::snapshot::{Endpoint, Port, Protocol, Service, Snapshot};

/// Gives a destination its series.
pub(crate) trait Tallies: Send + Sync {
    fn tally(&self, service: &str, port: u16) -> Tally;
    fn picks(&self, service: &str, address: SocketAddr) -> Counter;
    /// Endpoints that are gone take their series along.
    fn gone(&self, service: &str, address: SocketAddr);
}

/// All destinations.
pub(crate) struct Callees {
    began: Instant,
    zone: Box<str>,
    tallies: Arc<dyn Tallies>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    revision: u64,
    by_service: HashMap<Arc<str>, Vec<Arc<Callee>>, RandomState>,
}

/// One port of one service.
pub(crate) struct Callee {
    began: Instant,
    port: u16,
    tally: Tally,
    tallies: Arc<dyn Tallies>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Of the snapshot that `service` is from.
    revision: u64,
    service: Arc<Service>,
    breaker: CircuitBreaker,
    budget: Budget,
    balancer: Balancer,
    in_flight: u32,
    pending: u32,
    picks: HashMap<SocketAddr, Counter, RandomState>,
}

/// A request that counts as in flight until this is dropped.
pub(crate) struct Entered {
    callee: Arc<Callee>,
}

/// A request that waits for a connection until this is dropped.
pub(crate) struct Pending {
    callee: Arc<Callee>,
}

/// One try at one endpoint. Dropped without a verdict it says nothing against the destination.
pub(crate) struct Attempt {
    callee: Arc<Callee>,
    picked: Picked,
    started: Duration,
    ticket: Option<Ticket>,
}

/// Why there is no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAttempt {
    Open { retry_after: Duration },
    NoEndpoint,
}

/// A limit of the policy is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overloaded(pub(crate) &'static str);

impl Callees {
    /// For a workload in `zone`; time begins now.
    pub(crate) fn new(zone: &str, tallies: Arc<dyn Tallies>) -> Self {
        Self {
            began: Instant::now(),
            zone: zone.into(),
            tallies,
            known: Mutex::default(),
        }
    }

    /// The destination of requests to `port` of `service`, which is of `snapshot`; made at its first use, kept over changes.
    pub(crate) fn of(&self, snapshot: &Snapshot, service: &Arc<Service>, port: u16) -> Arc<Callee> {
        let mut known = self.known.lock();
        if snapshot.revision > known.revision {
            known.revision = snapshot.revision;
            known
                .by_service
                .retain(|name, _| snapshot.services.contains_key(name));
        }
        let ports = known
            .by_service
            .entry(Arc::clone(&service.name))
            .or_default();
        let callee = match ports.iter().find(|callee| callee.port == port) {
            Some(callee) => Arc::clone(callee),
            None => {
                let callee = self.make(snapshot.revision, service, port);
                ports.push(Arc::clone(&callee));
                callee
            }
        };
        drop(known);
        callee.refresh(snapshot.revision, service);
        callee
    }

    fn make(&self, revision: u64, service: &Arc<Service>, port: u16) -> Arc<Callee> {
        let now = self.began.elapsed();
        let mut balancer = Balancer::new(&self.zone);
        balancer.update(now, endpoints(service, port));
        Arc::new(Callee {
            began: self.began,
            port,
            tally: self.tallies.tally(&service.name, port),
            tallies: Arc::clone(&self.tallies),
            inner: Mutex::new(Inner {
                revision,
                breaker: CircuitBreaker::default(),
                budget: Budget::new(now, service.traffic.retries.budget_floor),
                service: Arc::clone(service),
                balancer,
                in_flight: 0,
                pending: 0,
                picks: HashMap::default(),
            }),
        })
    }
}

/// Endpoints that serve `port`. Bytes for an opaque port go through a tunnel, which any of them opens.
fn endpoints(service: &Service, port: u16) -> impl Iterator<Item = &Arc<Endpoint>> {
    let serves = move |endpoint: &&Arc<Endpoint>| endpoint.port == port;
    let opaque = |declared: &Port| declared.number == port && declared.protocol == Protocol::Tcp;
    let any = service.ports.iter().any(opaque) && !service.endpoints.iter().any(|e| serves(&e));
    service
        .endpoints
        .iter()
        .filter(move |endpoint| any || serves(endpoint))
}

impl Callee {
    /// Monotonic time since the process's start.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes over the service as it is in `revision`; a request that was late with an older one changes nothing.
    fn refresh(&self, revision: u64, service: &Arc<Service>) {
        let inner = &mut *self.inner.lock();
        if Arc::ptr_eq(&inner.service, service) || revision < inner.revision {
            return;
        }
        inner.revision = revision;
        inner.service = Arc::clone(service);
        inner
            .balancer
            .update(self.now(), endpoints(service, self.port));
        inner.picks.retain(|address, _| {
            let stays = service.endpoints.iter().any(|e| e.address == *address);
            if !stays {
                self.tallies.gone(&service.name, *address);
            }
            stays
        });
        self.show(inner);
    }

    pub(crate) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes one of the places in flight, and pays into the retry budget.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Entered, Overloaded> {
        self.enter_within("max-requests", |service| {
            service.traffic.breaker.max_requests
        })
    }

    /// The same for what lasts: as many as each endpoint may have.
    pub(crate) fn enter_connection(self: &Arc<Self>) -> Result<Entered, Overloaded> {
        self.enter_within("max-connections", |service| {
            let served_by = service.endpoints.len().max(service.direct.len()).max(1);
            let served_by = u32::try_from(served_by).unwrap_or(u32::MAX);
            let each = service.traffic.breaker.max_connections;
            each.saturating_mul(served_by)
        })
    }

    fn enter_within(
        self: &Arc<Self>,
        what: &'static str,
        limit: impl FnOnce(&Service) -> u32,
    ) -> Result<Entered, Overloaded> {
        let now = self.now();
        let mut inner = self.inner.lock();
        if inner.in_flight >= limit(&inner.service) {
            return Err(Overloaded(what));
        }
        inner.in_flight += 1;
        let permille = inner.service.traffic.retries.budget_permille;
        inner.budget.deposit(now, permille);
        self.tally.in_flight.inc();
        Ok(Entered {
            callee: Arc::clone(self),
        })
    }

    /// Takes one of the places of those that wait for a connection.
    pub(crate) fn wait(self: &Arc<Self>) -> Result<Pending, Overloaded> {
        let mut inner = self.inner.lock();
        if inner.pending >= inner.service.traffic.breaker.max_pending {
            return Err(Overloaded("max-pending"));
        }
        inner.pending += 1;
        Ok(Pending {
            callee: Arc::clone(self),
        })
    }

    /// One more try: the breaker lets it through, and an endpoint is chosen, if possible none of `tried`.
    pub(crate) fn attempt(
        self: &Arc<Self>,
        random: &Random,
        tried: &[NodeId],
    ) -> Result<Attempt, NoAttempt> {
        let now = self.now();
        let inner = &mut *self.inner.lock();
        if inner.balancer.is_empty() {
            return Err(NoAttempt::NoEndpoint);
        }
        let ticket = self.admit(inner, now)?;
        let Some(picked) = inner.balancer.pick(now, random, tried) else {
            self.settle(inner, now, &ticket, Outcome::Neutral);
            return Err(NoAttempt::NoEndpoint);
        };
        let (name, address) = (&inner.service.name, picked.endpoint.address);
        inner
            .picks
            .entry(address)
            .or_insert_with(|| self.tallies.picks(name, address))
            .inc();
        Ok(Attempt {
            callee: Arc::clone(self),
            picked,
            started: now,
            ticket: Some(ticket),
        })
    }

    /// Only the breaker's consent, for destinations whose endpoints are not ours to choose.
    pub(crate) fn consent(&self) -> Result<Ticket, NoAttempt> {
        let now = self.now();
        let inner = &mut *self.inner.lock();
        self.admit(inner, now)
    }

    /// The verdict on what [`Self::consent`] let through.
    pub(crate) fn conclude(&self, ticket: &Ticket, outcome: Outcome) {
        let now = self.now();
        let inner = &mut *self.inner.lock();
        self.settle(inner, now, ticket, outcome);
    }

    /// Takes one retry, or hedge, out of the budget.
    pub(crate) fn may_retry(&self) -> bool {
        let now = self.now();
        let inner = &mut *self.inner.lock();
        let floor = inner.service.traffic.retries.budget_floor;
        let allowed = inner.budget.withdraw(now, floor);
        if !allowed {
            self.tally.exhausted.inc();
        }
        allowed
    }

    fn admit(&self, inner: &mut Inner, now: Duration) -> Result<Ticket, NoAttempt> {
        let before = inner.breaker.phase();
        let admitted = inner.breaker.admit(now);
        self.tally.turned(before, inner.breaker.phase());
        admitted.map_err(|IsOpen { retry_after }| NoAttempt::Open { retry_after })
    }

    fn settle(&self, inner: &mut Inner, now: Duration, ticket: &Ticket, outcome: Outcome) {
        let before = inner.breaker.phase();
        let policy = &inner.service.traffic.breaker;
        inner.breaker.record(now, policy, ticket, outcome);
        let after = inner.breaker.phase();
        self.tally.turned(before, after);
        if before != after && after == Phase::Open {
            let Service { name, tier, .. } = &*inner.service;
            tracing::warn!(service = %name, tier, port = self.port, "circuit opened");
        }
    }

    fn show(&self, inner: &Inner) {
        let ejected = inner.balancer.ejected(self.now());
        self.tally
            .ejected
            .set(i64::try_from(ejected).unwrap_or(i64::MAX));
        self.tally
            .panicking
            .set(i64::from(inner.balancer.is_panicking()));
    }
}

impl Attempt {
    pub(crate) const fn node(&self) -> NodeId {
        self.picked.id
    }

    pub(crate) const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.picked.endpoint
    }

    /// Its time begins now, after a pause.
    pub(crate) fn restart(&mut self) {
        self.started = self.callee.now();
    }

    /// Gives the verdict; later ones are not heard. The endpoint stays busy until the attempt is dropped.
    pub(crate) fn verdict(&mut self, outcome: Outcome) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let callee = &self.callee;
        let now = callee.now();
        let took = now.saturating_sub(self.started);
        let inner = &mut *callee.inner.lock();
        callee.settle(inner, now, &ticket, outcome);
        let service = Arc::clone(&inner.service);
        let policy = &service.traffic.outlier;
        let ejects = inner
            .balancer
            .record(now, policy, self.picked.id, took, outcome);
        if ejects {
            callee.tally.ejections.inc();
            let address = self.picked.endpoint.address;
            let tier = &service.tier;
            tracing::warn!(service = %service.name, tier, %address, "endpoint ejected");
        }
        if ejects || callee.tally.ejected.get() > 0 {
            callee.show(inner);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.verdict(Outcome::Neutral);
        self.callee.inner.lock().balancer.release(self.picked.id);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut inner = self.callee.inner.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        self.callee.tally.in_flight.dec();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut inner = self.callee.inner.lock();
        inner.pending = inner.pending.saturating_sub(1);
    }
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(Callees, Callee, Entered, Pending, Attempt);

#[cfg(test)]
#[path = "callee/tests.rs"]
mod tests;
