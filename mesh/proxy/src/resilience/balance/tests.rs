use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use proptest::prelude::*;

use super::*;

fn endpoint(n: u16, zone: &str, weight: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: ([127, 0, 0, 1], 1000 + n).into(),
        port: 80,
        zone: zone.into(),
        weight,
        instance: format!("i{n}").into(),
    })
}

fn policy() -> Outlier {
    Outlier {
        consecutive_failures: 5,
        ejection: Duration::from_secs(5),
        max_ejected_percent: 50,
    }
}

/// A simulated clock, and endpoints whose answers take what `latency` says.
struct Sim {
    balancer: Balancer,
    random: Random,
    now: Duration,
    running: BinaryHeap<Reverse<(Duration, NodeId, Duration)>>,
    picks: HashMap<u16, usize>,
    in_flight: HashMap<u16, usize>,
    ports: HashMap<NodeId, u16>,
    highest: HashMap<u16, usize>,
}

impl Sim {
    fn new(seed: u64, endpoints: &[Arc<Endpoint>]) -> Self {
        let mut balancer = Balancer::new("a");
        balancer.update(Duration::ZERO, endpoints);
        Self {
            balancer,
            random: Random::seeded(seed),
            now: Duration::ZERO,
            running: BinaryHeap::new(),
            picks: HashMap::new(),
            in_flight: HashMap::new(),
            ports: HashMap::new(),
            highest: HashMap::new(),
        }
    }

    fn run(&mut self, requests: usize, every: Duration, latency: impl Fn(u16) -> Duration) {
        for _ in 0..requests {
            self.now += every;
            self.finish_until(self.now);
            let picked = self.balancer.pick(self.now, &self.random, &[]).unwrap();
            let port = picked.endpoint.address.port();
            *self.picks.entry(port).or_default() += 1;
            let running = self.in_flight.entry(port).or_default();
            *running += 1;
            let highest = self.highest.entry(port).or_default();
            *highest = (*highest).max(*running);
            self.ports.insert(picked.id, port);
            let end = self.now + latency(port);
            self.running.push(Reverse((end, picked.id, self.now)));
        }
    }

    fn finish_until(&mut self, now: Duration) {
        while let Some(Reverse((end, id, began))) = self.running.peek().copied() {
            if end > now {
                return;
            }
            self.running.pop();
            let took = end - began;
            self.balancer
                .record(end, &policy(), id, took, Outcome::Success);
            self.balancer.release(id);
            *self.in_flight.get_mut(&self.ports[&id]).unwrap() -= 1;
        }
    }

    fn share(&self, port: u16) -> f64 {
        let total: usize = self.picks.values().sum();
        *self.picks.get(&port).unwrap_or(&0) as f64 / total as f64
    }
}

fn nodes(count: u16) -> Vec<Arc<Endpoint>> {
    (0..count).map(|n| endpoint(n, "a", 1)).collect()
}

#[test]
fn r30_a_slow_nodes_share_falls_below_a_tenth() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, &nodes(3));
        let latency = |port| Duration::from_millis(if port == 1002 { 100 } else { 10 });
        sim.run(10_000, Duration::from_millis(1), latency);
        assert!(sim.share(1002) < 0.1, "{} of seed {seed}", sim.share(1002));
        // It is not forgotten either, so that its recovery is noticed.
        assert!(sim.share(1002) > 0.0);
    }
}

#[test]
fn r30_a_node_that_recovers_gets_its_share_back() {
    let mut sim = Sim::new(3, &nodes(3));
    sim.run(5_000, Duration::from_millis(2), |port| {
        Duration::from_millis(if port == 1002 { 100 } else { 10 })
    });
    sim.run(30_000, Duration::from_millis(2), |_| {
        Duration::from_millis(10)
    });
    sim.picks.clear();
    sim.run(10_000, Duration::from_millis(2), |_| {
        Duration::from_millis(10)
    });
    // A third, but for the rhythm that a simulation without jitter falls into.
    assert!(sim.share(1002) > 0.25, "{}", sim.share(1002));
}

