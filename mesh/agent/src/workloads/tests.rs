//! Renewal under a clock of our own: half-life, outages, jumps, storms, and the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::fixture::{HOUR, Plane, Wall, domain};
use crate::trust::Follower;

struct Node {
    wall: Wall,
    metrics: Metrics,
    plane: Arc<Plane>,
    follower: Follower,
    workloads: Arc<Workloads>,
    _state: tempfile::TempDir,
}

impl Node {
    fn new(change: impl FnOnce(&mut Plane)) -> Self {
        Self::skewed(time::Duration::ZERO, change)
    }

    /// A node whose clock is ahead of the control plane's; `wall` is the control plane's.
    fn skewed(ahead: time::Duration, change: impl FnOnce(&mut Plane)) -> Self {
        let wall = Wall::new();
        let own = if ahead.is_zero() {
            wall.clone()
        } else {
            wall.ahead(ahead)
        };
        let mut plane = Plane::new(&wall);
        change(&mut plane);
        let plane = Arc::new(plane);
        let state = tempfile::tempdir().unwrap();
        let follower = Follower::open(&domain(), state.path(), own.clock());
        let issuer = Arc::new(Arc::clone(&plane));
        let metrics = Metrics::default();
        let renewals = Renewals::new(issuer, own.clock(), metrics.clone());
        let workloads = Workloads::new(renewals, follower.subscribe(), Metrics::default());
        tokio::spawn(Arc::clone(&workloads).run());
        Self {
            wall,
            metrics,
            plane,
            follower,
            workloads,
            _state: state,
        }
    }

    fn register(&self, names: &[&str]) {
        self.follower.take(self.plane.trust(1, names));
    }
}

async fn ready(state: &mut watch::Receiver<State>) -> Arc<Issued> {
    let state = state
        .wait_for(|state| matches!(state, State::Ready(_)))
        .await;
    match &*state.unwrap() {
        State::Ready(issued) => Arc::clone(issued),
        _ => unreachable!(),
    }
}

