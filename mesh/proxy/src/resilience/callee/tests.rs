use tokio::time::advance;

use super::*;
use crate::resilience::fixture::{Untold, endpoint, http, known, service};

fn addresses(count: u16) -> Vec<SocketAddr> {
    (0..count)
        .map(|n| ([127, 0, 0, 1], 9000 + n).into())
        .collect()
}

fn one(edit: impl FnOnce(&mut Service)) -> (Callees, Arc<Callee>) {
    let mut made = service("inventory", http(7106), &addresses(3));
    edit(&mut made);
    let (snapshot, service) = known(1, made);
    let callees = Callees::new("a", Arc::new(Untold));
    let callee = callees.of(&snapshot, &service, 7106);
    (callees, callee)
}

#[tokio::test(start_paused = true)]
async fn r29_requests_beyond_the_limit_are_refused_and_places_come_back() {
    let (_callees, callee) = one(|service| service.traffic.breaker.max_requests = 2);
    let first = callee.enter().unwrap();
    let _second = callee.enter().unwrap();
    assert_eq!(callee.enter().unwrap_err(), Overloaded("max-requests"));
    drop(first);
    assert!(callee.enter().is_ok());
}

#[tokio::test(start_paused = true)]
async fn r29_waiting_requests_are_bounded() {
    let (_callees, callee) = one(|service| service.traffic.breaker.max_pending = 1);
    let waiting = callee.wait().unwrap();
    assert_eq!(callee.wait().unwrap_err(), Overloaded("max-pending"));
    drop(waiting);
    assert!(callee.wait().is_ok());
}

#[tokio::test(start_paused = true)]
async fn r29_an_open_breaker_makes_no_attempt_and_recovers() {
    let random = Random::seeded(1);
    let (_callees, callee) = one(|_| {});
    for _ in 0..20 {
        let mut attempt = callee.attempt(&random, &[]).unwrap();
        attempt.verdict(Outcome::Failure);
    }
    assert_eq!(callee.tally().opened.get(), 1);
    assert_eq!(callee.tally().breaker.get(), 2);
    let open = callee.attempt(&random, &[]).unwrap_err();
    assert_eq!(
        open,
        NoAttempt::Open {
            retry_after: Duration::from_secs(5)
        }
    );
    advance(Duration::from_secs(5)).await;
    for _ in 0..3 {
        let mut attempt = callee.attempt(&random, &[]).unwrap();
        attempt.verdict(Outcome::Success);
    }
    assert_eq!(callee.tally().breaker.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn r29_a_dropped_attempt_says_nothing_and_frees_its_endpoint() {
    let random = Random::seeded(1);
    let (_callees, callee) = one(|_| {});
    for _ in 0..100 {
        drop(callee.attempt(&random, &[]).unwrap());
    }
    assert_eq!(callee.tally().opened.get(), 0);
    assert_eq!(callee.tally().ejections.get(), 0);
    let mut attempt = callee.attempt(&random, &[]).unwrap();
    attempt.verdict(Outcome::Success);
    // The second one is not heard.
    for _ in 0..100 {
        attempt.verdict(Outcome::Failure);
    }
    assert_eq!(callee.tally().ejections.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn r29_a_destination_keeps_what_it_knows_over_a_change_and_is_forgotten_with_its_service() {
    let random = Random::seeded(1);
    let callees = Callees::new("a", Arc::new(Untold));
    let (first, before) = known(1, service("inventory", http(7106), &addresses(2)));
    let callee = callees.of(&first, &before, 7106);
    for _ in 0..20 {
        let mut attempt = callee.attempt(&random, &[]).unwrap();
        attempt.verdict(Outcome::Failure);
    }
    let (second, after) = known(2, service("inventory", http(7106), &addresses(3)));
    let same = callees.of(&second, &after, 7106);
    assert!(Arc::ptr_eq(&callee, &same));
    assert!(same.attempt(&random, &[]).is_err());
    let (third, other) = known(3, service("payments", http(7107), &addresses(1)));
    let _other = callees.of(&third, &other, 7107);
    let again = callees.of(&second, &after, 7106);
    assert!(!Arc::ptr_eq(&callee, &again));
}

#[tokio::test(start_paused = true)]
async fn r28_only_endpoints_of_the_port_are_chosen() {
    let random = Random::seeded(1);
    let (_callees, callee) = one(|service| {
        service.endpoints = addresses(4)
            .into_iter()
            .map(|address| endpoint(address, if address.port() == 9002 { 7106 } else { 7206 }))
            .collect();
    });
    for _ in 0..50 {
        let attempt = callee.attempt(&random, &[]).unwrap();
        assert_eq!(attempt.endpoint().address.port(), 9002);
    }
    let (_callees, empty) = one(|service| service.endpoints.clear());
    assert_eq!(
        empty.attempt(&random, &[]).unwrap_err(),
        NoAttempt::NoEndpoint
    );
}