#[test]
fn r30_equals_get_equal_shares() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, &nodes(5));
        sim.run(10_000, Duration::from_millis(1), |_| {
            Duration::from_millis(10)
        });
        for port in 1000..1005 {
            let share = sim.share(port) / 0.2;
            assert!(
                (0.95..=1.05).contains(&share),
                "{port}: {share} of seed {seed}"
            );
        }
    }
}

#[test]
fn r30_shares_follow_weights_until_a_node_is_slow() {
    let weighted = [endpoint(0, "a", 9), endpoint(1, "a", 1)];
    let mut sim = Sim::new(5, &weighted);
    sim.run(10_000, Duration::from_millis(20), |port| {
        Duration::from_millis(10 + u64::from(port % 2) * 3)
    });
    assert!(
        (0.87..0.93).contains(&sim.share(1000)),
        "{}",
        sim.share(1000)
    );
    sim.picks.clear();
    sim.run(10_000, Duration::from_millis(20), |port| {
        Duration::from_millis(if port == 1000 { 200 } else { 10 })
    });
    assert!(sim.share(1000) < 0.1, "{}", sim.share(1000));
}

#[test]
fn r30_only_what_weights_are_to_each_other_counts() {
    // Three requests in flight say the same of an endpoint, whatever number all weights have.
    for weight in [1, 100, 10_000] {
        let two: Vec<_> = (0..2).map(|n| endpoint(n, "a", weight)).collect();
        let mut sim = Sim::new(11, &two);
        sim.run(2, Duration::from_millis(1), |_| Duration::from_millis(10));
        sim.finish_until(Duration::from_secs(1));
        sim.now = Duration::from_secs(1);
        // The first never answers again: what it has to do piles up there, and keeps the rest away from it.
        sim.picks.clear();
        let hours = Duration::from_secs(36_000);
        sim.run(100, Duration::from_millis(20), |port| match port {
            1000 => hours,
            _ => Duration::from_millis(10),
        });
        let stuck = sim.picks.get(&1000).copied().unwrap_or(0);
        assert!(stuck <= 3, "{stuck} of 100 with weight {weight}");
    }
    // And shares are the same in thousands as in units.
    for unit in [1, 1000] {
        let weighted = [endpoint(0, "a", 9 * unit), endpoint(1, "a", unit)];
        let mut sim = Sim::new(5, &weighted);
        sim.run(10_000, Duration::from_millis(20), |_| {
            Duration::from_millis(10)
        });
        let share = sim.share(1000);
        assert!((0.87..0.93).contains(&share), "{share} in units of {unit}");
    }
}

#[test]
fn r30_a_new_endpoint_is_used_but_not_run_over() {
    let mut sim = Sim::new(9, &nodes(3));
    sim.run(2_000, Duration::from_millis(1), |_| {
        Duration::from_millis(20)
    });
    sim.balancer.update(sim.now, &nodes(4));
    // Nobody knows yet that it takes a second for its first answers: its rivals do not either.
    sim.picks.clear();
    sim.run(900, Duration::from_millis(1), |port| {
        Duration::from_millis(if port == 1003 { 1000 } else { 20 })
    });
    assert_eq!(sim.highest[&1003], UNPROVEN as usize);
    assert_eq!(sim.picks[&1003], UNPROVEN as usize);
    // And where it is as fast as the others it soon has their share.
    let mut quick = Sim::new(9, &nodes(3));
    quick.run(2_000, Duration::from_millis(1), |_| {
        Duration::from_millis(20)
    });
    quick.balancer.update(quick.now, &nodes(4));
    quick.picks.clear();
    quick.run(10_000, Duration::from_millis(1), |_| {
        Duration::from_millis(20)
    });
    assert!((0.23..0.27).contains(&quick.share(1003)));
}

fn eject(balancer: &mut Balancer, now: Duration, port: u16) -> bool {
    let id = balancer
        .nodes
        .iter()
        .find(|node| node.endpoint.address.port() == port)
        .unwrap()
        .id;
    (0..5).any(|_| {
        balancer.record(
            now,
            &policy(),
            id,
            Duration::from_millis(1),
            Outcome::Failure,
        )
    })
}

