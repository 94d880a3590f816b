//! Balancer, breaker and retries over a simulated network, with its own clock: partitions, dead nodes and slow ones.
//!
//! Each node answers a number with one byte. The client keeps a steady rate, and a schedule breaks the network under it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use turmoil::net::{TcpListener, TcpStream};

use super::*;
use crate::resilience::callee::Callees;
use crate::resilience::fixture::{Untold, http, known, service};
use crate::snapshot::TrafficPolicy;

const PORT: u16 = 7106;
const NODES: [&str; 3] = ["one", "two", "three"];
/// Between two requests.
const RATE: Duration = Duration::from_millis(20);

/// What the servers saw, over their crashes.
#[derive(Default)]
struct Seen {
    numbers: Mutex<HashMap<u64, u32>>,
    by_node: Mutex<HashMap<&'static str, Vec<Duration>>>,
    delay: Mutex<HashMap<&'static str, Duration>>,
}

/// How each request of the client ended.
#[derive(Default)]
struct Told {
    calls: Mutex<Vec<Call>>,
    retries: AtomicU64,
    opened: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    at: Duration,
    number: u64,
    idempotent: bool,
    attempts: u32,
    result: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Answered,
    /// Failed where the node may have seen it.
    Lost,
    Unseen,
    Timeout,
    Open,
    Other,
}

async fn serve(node: &'static str, seen: Arc<Seen>) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let Ok(number) = stream.read_u64().await else {
                return;
            };
            *seen.numbers.lock().entry(number).or_default() += 1;
            let now = turmoil::sim_elapsed().unwrap_or_default();
            seen.by_node.lock().entry(node).or_default().push(now);
            let delay = seen.delay.lock().get(node).copied();
            sleep(delay.unwrap_or(Duration::from_millis(5))).await;
            let _gone = stream.write_u8(b'.').await;
        });
    }
}

struct Wire(u64);

impl Carrier for Wire {
    type Request = u64;
    type Answer = ();
    type Error = Failure;

    fn request(&self) -> Option<u64> {
        Some(self.0)
    }

    fn can_repeat(&self) -> bool {
        true
    }

    fn can_double(&self) -> bool {
        true
    }

    async fn send(&self, endpoint: &Arc<Endpoint>, number: u64) -> Result<(), Fault<Failure>> {
        let fault = |failure| Fault {
            failure,
            outcome: Outcome::Failure,
            error: failure,
        };
        let connect = TcpStream::connect(endpoint.address);
        let connected = timeout(Duration::from_millis(200), connect).await;
        let Ok(Ok(mut stream)) = connected else {
            return Err(fault(Failure::Unseen));
        };
        let exchange = async {
            stream.write_u64(number).await?;
            stream.read_u8().await
        };
        exchange.await.map(|_| ()).map_err(|_| fault(Failure::Lost))
    }

    fn judge(&self, (): &()) -> Judgement {
        Judgement {
            status: 200,
            outcome: Outcome::Success,
        }
    }
}

async fn call(callee: &Arc<Callee>, traffic: &TrafficPolicy, random: &Random, number: u64) -> Call {
    let method = if number.is_multiple_of(2) {
        Method::GET
    } else {
        Method::POST
    };
    let rules = Rules::of(traffic, &method, "/");
    let plan = Plan {
        callee,
        random,
        rules,
        deadline: Deadline::new(callee.now(), rules.timeout, None),
        idempotent: retry::is_idempotent(&method),
    };
    let at = turmoil::sim_elapsed().unwrap_or_default();
    let mut progress = Progress::default();
    let _entered = callee.enter();
    let result = match run(&plan, &Wire(number), &mut progress).await {
        Ok(_) => Ending::Answered,
        Err(Stopped::Failed(Failure::Lost)) => Ending::Lost,
        Err(Stopped::Failed(Failure::Unseen)) => Ending::Unseen,
        Err(Stopped::Timeout) => Ending::Timeout,
        Err(Stopped::Open { .. }) => Ending::Open,
        Err(_) => Ending::Other,
    };
    Call {
        at,
        number,
        idempotent: plan.idempotent,
        attempts: progress.attempts,
        result,
    }
}

async fn client(traffic: TrafficPolicy, seed: u64, calls: u64, told: Arc<Told>) -> turmoil::Result {
    let addresses = NODES.map(|node| {
        let ip: IpAddr = turmoil::lookup(node);
        (ip, PORT).into()
    });
    let mut made = service("inventory", http(PORT), &addresses);
    made.traffic = traffic;
    let (snapshot, service) = known(1, made);
    let callees = Callees::new("a", Arc::new(Untold));
    let callee = callees.of(&snapshot, &service, PORT);
    let random = Arc::new(Random::seeded(seed));
    let mut running = tokio::task::JoinSet::new();
    for number in 0..calls {
        let (callee, service, random) = (
            Arc::clone(&callee),
            Arc::clone(&service),
            Arc::clone(&random),
        );
        let told = Arc::clone(&told);
        running.spawn(async move {
            let call = call(&callee, &service.traffic, &random, number).await;
            told.calls.lock().push(call);
        });
        sleep(RATE).await;
    }
    while running.join_next().await.is_some() {}
    told.retries
        .store(callee.tally().retries.get(), Ordering::Relaxed);
    told.opened
        .store(callee.tally().opened.get(), Ordering::Relaxed);
    assert_eq!(callee.tally().in_flight.get(), 0);
    Ok(())
}

