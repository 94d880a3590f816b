use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::*;
use crate::resilience::callee::Callees;
use crate::resilience::fixture::{Untold, http, known, service};
use crate::snapshot::Service;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Answers as scripted.
struct Scripted {
    script: Mutex<VecDeque<(Duration, Result<u16, Failure>)>>,
    whole: bool,
    sent: Mutex<Vec<SocketAddr>>,
    running: AtomicUsize,
    given_up: AtomicUsize,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = (Duration, Result<u16, Failure>)>) -> Self {
        Self {
            script: Mutex::new(script.into_iter().collect()),
            whole: true,
            sent: Mutex::default(),
            running: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
        }
    }
}

struct Running<'a>(&'a Scripted, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        if !self.1 {
            self.0.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Carrier for Scripted {
    type Request = ();
    type Answer = u16;
    type Error = Failure;

    fn request(&self) -> Option<()> {
        Some(())
    }

    fn can_repeat(&self) -> bool {
        self.whole
    }

    fn can_double(&self) -> bool {
        self.whole
    }

    async fn send(&self, endpoint: &Arc<Endpoint>, (): ()) -> Result<u16, Fault<Failure>> {
        self.sent.lock().push(endpoint.address);
        self.running.fetch_add(1, Ordering::Relaxed);
        let mut running = Running(self, false);
        let (takes, result) = self.script.lock().pop_front().expect("one more attempt");
        sleep(takes).await;
        running.1 = true;
        result.map_err(|failure| Fault {
            failure,
            outcome: Outcome::Failure,
            error: failure,
        })
    }

    fn judge(&self, answer: &u16) -> Judgement {
        let outcome = if matches!(answer, 502..=504) {
            Outcome::Failure
        } else {
            Outcome::Success
        };
        Judgement {
            status: *answer,
            outcome,
        }
    }
}

struct Bench {
    service: Arc<Service>,
    callee: Arc<Callee>,
    random: Random,
    progress: Progress,
}

impl Bench {
    fn new(edit: impl FnOnce(&mut Service)) -> Self {
        let addresses: Vec<SocketAddr> =
            (0..3).map(|n| ([127, 0, 0, 1], 9000 + n).into()).collect();
        let mut made = service("inventory", http(7106), &addresses);
        edit(&mut made);
        let (snapshot, service) = known(1, made);
        let callees = Callees::new("a", Arc::new(Untold));
        let callee = callees.of(&snapshot, &service, 7106);
        Self {
            service,
            callee,
            random: Random::seeded(5),
            progress: Progress::default(),
        }
    }