fn counts(balancer: &mut Balancer, now: Duration, picks: usize) -> HashMap<u16, usize> {
    let random = Random::seeded(11);
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let picked = balancer.pick(now, &random, &[]).unwrap();
        balancer.release(picked.id);
        *counts.entry(picked.endpoint.address.port()).or_default() += 1;
    }
    counts
}

#[test]
fn r29_an_ejected_endpoint_gets_nothing_until_it_returns() {
    let now = Duration::from_secs(1);
    let mut balancer = Balancer::new("a");
    balancer.update(now, &nodes(4));
    assert!(eject(&mut balancer, now, 1000));
    assert!(!counts(&mut balancer, now, 1000).contains_key(&1000));
    assert!(!counts(&mut balancer, now + Duration::from_millis(4999), 1000).contains_key(&1000));
    assert!(counts(&mut balancer, now + Duration::from_secs(5), 1000)[&1000] > 100);
}

#[test]
fn r29_no_more_than_the_share_is_ejected_and_never_all() {
    let now = Duration::from_secs(1);
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)] {
        let mut balancer = Balancer::new("a");
        balancer.update(now, &nodes(count));
        for port in 0..count {
            eject(&mut balancer, now, 1000 + port);
        }
        assert_eq!(balancer.ejected(now), most, "of {count}");
        assert!(!balancer.is_panicking());
    }
}

#[test]
fn r29_where_only_ejected_ones_are_left_all_are_used() {
    let now = Duration::from_secs(1);
    let mut balancer = Balancer::new("a");
    balancer.update(now, &nodes(4));
    assert!(eject(&mut balancer, now, 1000));
    assert!(eject(&mut balancer, now, 1001));
    balancer.update(now, &nodes(2));
    assert!(balancer.is_panicking());
    let counts = counts(&mut balancer, now, 1000);
    assert!(counts[&1000] > 300 && counts[&1001] > 300);
}

#[test]
fn r30_the_own_zone_is_preferred_and_spills_over_with_its_health() {
    let now = Duration::from_secs(1);
    let mut endpoints: Vec<_> = (0..4).map(|n| endpoint(n, "a", 1)).collect();
    endpoints.extend((4..8).map(|n| endpoint(n, "b", 1)));
    let mut balancer = Balancer::new("a");
    balancer.update(now, &endpoints);
    let in_zone = |counts: &HashMap<u16, usize>| -> usize {
        counts
            .iter()
            .filter(|(port, _)| **port < 1004)
            .map(|(_, n)| n)
            .sum()
    };
    assert_eq!(in_zone(&counts(&mut balancer, now, 1000)), 1000);
    // 3 of 4 healthy: 1.4 × 75 % is still all.
    assert!(eject(&mut balancer, now, 1000));
    assert_eq!(in_zone(&counts(&mut balancer, now, 1000)), 1000);
    // 2 of 4: 70 %.
    assert!(eject(&mut balancer, now, 1001));
    let half = in_zone(&counts(&mut balancer, now, 10_000));
    assert!((6_800..7_200).contains(&half), "{half}");
    // Nobody left in the zone.
    let policy = Outlier {
        max_ejected_percent: 90,
        ..policy()
    };
    for port in [1002, 1003] {
        let node = balancer
            .nodes
            .iter()
            .find(|n| n.endpoint.address.port() == port);
        let id = node.unwrap().id;
        for _ in 0..5 {
            balancer.record(now, &policy, id, Duration::ZERO, Outcome::Failure);
        }
    }
    assert_eq!(in_zone(&counts(&mut balancer, now, 1000)), 0);
}

#[test]
fn r30_a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    let random = Random::seeded(4);
    let mut balancer = Balancer::new("a");
    balancer.update(Duration::ZERO, &nodes(6));
    for _ in 0..200 {
        let mut tried = Vec::new();
        for _ in 0..6 {
            let picked = balancer.pick(Duration::ZERO, &random, &tried).unwrap();
            assert!(!tried.contains(&picked.id));
            balancer.release(picked.id);
            tried.push(picked.id);
        }
        let again = balancer.pick(Duration::ZERO, &random, &tried).unwrap();
        balancer.release(again.id);
    }
}

