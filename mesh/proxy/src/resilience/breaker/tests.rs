use proptest::prelude::*;

use super::*;

fn policy() -> Breaker {
    Breaker {
        max_connections: 1024,
        max_requests: 1024,
        max_pending: 1024,
        failure_permille: 500,
        min_requests: 20,
        open: Duration::from_secs(5),
    }
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn send(breaker: &mut CircuitBreaker, now: Duration, outcome: Outcome) -> bool {
    match breaker.admit(now) {
        Ok(ticket) => {
            breaker.record(now, &policy(), &ticket, outcome);
            true
        }
        Err(_) => false,
    }
}

fn opened(now: Duration) -> CircuitBreaker {
    let mut breaker = CircuitBreaker::default();
    while breaker.phase() == Phase::Closed {
        assert!(send(&mut breaker, now, Outcome::Failure));
    }
    breaker
}

#[test]
fn r29_the_rate_opens_only_with_enough_requests() {
    let mut breaker = CircuitBreaker::default();
    for _ in 0..19 {
        assert!(send(&mut breaker, at(100), Outcome::Failure));
    }
    assert_eq!(breaker.phase(), Phase::Closed);
    send(&mut breaker, at(100), Outcome::Failure);
    assert_eq!(breaker.phase(), Phase::Open);
}

#[test]
fn r29_failures_below_the_rate_or_out_of_the_window_do_not_open() {
    let mut breaker = CircuitBreaker::default();
    for second in 0..100 {
        for n in 0..10 {
            let failed = n < 4;
            let outcome = if failed {
                Outcome::Failure
            } else {
                Outcome::Success
            };
            // The good ones first: the rate is then never over 40 %.
            assert!(send(&mut breaker, at(second * 20), Outcome::Success));
            assert!(send(&mut breaker, at(second * 20), outcome));
        }
    }
    assert_eq!(breaker.phase(), Phase::Closed);
    // Nineteen failures every ten seconds are never twenty within ten.
    let mut sparse = CircuitBreaker::default();
    for round in 0..10 {
        for _ in 0..19 {
            assert!(send(&mut sparse, at(round * 10), Outcome::Failure));
        }
    }
    assert_eq!(sparse.phase(), Phase::Closed);
}

#[test]
fn r29_an_open_breaker_refuses_and_says_for_how_long() {
    let mut breaker = opened(at(10));
    let refused = breaker.admit(at(12)).unwrap_err();
    assert_eq!(refused.retry_after, at(3));
    assert_eq!(breaker.phase(), Phase::Open);
}

#[test]
fn r29_half_open_lets_a_bounded_number_through_and_their_success_closes() {
    let mut breaker = opened(at(10));
    let probes: Vec<Ticket> = (0..PROBES)
        .map(|_| breaker.admit(at(15)).unwrap())
        .collect();
    assert!(breaker.admit(at(15)).is_err());
    for probe in &probes {
        assert_eq!(breaker.phase(), Phase::HalfOpen);
        breaker.record(at(15), &policy(), probe, Outcome::Success);
    }
    assert_eq!(breaker.phase(), Phase::Closed);
    assert!(breaker.admit(at(15)).is_ok());
}

#[test]
fn r29_a_failed_probe_reopens_for_longer_up_to_the_cap() {
    let mut breaker = opened(at(0));
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let wait = breaker.admit(now).unwrap_err().retry_after;
        waits.push(wait.as_secs());
        now += wait;
        assert!(send(&mut breaker, now, Outcome::Failure));
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    // Closing forgets the growth.
    now += at(60);
    for _ in 0..PROBES {
        assert!(send(&mut breaker, now, Outcome::Success));
    }
    assert_eq!(breaker.phase(), Phase::Closed);
    for _ in 0..20 {
        send(&mut breaker, now, Outcome::Failure);
    }
    assert_eq!(breaker.admit(now).unwrap_err().retry_after, at(5));
}

#[test]
fn r29_one_cause_makes_one_transition() {
    let mut breaker = CircuitBreaker::default();
    let tickets: Vec<Ticket> = (0..60).map(|_| breaker.admit(at(1)).unwrap()).collect();
    for ticket in tickets.iter().take(30) {
        breaker.record(at(2), &policy(), ticket, Outcome::Failure);
    }
    let after = breaker.generation;
    assert_eq!(after, 1);
    // The rest of the same outage comes in while open, and while half-open.
    for ticket in tickets.iter().skip(30).take(15) {
        breaker.record(at(4), &policy(), ticket, Outcome::Failure);
    }
    assert_eq!(breaker.generation, after);
    assert_eq!(breaker.admit(at(4)).unwrap_err().retry_after, at(3));
    let probe = breaker.admit(at(7)).unwrap();
    for ticket in tickets.iter().skip(45) {
        breaker.record(at(7), &policy(), ticket, Outcome::Failure);
    }
    assert_eq!(breaker.phase(), Phase::HalfOpen);
    breaker.record(at(7), &policy(), &probe, Outcome::Failure);
    assert_eq!(breaker.phase(), Phase::Open);
    assert_eq!(breaker.admit(at(7)).unwrap_err().retry_after, at(10));
}

#[test]
fn r29_an_abandoned_probe_gives_its_place_back() {
    let mut breaker = opened(at(0));
    for _ in 0..10 {
        assert!(send(&mut breaker, at(5), Outcome::Neutral));
    }
    assert_eq!(breaker.phase(), Phase::HalfOpen);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Admit,
    Finish(usize, Outcome),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0u64..7000).prop_map(Step::Wait),
        3 => Just(Step::Admit),
        3 => (any::<usize>(), prop_oneof![
            1 => Just(Outcome::Success), 3 => Just(Outcome::Failure), 1 => Just(Outcome::Neutral)
        ]).prop_map(|(n, outcome)| Step::Finish(n, outcome)),
    ]
}