/// What happens to the network.
type Event = Box<dyn Fn(&mut turmoil::Sim<'_>, &Seen)>;

/// Runs `calls` requests, with `faults` at their times.
fn simulate(
    seed: u64,
    traffic: TrafficPolicy,
    calls: u64,
    faults: Vec<(Duration, Event)>,
) -> (Arc<Seen>, Arc<Told>) {
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(600))
        .rng_seed(seed)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(3))
        .build();
    let (seen, told) = (Arc::new(Seen::default()), Arc::new(Told::default()));
    for node in NODES {
        let seen = Arc::clone(&seen);
        sim.host(node, move || serve(node, Arc::clone(&seen)));
    }
    sim.client("caller", client(traffic, seed, calls, Arc::clone(&told)));
    let mut faults = faults.into_iter().peekable();
    loop {
        while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= sim.elapsed()) {
            fault(&mut sim, &seen);
        }
        if sim.step().expect("the simulation runs") {
            return (seen, told);
        }
    }
}

fn traffic() -> TrafficPolicy {
    let mut traffic = crate::resilience::fixture::traffic();
    traffic.timeout = Duration::from_secs(3);
    traffic.retries.per_try_timeout = Some(Duration::from_millis(500));
    traffic
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn r30_no_request_is_lost_that_policy_says_to_retry() {
    for seed in 0..3 {
        let mut traffic = traffic();
        // One of three nodes fails: the budget is not what this is about.
        traffic.retries.budget_permille = 1000;
        traffic.retries.attempts = 2;
        let (seen, told) = simulate(
            seed,
            traffic,
            2_000,
            vec![
                (s(5), Box::new(|sim, _| sim.partition("caller", "two"))),
                (s(12), Box::new(|sim, _| sim.repair("caller", "two"))),
                (s(15), Box::new(|sim, _| sim.crash("three"))),
                (s(22), Box::new(|sim, _| sim.bounce("three"))),
                (
                    s(25),
                    Box::new(|_, seen| {
                        seen.delay.lock().insert("one", s(60));
                    }),
                ),
                (
                    s(30),
                    Box::new(|_, seen| {
                        seen.delay.lock().clear();
                    }),
                ),
            ],
        );
        let calls = told.calls.lock();
        assert_eq!(calls.len(), 2_000);
        for call in calls.iter() {
            match call.result {
                Ending::Answered => {}
                // What may have been seen is lost with its connection, or its time, where it is not idempotent.
                Ending::Lost | Ending::Timeout => assert!(!call.idempotent, "{call:?}"),
                _ => panic!("{call:?} of seed {seed}"),
            }
            let times = seen.numbers.lock().get(&call.number).copied();
            if !call.idempotent {
                assert!(times.unwrap_or(0) <= 1, "{call:?} was sent {times:?} times");
            }
        }
        let retried = calls.iter().filter(|call| call.attempts > 1).count();
        assert!(retried >= 3, "{retried}: the faults were met");
        // The dead and the slow are found out: few requests ever meet them.
        let failed = calls
            .iter()
            .filter(|c| c.result != Ending::Answered)
            .count();
        assert!(failed <= 60, "{failed}");
    }
}

#[test]
fn r30_the_budget_holds_while_everything_fails() {
    let mut traffic = traffic();
    traffic.breaker.failure_permille = 1001;
    traffic.retries.attempts = 5;
    let all_dead: Event = Box::new(|sim, _| {
        for node in NODES {
            sim.crash(node);
        }
    });
    let (_, told) = simulate(7, traffic, 1_500, vec![(s(5), all_dead)]);
    let calls = told.calls.lock();
    let failed = calls
        .iter()
        .filter(|c| c.result != Ending::Answered)
        .count();
    assert!(failed > 1_000, "{failed}");
    // A fifth of 1,500, and three a second for the half minute that it took.
    let retries = told.retries.load(Ordering::Relaxed);
    assert!((100..=300 + 3 * 40).contains(&retries), "{retries}");
}

#[test]
fn r29_the_breaker_opens_and_recovers() {
    for seed in 0..3 {
        let dead: Event = Box::new(|sim, _| {
            for node in NODES {
                sim.partition("caller", node);
            }
        });
        let well: Event = Box::new(|sim, _| {
            for node in NODES {
                sim.repair("caller", node);
            }
        });
        let (_, told) = simulate(seed, traffic(), 3_000, vec![(s(10), dead), (s(30), well)]);
        let calls = told.calls.lock();
        let share = |from: u64, to: u64, ending: Ending| {
            let within = calls.iter().filter(|c| c.at >= s(from) && c.at < s(to));
            let (mut all, mut such) = (0, 0);
            for call in within {
                all += 1;
                such += u32::from(call.result == ending);
            }
            f64::from(such) / f64::from(all)
        };
        assert!(share(0, 9, Ending::Answered) > 0.999);
        // While nothing answers, callers are told at once, but for the probes.
        assert!(
            share(13, 30, Ending::Open) > 0.97,
            "{}",
            share(13, 30, Ending::Open)
        );
        // It opens again after each failed round of probes, for longer; and closes soon after the end of the outage.
        assert!((2..=6).contains(&told.opened.load(Ordering::Relaxed)));
        assert!(share(52, 62, Ending::Answered) > 0.999);
    }
}

#[test]
fn r30_a_slow_node_gets_little_and_is_not_forgotten() {
    let slow: Event = Box::new(|_, seen| {
        seen.delay.lock().insert("two", Duration::from_millis(100));
    });
    let (seen, told) = simulate(3, traffic(), 3_000, vec![(Duration::ZERO, slow)]);
    let calls = told.calls.lock();
    assert!(calls.iter().all(|call| call.result == Ending::Answered));
    let by_node = seen.by_node.lock();
    let share = by_node["two"].len() as f64 / 3_000.0;
    assert!(share < 0.1, "{share}");
    assert!(by_node["two"].len() > 1);
}
