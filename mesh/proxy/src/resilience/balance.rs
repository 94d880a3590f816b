//! Which endpoint a request goes to: the better of two, by latency and load.
//!
//! Owns: the endpoints of one destination, power of two choices over peak EWMA × requests in flight, weights, zones and
//! ejection. Its rules:
//! - Cost of an endpoint: expected latency × (1 + requests in flight ÷ weight), where an average weight counts as 1: only
//!   what weights are to each other says anything. Two are drawn by weight, the cheaper wins;
//!   with differing weights only where it is cheaper by half, so that shares follow the weights of healthy endpoints.
//! - An endpoint that has not answered yet is taken to be as fast as its rival, but has [`UNPROVEN`] requests in flight
//!   at most: a new one neither starves nor is run over.
//! - Zones, as Envoy's priorities: the own zone gets everything while at least 1/1.4 (71 %) of its weight is healthy, then
//!   1.4 × the healthy share; the rest spills over.
//! - Where every endpoint is ejected, all are used: a verdict on everybody says more about the judge.
//!
//! Must not: read a clock, connect. Read next: `ewma.rs`, `outlier.rs`.

mod group;

use std::sync::Arc;
use std::time::Duration;

use ringwall_data_path::random::Random;

use self::group::Group;
use super::breaker::Outcome;
use super::ewma::PeakEwma;
use super::outlier::{Conduct, may_be_ejected};
use crate::snapshot::{Endpoint, Outlier};

/// Requests that an endpoint may have in flight before its first answer, while its rivals have answered.
pub(crate) const UNPROVEN: u32 = 4;
/// Envoy's overprovisioning factor, in permille.
const OVERPROVISION: u64 = 1400;
const PERMILLE: u64 = 1000;
/// With differing weights the drawn one is kept unless its rival costs less than this part of it.
const SLACK: f64 = 0.5;
/// A failure counts as an answer that took this many times what was expected…
const FAILURE_FACTOR: f64 = 4.0;
/// … up to this.
const FAILURE_CAP: Duration = Duration::from_secs(10);

/// Names one endpoint for as long as the balancer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u64);

/// The endpoints of one destination.
#[derive(Debug)]
pub(crate) struct Balancer {
    zone: Box<str>,
    /// By ascending id.
    nodes: Vec<Node>,
    next_id: u64,
    local: Group,
    remote: Group,
    /// Share of requests that stay in the zone.
    local_permille: u64,
    weighted: bool,
    /// The average of all weights.
    ordinary: f64,
    panicking: bool,
    /// When an ejection ends, and the groups with it.
    stale_at: Option<Duration>,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    endpoint: Arc<Endpoint>,
    latency: Option<PeakEwma>,
    in_flight: u32,
    conduct: Conduct,
}

/// A choice; to be given back by [`Balancer::release`].
#[derive(Debug, Clone)]
pub(crate) struct Picked {
    pub(crate) id: NodeId,
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Balancer {
    pub(crate) fn new(zone: &str) -> Self {
        Self {
            zone: zone.into(),
            nodes: Vec::new(),
            next_id: 0,
            local: Group::default(),
            remote: Group::default(),
            local_permille: PERMILLE,
            weighted: false,
            ordinary: 1.0,
            panicking: false,
            stale_at: None,
        }
    }

    /// Takes over a new list; endpoints that stay keep what is known of them.
    pub(crate) fn update<'a>(
        &mut self,
        now: Duration,
        endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>,
    ) {
        let mut known = std::mem::take(&mut self.nodes);
        for endpoint in endpoints {
            let position = known.iter().position(|node| node.is(endpoint));
            let node = match position.map(|at| known.swap_remove(at)) {
                Some(node) => Node {
                    endpoint: Arc::clone(endpoint),
                    ..node
                },
                None => self.newcomer(endpoint),
            };
            if !self.nodes.iter().any(|other| other.is(endpoint)) {
                self.nodes.push(node);
            }
        }
        self.nodes.sort_unstable_by_key(|node| node.id);
        self.regroup(now);
    }

    fn newcomer(&mut self, endpoint: &Arc<Endpoint>) -> Node {
        self.next_id += 1;
        Node {
            id: NodeId(self.next_id),
            endpoint: Arc::clone(endpoint),
            latency: None,
            in_flight: 0,
            conduct: Conduct::default(),
        }
    }

    /// Chooses an endpoint, if possible none of `avoid`; `None` where there is none at all.
    pub(crate) fn pick(
        &mut self,
        now: Duration,
        random: &Random,
        avoid: &[NodeId],
    ) -> Option<Picked> {
        if self.stale_at.is_some_and(|at| now >= at) {
            self.regroup(now);
        }
        let stays = random.next() % PERMILLE < self.local_permille;
        let group = if stays { &self.local } else { &self.remote };
        let (first, second) = group.draw_two(random)?;
        let (first, second) = (self.nodes.get(first)?, self.nodes.get(second)?);
        let chosen = match (avoid.contains(&first.id), avoid.contains(&second.id)) {
            (false, true) => first,
            (true, false) => second,
            (false, false) => self.cheaper(now, first, second),
            (true, true) => self.best_but(now, avoid).unwrap_or(first),
        };
        let (id, endpoint) = (chosen.id, Arc::clone(&chosen.endpoint));
        let node = self.node(id)?;
        node.in_flight += 1;
        Some(Picked { id, endpoint })
    }