proptest! {
    /// Whatever happens in whatever order: no probe beyond the bound, nothing through an open breaker before its time,
    /// only the four lawful transitions, and a way back to closed from everywhere.
    #[test]
    fn r29_the_breaker_keeps_its_invariants(steps in proptest::collection::vec(step(), 0..400)) {
        let policy = Breaker { min_requests: 5, ..policy() };
        let mut breaker = CircuitBreaker::default();
        let mut now = Duration::ZERO;
        let mut out: Vec<Ticket> = Vec::new();
        let mut opened_at = None;
        for step in steps {
            let before = (breaker.phase(), breaker.generation);
            match step {
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::Admit => match breaker.admit(now) {
                    Ok(ticket) => {
                        prop_assert!(opened_at.is_none_or(|at| now >= at + policy.open));
                        out.push(ticket);
                    }
                    Err(refused) => {
                        prop_assert_ne!(breaker.phase(), Phase::Closed);
                        prop_assert!(refused.retry_after <= MAX_OPEN);
                    }
                },
                Step::Finish(n, outcome) if !out.is_empty() => {
                    let ticket = out.swap_remove(n % out.len());
                    breaker.record(now, &policy, &ticket, outcome);
                }
                Step::Finish(..) => {}
            }
            let after = (breaker.phase(), breaker.generation);
            prop_assert_eq!(after.1 - before.1, u64::from(before.0 != after.0));
            prop_assert!(matches!((before.0, after.0),
                (Phase::Closed, Phase::Closed | Phase::Open)
                | (Phase::Open, Phase::Open | Phase::HalfOpen)
                | (Phase::HalfOpen, _)));
            match (before.0, after.0) {
                (Phase::Closed | Phase::HalfOpen, Phase::Open) => opened_at = Some(now),
                (_, Phase::Closed | Phase::HalfOpen) => opened_at = None,
                _ => {}
            }
            let probing = out.iter().filter(|ticket| ticket.generation == breaker.generation).count();
            if breaker.phase() == Phase::HalfOpen {
                prop_assert!(probing <= PROBES as usize);
            }
        }
        // Those still out go away; then the destination is well again.
        for ticket in out {
            breaker.record(now, &policy, &ticket, Outcome::Neutral);
        }
        now += MAX_OPEN;
        for _ in 0..PROBES {
            if let Ok(ticket) = breaker.admit(now) {
                breaker.record(now, &policy, &ticket, Outcome::Success);
            }
        }
        prop_assert_eq!(breaker.phase(), Phase::Closed);
    }
}