#[test]
fn r30_quick_failures_do_not_attract() {
    let mut sim = Sim::new(2, &nodes(2));
    sim.run(500, Duration::from_millis(5), |_| Duration::from_millis(10));
    let id = sim.balancer.nodes[0].id;
    for _ in 0..2 {
        let took = Duration::from_micros(100);
        sim.balancer
            .record(sim.now, &policy(), id, took, Outcome::Failure);
    }
    sim.picks.clear();
    sim.run(200, Duration::from_millis(5), |_| Duration::from_millis(10));
    assert!(sim.share(1000) < 0.1, "{}", sim.share(1000));
}

#[test]
fn r30_who_gave_up_waiting_still_tells_that_it_was_slow() {
    let mut balancer = Balancer::new("a");
    balancer.update(Duration::ZERO, &nodes(2));
    let ids: Vec<NodeId> = balancer.nodes.iter().map(|node| node.id).collect();
    for id in &ids {
        let took = Duration::from_millis(10);
        balancer.record(Duration::ZERO, &policy(), *id, took, Outcome::Success);
    }
    let took = Duration::from_millis(400);
    balancer.record(Duration::ZERO, &policy(), ids[0], took, Outcome::Neutral);
    let counts = counts(&mut balancer, Duration::ZERO, 1000);
    assert_eq!(counts.get(&1000), None);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Pick,
    Finish(usize, bool, u64),
    Endpoints(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0u64..3000).prop_map(Step::Wait),
        6 => Just(Step::Pick),
        6 => (any::<usize>(), prop::bool::weighted(0.3), 0u64..3000).prop_map(|(n, ok, ms)| Step::Finish(n, ok, ms)),
        1 => (0u16..5, 0u16..8).prop_map(|(from, count)| Step::Endpoints(from, count)),
    ]
}

proptest! {
    /// Endpoints come, go, fail and return: nobody ejected is picked while somebody is well, nobody unknown ever is, and
    /// what is in flight is what was picked and not given back.
    #[test]
    fn r29_the_balancer_keeps_its_invariants(steps in proptest::collection::vec(step(), 0..500), seed: u64) {
        let random = Random::seeded(seed);
        let mut balancer = Balancer::new("a");
        let mut now = Duration::ZERO;
        let mut out: Vec<(NodeId, Duration)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::Pick => {
                    let picked = balancer.pick(now, &random, &[]);
                    prop_assert_eq!(picked.is_none(), balancer.is_empty());
                    if let Some(picked) = picked {
                        let ejected = balancer.node(picked.id).unwrap().conduct.is_ejected(now);
                        prop_assert!(!ejected || balancer.ejected(now) == balancer.nodes.len());
                        out.push((picked.id, now));
                    }
                }
                Step::Finish(n, ok, millis) if !out.is_empty() => {
                    let (id, _) = out.swap_remove(n % out.len());
                    let outcome = if ok { Outcome::Success } else { Outcome::Failure };
                    let before = balancer.ejected(now);
                    let ejects = balancer.record(now, &policy(), id, Duration::from_millis(millis), outcome);
                    prop_assert_eq!(balancer.ejected(now), before + usize::from(ejects));
                    prop_assert!(!ejects || balancer.ejected(now) < balancer.nodes.len());
                    balancer.release(id);
                }
                Step::Finish(..) => {}
                Step::Endpoints(from, count) => {
                    let list: Vec<_> = (from..from + count).map(|n| endpoint(n, if n % 2 == 0 { "a" } else { "b" }, u32::from(n % 3))).collect();
                    balancer.update(now, &list);
                    prop_assert_eq!(balancer.nodes.len(), usize::from(count));
                }
            }
            for node in &balancer.nodes {
                let running = out.iter().filter(|(id, _)| *id == node.id).count();
                prop_assert_eq!(node.in_flight as usize, running);
            }
        }
    }
}