    /// Takes the verdict on one request; `true` when it ejects the endpoint.
    pub(crate) fn record(
        &mut self,
        now: Duration,
        policy: &Outlier,
        id: NodeId,
        took: Duration,
        outcome: Outcome,
    ) -> bool {
        let total = self.nodes.len();
        let Some(node) = self.node(id) else {
            return false;
        };
        node.observe(now, took, outcome);
        if outcome == Outcome::Neutral
            || !node
                .conduct
                .record(now, policy, outcome == Outcome::Failure)
        {
            return false;
        }
        if self.ejected(now) >= may_be_ejected(total, policy) {
            return false;
        }
        if let Some(node) = self.node(id) {
            node.conduct.eject(now, policy);
            // It comes back as a stranger.
            node.latency = None;
        }
        self.regroup(now);
        true
    }

    /// The request has ended with its last byte.
    pub(crate) fn release(&mut self, id: NodeId) {
        if let Some(node) = self.node(id) {
            node.in_flight = node.in_flight.saturating_sub(1);
        }
    }

    pub(crate) fn ejected(&self, now: Duration) -> usize {
        let ejected = |node: &&Node| node.conduct.is_ejected(now);
        self.nodes.iter().filter(ejected).count()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All are ejected, and so all are used.
    pub(crate) const fn is_panicking(&self) -> bool {
        self.panicking
    }

    fn node(&mut self, id: NodeId) -> Option<&mut Node> {
        let index = self.nodes.binary_search_by_key(&id, |node| node.id).ok()?;
        self.nodes.get_mut(index)
    }

    /// `first` was drawn first: it wins ties.
    fn cheaper<'a>(&self, now: Duration, first: &'a Node, second: &'a Node) -> &'a Node {
        let slack = if self.weighted { SLACK } else { 1.0 };
        let ordinary = self.ordinary;
        if second.cost(now, first, ordinary) < first.cost(now, second, ordinary) * slack {
            second
        } else {
            first
        }
    }

    /// For a retry where both choices were tried already: the cheapest of the others.
    fn best_but(&self, now: Duration, avoid: &[NodeId]) -> Option<&Node> {
        self.nodes
            .iter()
            .filter(|node| self.panicking || !node.conduct.is_ejected(now))
            .filter(|node| !avoid.contains(&node.id))
            .reduce(|best, node| self.cheaper(now, best, node))
    }

    fn regroup(&mut self, now: Duration) {
        let usable = |node: &Node| !node.conduct.is_ejected(now);
        self.panicking = !self.nodes.is_empty() && !self.nodes.iter().any(usable);
        self.stale_at = self
            .nodes
            .iter()
            .filter_map(|node| node.conduct.ejected_until(now))
            .min();
        let total: f64 = self.nodes.iter().map(Node::share).sum();
        let count = u32::try_from(self.nodes.len().max(1)).unwrap_or(u32::MAX);
        self.ordinary = (total / f64::from(count)).max(1.0);
        let mut weights = self.nodes.iter().map(Node::weight);
        let first = weights.next();
        self.weighted = weights.any(|weight| Some(weight) != first);
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        let mut local_total = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            let is_local = self.zone.is_empty() || node.endpoint.zone == self.zone;
            if is_local {
                local_total += node.weight();
            }
            if usable(node) || self.panicking {
                let group = if is_local { &mut local } else { &mut remote };
                group.push((index, node.weight()));
            }
        }
        self.local = Group::new(local);
        self.remote = Group::new(remote);
        self.local_permille = match (self.local.weight(), self.remote.weight()) {
            (_, 0) => PERMILLE,
            (healthy, _) => (healthy * OVERPROVISION)
                .checked_div(local_total)
                .unwrap_or(0)
                .min(PERMILLE),
        };
    }
}

impl Node {
    /// Whether this is that process at that address.
    fn is(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.address == endpoint.address && self.endpoint.instance == endpoint.instance
    }

    fn weight(&self) -> u64 {
        u64::from(self.endpoint.weight.max(1))
    }

    fn share(&self) -> f64 {
        f64::from(self.endpoint.weight.max(1))
    }

    /// What one more request costs here, where `rival` is the other choice and `ordinary` an average weight.
    fn cost(&self, now: Duration, rival: &Self, ordinary: f64) -> f64 {
        let expected = match (&self.latency, &rival.latency) {
            (Some(own), _) => own.expect(now),
            (None, Some(_)) if self.in_flight >= UNPROVEN => f64::INFINITY,
            (None, Some(theirs)) => theirs.expect(now),
            (None, None) => 1.0,
        };
        expected * (1.0 + f64::from(self.in_flight) * ordinary / self.share())
    }

    fn observe(&mut self, now: Duration, took: Duration, outcome: Outcome) {
        let expected = self.latency.map(|latency| latency.expect(now));
        let counted = match outcome {
            Outcome::Success => Some(took),
            // A failure may be quick: it must not look like a fast answer.
            Outcome::Failure => {
                let slow = Duration::from_secs_f64(expected.unwrap_or(0.0) * FAILURE_FACTOR);
                Some(took.max(slow.min(FAILURE_CAP)))
            }
            // The answer would have taken even longer than the caller waited.
            Outcome::Neutral => {
                Some(took).filter(|took| expected.is_some_and(|s| took.as_secs_f64() > s))
            }
        };
        match (&mut self.latency, counted) {
            (Some(latency), Some(took)) => latency.observe(now, took),
            (unknown, Some(took)) if outcome == Outcome::Success => {
                *unknown = Some(PeakEwma::new(now, took));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "balance/tests.rs"]
mod tests;