    async fn call(
        &mut self,
        carrier: &Scripted,
        method: &Method,
        asked: Option<Duration>,
    ) -> Result<u16, Stopped<Failure>> {
        let rules = Rules::of(&self.service.traffic, method, "/");
        let plan = Plan {
            callee: &self.callee,
            random: &self.random,
            rules,
            deadline: Deadline::new(self.callee.now(), rules.timeout, asked),
            idempotent: retry::is_idempotent(method),
        };
        self.progress = Progress::default();
        let answer = run(&plan, carrier, &mut self.progress).await;
        answer.map(|(status, _)| status)
    }
}

#[tokio::test(start_paused = true)]
async fn r30_what_nobody_has_seen_is_sent_again_elsewhere() {
    let carrier = Scripted::new([(ms(1), Err(Failure::Unseen)), (ms(1), Ok(201))]);
    let mut bench = Bench::new(|_| {});
    let answer = bench.call(&carrier, &Method::POST, None).await;
    assert_eq!(answer, Ok(201));
    assert_eq!(bench.progress.attempts, 2);
    assert_eq!(bench.callee.tally().retries.get(), 1);
    let sent = carrier.sent.lock().clone();
    assert_ne!(sent[0], sent[1]);
}

#[tokio::test(start_paused = true)]
async fn r30_what_may_have_been_seen_is_not_sent_again_unless_idempotent() {
    let lost = || Scripted::new([(ms(1), Err(Failure::Lost)), (ms(1), Ok(200))]);
    let mut bench = Bench::new(|_| {});
    let answer = bench.call(&lost(), &Method::POST, None).await;
    assert_eq!(answer, Err(Stopped::Failed(Failure::Lost)));
    assert_eq!(bench.call(&lost(), &Method::PUT, None).await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn r30_a_listed_status_is_retried_and_the_last_answer_is_the_callers() {
    let carrier = Scripted::new([(ms(1), Ok(503)), (ms(1), Ok(502)), (ms(1), Ok(200))]);
    let mut bench = Bench::new(|_| {});
    assert_eq!(bench.call(&carrier, &Method::GET, None).await, Ok(502));
    assert_eq!(bench.progress.attempts, 2);
    let carrier = Scripted::new([(ms(1), Ok(503)), (ms(1), Ok(200))]);
    assert_eq!(bench.call(&carrier, &Method::POST, None).await, Ok(503));
    let carrier = Scripted::new([(ms(1), Ok(500)), (ms(1), Ok(200))]);
    assert_eq!(bench.call(&carrier, &Method::GET, None).await, Ok(500));
}

#[tokio::test(start_paused = true)]
async fn r30_a_message_that_is_gone_is_not_sent_again() {
    let mut carrier = Scripted::new([(ms(1), Err(Failure::Unseen)), (ms(1), Ok(200))]);
    carrier.whole = false;
    let mut bench = Bench::new(|_| {});
    let answer = bench.call(&carrier, &Method::GET, None).await;
    assert_eq!(answer, Err(Stopped::Failed(Failure::Unseen)));
    assert_eq!(bench.progress.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn r30_a_peer_that_goes_costs_neither_attempts_nor_budget() {
    let mut bench = Bench::new(|service| {
        service.traffic.retries.attempts = 0;
        service.traffic.retries.budget_permille = 0;
        service.traffic.retries.budget_floor = 0;
        // The script blames the endpoint, as a real departure does not.
        service.traffic.outlier.max_ejected_percent = 0;
        service.traffic.breaker.failure_permille = 1001;
    });
    for _ in 0..20 {
        let carrier = Scripted::new([(ms(0), Err(Failure::Leaving)), (ms(0), Ok(200))]);
        let answer = bench.call(&carrier, &Method::POST, None).await;
        assert_eq!(answer, Ok(200));
    }
    let leaving = || (ms(0), Err(Failure::Leaving));
    let carrier = Scripted::new([leaving(), leaving(), (ms(0), Ok(200))]);
    let answer = bench.call(&carrier, &Method::POST, None).await;
    assert_eq!(
        answer,
        Err(Stopped::Failed(Failure::Leaving)),
        "once is enough"
    );
    let mut gone = Scripted::new([leaving(), (ms(0), Ok(200))]);
    gone.whole = false;
    let answer = bench.call(&gone, &Method::POST, None).await;
    assert_eq!(answer, Err(Stopped::Failed(Failure::Leaving)));
}

#[tokio::test(start_paused = true)]
async fn r30_without_budget_there_is_no_retry() {
    let mut bench = Bench::new(|service| {
        service.traffic.retries.budget_permille = 0;
        service.traffic.retries.budget_floor = 2;
        service.traffic.outlier.max_ejected_percent = 0;
        service.traffic.breaker.failure_permille = 1001;
    });
    let mut attempts = 0;
    for _ in 0..20 {
        let script = [(ms(0), Err(Failure::Unseen)), (ms(0), Err(Failure::Unseen))];
        let carrier = Scripted::new(script);
        let answer = bench.call(&carrier, &Method::GET, None).await;
        assert!(answer.is_err());
        attempts += bench.progress.attempts;
        // The pauses are the only time that passes.
    }
    let seconds = u32::try_from(bench.callee.now().as_secs()).unwrap();
    assert!(attempts <= 20 + 2 + 2 * (seconds + 1), "{attempts}");
    assert!(bench.callee.tally().exhausted.get() >= 15);
}

#[tokio::test(start_paused = true)]
async fn r30_each_attempt_has_its_share_and_all_have_the_deadline() {
    let mut bench = Bench::new(|service| {
        service.traffic.timeout = ms(1000);
        service.traffic.retries.per_try_timeout = Some(ms(300));
        service.traffic.retries.attempts = 10;
        service.traffic.retries.budget_permille = 10_000;
    });
    let slow = || Scripted::new((0..11).map(|_| (ms(5000), Ok(200))));
    let began = Instant::now();
    let carrier = slow();
    let answer = bench.call(&carrier, &Method::GET, None).await;
    assert_eq!(answer, Err(Stopped::Timeout));
    assert!(began.elapsed() <= ms(1001), "{:?}", began.elapsed());
    assert!((3..=5).contains(&bench.progress.attempts));
    assert_eq!(carrier.running.load(Ordering::Relaxed), 0);
    // A request that may have been seen has one attempt, and with it the share of one.
    let began = Instant::now();
    assert!(bench.call(&slow(), &Method::POST, None).await.is_err());
    assert!(began.elapsed() <= ms(301));
}

#[tokio::test(start_paused = true)]
async fn r30_a_caller_in_a_hurry_gets_no_answer_and_blames_nobody() {
    let mut bench = Bench::new(|_| {});
    for _ in 0..100 {
        let carrier = Scripted::new([(ms(50), Ok(200)), (ms(50), Ok(200))]);
        let began = Instant::now();
        let answer = bench.call(&carrier, &Method::GET, Some(ms(10))).await;
        assert_eq!(answer, Err(Stopped::Timeout));
        assert!(began.elapsed() <= ms(11));
        assert_eq!(bench.progress.attempts, 1);
    }
    assert_eq!(bench.callee.tally().ejections.get(), 0);
    assert_eq!(bench.callee.tally().opened.get(), 0);
    // The policy's own timeout does count against the service.
    for _ in 0..20 {
        let carrier = Scripted::new([(ms(60_000), Ok(200))]);
        let _timeout = bench.call(&carrier, &Method::POST, None).await;
    }
    assert!(bench.callee.tally().ejections.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn r30_a_deadline_that_has_passed_sends_nothing() {
    let carrier = Scripted::new([]);
    let mut bench = Bench::new(|_| {});
    let answer = bench
        .call(&carrier, &Method::GET, Some(Duration::ZERO))
        .await;
    assert_eq!(answer, Err(Stopped::Timeout));
}

#[tokio::test(start_paused = true)]
async fn r30_a_hedge_is_off_by_default_and_answers_for_a_slow_first() {
    let slow = || Scripted::new([(ms(400), Ok(200)), (ms(10), Ok(201))]);
    let mut bench = Bench::new(|_| {});
    assert_eq!(bench.call(&slow(), &Method::GET, None).await, Ok(200));
    assert_eq!(bench.progress.attempts, 1);
    let mut bench = Bench::new(|service| service.traffic.hedge = Some(ms(50)));
    let carrier = slow();
    let began = Instant::now();
    assert_eq!(bench.call(&carrier, &Method::GET, None).await, Ok(201));
    assert!(began.elapsed() <= ms(61), "{:?}", began.elapsed());
    assert_eq!(bench.progress.attempts, 2);
    assert_eq!(bench.callee.tally().hedges.get(), 1);
    assert_eq!(
        carrier.given_up.load(Ordering::Relaxed),
        1,
        "the loser is cancelled"
    );
    let sent = carrier.sent.lock().clone();
    assert_ne!(sent[0], sent[1]);
    // Never for what is not idempotent.
    assert_eq!(bench.call(&slow(), &Method::POST, None).await, Ok(200));
    assert_eq!(bench.progress.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn r30_a_hedge_that_fails_leaves_the_first_its_time() {
    let mut bench = Bench::new(|service| service.traffic.hedge = Some(ms(50)));
    let carrier = Scripted::new([(ms(400), Ok(200)), (ms(10), Err(Failure::Unseen))]);
    assert_eq!(bench.call(&carrier, &Method::GET, None).await, Ok(200));
    let carrier = Scripted::new([(ms(60), Ok(503)), (ms(100), Ok(200))]);
    assert_eq!(bench.call(&carrier, &Method::GET, None).await, Ok(200));
    assert_eq!(bench.progress.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn r30_hedges_are_paid_from_the_budget() {
    let mut bench = Bench::new(|service| {
        service.traffic.hedge = Some(ms(50));
        service.traffic.retries.budget_permille = 0;
        service.traffic.retries.budget_floor = 0;
    });
    let carrier = Scripted::new([(ms(400), Ok(200))]);
    assert_eq!(bench.call(&carrier, &Method::GET, None).await, Ok(200));
    assert_eq!(bench.progress.attempts, 1);
    assert_eq!(bench.callee.tally().exhausted.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn r29_an_open_circuit_is_told_to_the_caller_at_once() {
    let mut bench = Bench::new(|_| {});
    for _ in 0..20 {
        let carrier = Scripted::new([(ms(0), Err(Failure::Lost))]);
        let _failed = bench.call(&carrier, &Method::POST, None).await;
    }
    let carrier = Scripted::new([]);
    let answer = bench.call(&carrier, &Method::GET, None).await;
    let Err(Stopped::Open { retry_after }) = answer else {
        panic!("{answer:?}");
    };
    assert!(retry_after <= Duration::from_secs(5));
    assert_eq!(bench.progress.attempts, 0);
}