/// The next one that is not `last`.
async fn next(state: &mut watch::Receiver<State>, last: &Arc<Issued>) -> Arc<Issued> {
    loop {
        let issued = ready(state).await;
        if !Arc::ptr_eq(&issued, last) {
            return issued;
        }
        state.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn r33_an_svid_is_renewed_at_half_of_its_life_with_a_new_key() {
    let node = Node::new(|_| {});
    node.register(&["orders"]);
    let mut orders = node.workloads.follow("orders").unwrap();
    let first = ready(&mut orders).await;
    let begun = node.wall.now();
    let second = next(&mut orders, &first).await;
    let waited = node.wall.now() - begun;
    assert!((1799..=1802).contains(&waited.whole_seconds()), "{waited}");
    assert_ne!(*first.key, *second.key);
    assert!(first.not_after - node.wall.now() > time::Duration::minutes(29));
}

#[tokio::test(start_paused = true)]
async fn r33_certificates_of_a_minute_never_run_out() {
    let node = Node::new(|plane| plane.ttl = Duration::from_secs(60));
    node.register(&["orders"]);
    let mut orders = node.workloads.follow("orders").unwrap();
    let mut held = ready(&mut orders).await;
    for _ in 0..20 {
        let fresh = next(&mut orders, &held).await;
        let left = held.not_after - node.wall.now();
        assert!(left > time::Duration::seconds(25), "{left}");
        held = fresh;
    }
}

/// By the control plane's clock, which is everybody else's, certificates are renewed at half of their life, no matter
/// what this machine's clock says; and they are not renewed more often for it.
#[tokio::test(start_paused = true)]
async fn r33_an_agent_whose_clock_is_wrong_renews_at_half_of_the_life() {
    for ahead_s in [-3600, -300, 300, 3600] {
        for ttl_s in [60, 3600] {
            let ahead = time::Duration::seconds(ahead_s);
            let ttl = Duration::from_secs(ttl_s);
            let node = Node::skewed(ahead, |plane| plane.ttl = ttl);
            node.register(&["orders"]);
            let mut orders = node.workloads.follow("orders").unwrap();
            let mut held = ready(&mut orders).await;
            for _ in 0..5 {
                let fresh = next(&mut orders, &held).await;
                let left = (held.not_after - node.wall.now()) / ttl;
                assert!(
                    (0.44..0.56).contains(&left),
                    "{ahead_s} s ahead, {ttl_s} s to live: {left} left"
                );
                held = fresh;
            }
            assert_eq!(node.plane.count("svid"), 6, "{ahead_s} s ahead");
            // Certificates are made of whole seconds.
            let measured = node.metrics.clock_was_ahead();
            assert!((measured - ahead_s).abs() <= 1, "{measured} of {ahead_s}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r33_the_last_good_one_stays_while_the_control_plane_is_away() {
    let node = Node::new(|_| {});
    node.register(&["orders"]);
    let mut orders = node.workloads.follow("orders").unwrap();
    let first = ready(&mut orders).await;
    node.plane.is_away(true);
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert!(Arc::ptr_eq(&ready(&mut orders).await, &first));
    node.plane.is_away(false);
    let before = node.wall.now();
    next(&mut orders, &first).await;
    assert!(node.wall.now() - before <= time::Duration::seconds(35));
    assert!(node.wall.now() < first.not_after);
}

#[tokio::test(start_paused = true)]
async fn r33_a_machine_that_slept_renews_at_once() {
    let node = Node::new(|_| {});
    node.register(&["orders"]);
    let mut orders = node.workloads.follow("orders").unwrap();
    let first = ready(&mut orders).await;
    node.wall.jump(time::Duration::hours(9));
    let before = tokio::time::Instant::now();
    let second = next(&mut orders, &first).await;
    assert!(before.elapsed() <= Duration::from_secs(2));
    assert!(second.not_after > node.wall.now());
}

#[tokio::test(start_paused = true)]
async fn r33_a_storm_of_renewals_is_limited_and_all_are_renewed() {
    let node = Node::new(|plane| plane.takes = Duration::from_millis(100));
    let names: Vec<String> = (0..60).map(|n| format!("w{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    node.register(&names);
    let mut states: Vec<_> = names
        .iter()
        .map(|name| node.workloads.follow(name).unwrap())
        .collect();
    let mut first = Vec::new();
    for state in &mut states {
        first.push(ready(state).await);
    }
    node.wall.jump(time::Duration::hours(9));
    for (state, held) in states.iter_mut().zip(&first) {
        next(state, held).await;
    }
    assert_eq!(node.plane.most_at_once.load(Ordering::SeqCst), 4);
    assert_eq!(node.plane.count("svid"), 120);
}

#[tokio::test(start_paused = true)]
async fn r53_a_workload_that_is_not_registered_here_has_none() {
    let node = Node::new(|_| {});
    assert!(
        node.workloads.follow("orders").is_none(),
        "nothing is known"
    );
    node.register(&["orders"]);
    assert!(node.workloads.follow("payments").is_none());
    let mut orders = node.workloads.follow("orders").unwrap();
    ready(&mut orders).await;
    node.register(&["payments"]);
    orders
        .wait_for(|state| matches!(state, State::Ended))
        .await
        .unwrap();
    assert!(node.workloads.follow("orders").is_none());
    let issued = node.plane.count("svid");
    tokio::time::sleep(4 * HOUR).await;
    assert_eq!(node.plane.count("svid"), issued, "its renewal has ended");
    node.register(&["orders"]);
    let mut again = node.workloads.follow("orders").unwrap();
    ready(&mut again).await;
}

#[tokio::test(start_paused = true)]
async fn r34_a_revoked_workload_ends_and_a_revoked_certificate_is_replaced() {
    let node = Node::new(|_| {});
    node.register(&["orders", "payments"]);
    let mut orders = node.workloads.follow("orders").unwrap();
    let mut payments = node.workloads.follow("payments").unwrap();
    let first = ready(&mut orders).await;
    let kept = ready(&mut payments).await;
    let trust = node.plane.trust(2, &["orders", "payments"]);
    node.follower
        .take(node.plane.revoking(trust, &[first.chain[0].as_slice()]));
    let second = next(&mut orders, &first).await;
    assert_ne!(*first.key, *second.key);
    assert!(Arc::ptr_eq(&ready(&mut payments).await, &kept));
    let mut trust = node.plane.trust(3, &["orders", "payments"]);
    trust.revocations.as_mut().unwrap().spiffe_ids = vec!["spiffe://ringwall.local/orders".into()];
    node.follower.take(trust);
    orders
        .wait_for(|state| matches!(state, State::Ended))
        .await
        .unwrap();
    assert!(node.workloads.follow("orders").is_none());
}

#[tokio::test(start_paused = true)]
async fn r53_a_certificate_for_another_name_is_not_handed_out() {
    let node = Node::new(|plane| plane.wrong_name = true.into());
    node.register(&["orders"]);
    let mut orders = node.workloads.follow("orders").unwrap();
    let told = orders
        .wait_for(|state| matches!(state, State::Waiting(Some(_))))
        .await;
    let State::Waiting(Some(why)) = told.unwrap().clone() else {
        unreachable!()
    };
    assert!(why.contains("for another workload"), "{why}");
    node.plane.wrong_name.store(false, Ordering::SeqCst);
    ready(&mut orders).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_registration_brings_a_new_svid() {
    let node = Node::new(|_| {});
    node.register(&["orders"]);
    let mut orders = node.workloads.follow("orders").unwrap();
    let first = ready(&mut orders).await;
    let mut trust = node.plane.trust(2, &["orders"]);
    trust.registrations[0].dns_names = vec!["orders".into()];
    node.follower.take(trust);
    let before = node.wall.now();
    next(&mut orders, &first).await;
    assert!(node.wall.now() - before < time::Duration::seconds(2));
}
