//! Guests that loop, trap, hoard and flood: their own stream is refused, the next one is served, neighbours see nothing.

use std::sync::Arc;
use std::time::Duration;

use ringwall_plugin_host::{
    Cause, Chain, Failure, FailureKind, Names, NoCallouts, OnFailure, Plugin, Refused, Worker,
};

use crate::support::*;

fn failure(refused: &Refused) -> &Failure {
    match &refused.cause {
        Cause::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// The request whose path is /evil makes the guest misbehave; every other is served.
fn on_evil(harm: &str) -> Vec<u8> {
    guest(&format!(
        r#"(data (i32.const 100) ":path")
        (func $harm {harm})
        {}"#,
        on_request(
            "(drop (call $get_header (i32.const 0) (i32.const 100) (i32.const 5) (global.get $p) (global.get $n)))
             (if (i32.eq (i32.load8_u (i32.add (i32.load (global.get $p)) (i32.const 1))) (i32.const 101))
                (then (call $harm)))"
        )
    ))
}

const HARMS: &[(&str, &str, FailureKind)] = &[
    ("loop", "(loop (br 0))", FailureKind::Timeout),
    ("trap", "(unreachable)", FailureKind::Trap),
    (
        "wild pointer",
        "(drop (i32.load (i32.const -4)))",
        FailureKind::Trap,
    ),
    ("recursion", "(call $harm)", FailureKind::StackOverflow),
    (
        "flood",
        "(loop (drop (call $get_log_level (i32.const 48))) (br 0))",
        FailureKind::HostcallFlood,
    ),
    (
        "memory bomb",
        "(loop (if (i32.eq (memory.grow (i32.const 10)) (i32.const -1)) (then (unreachable))) (br 0))",
        FailureKind::Trap,
    ),
    (
        "many empty headers",
        "(local $i i32) (loop
            (i32.store (i32.const 300) (i32.add (i32.const 0x61616161) (i32.and (local.get $i) (i32.const 0x0f0f0f))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (if (i32.ne (call $add_header (i32.const 0) (i32.const 300) (i32.const 4) (i32.const 0) (i32.const 0)) (i32.const 0)) (then (unreachable))) (br 0))",
        FailureKind::Trap,
    ),
    (
        "giant header map",
        "(loop (if (i32.ne (call $add_header (i32.const 0) (i32.const 8) (i32.const 8) (i32.const 0) (i32.const 60000)) (i32.const 0)) (then (unreachable))) (br 0))",
        FailureKind::Trap,
    ),
];

async fn evil(bed: &Bed) -> Result<http::request::Parts, Refused> {
    let mut sent = request("");
    *sent.uri_mut() = "/evil".parse().unwrap();
    bed.open()
        .request(sent)
        .await
        .map(|passed| passed.into_parts().0)
}

#[tokio::test]
async fn r91_a_failure_refuses_its_own_stream_and_the_next_one_is_served() {
    for (name, harm, kind) in HARMS {
        let bed = Bed::new(&on_evil(harm));
        for round in 1..=2 {
            let refused = evil(&bed).await.unwrap_err();
            let failure = failure(&refused).clone();
            assert_eq!(failure.kind, *kind, "{name}");
            assert_eq!(failure.callback, "proxy_on_request_headers");
            let response = refused.response.unwrap();
            assert_eq!(response.status(), 503);
            assert!(text(response.into_body()).await.contains(&*failure.id));
            assert_eq!(bed.metric("recreations_total"), round, "{name}");
            assert!(bed.get().await.is_ok(), "{name}");
        }
        assert_eq!(bed.metric("failed_closed_total"), 2);
        assert_eq!(bed.metric("instances"), 1, "{name}: the lost ones are gone");
    }
}

#[tokio::test]
async fn r91_failing_open_passes_the_stream_on_as_it_was() {
    for (name, harm, _) in HARMS {
        let mut spec = spec();
        spec.on_failure = OnFailure::Open;
        let bed = Bed::with(&on_evil(harm), spec);
        let head = evil(&bed)
            .await
            .unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
        assert_eq!(head.uri, "/evil");
        assert_eq!(bed.metric("failed_open_total"), 1, "{name}");
        assert_eq!(bed.metric("failed_closed_total"), 0);
    }
}

#[tokio::test]
async fn r91_memory_stays_below_its_cap() {
    let grown = on_request(
        "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
         (call $say (memory.size))",
    );
    let mut spec = spec();
    spec.limits.memory = 10 * 65536;
    let bed = Bed::with(&guest(&grown), spec);
    assert_eq!(bed.get().await.unwrap().headers()["x-status"], "10");
    assert_eq!(bed.metric("memory_bytes"), 655_360);
}

/// What the lost instance has written, in its first pages and in one that it has grown by, is not there.
#[tokio::test]
async fn r91_a_new_instance_sees_nothing_of_the_lost_one() {
    let body = on_request(
        "(if (i32.ne (memory.size) (i32.const 2)) (then (unreachable)))
         (if (i32.load (i32.const 100000)) (then (unreachable)))
         (drop (memory.grow (i32.const 1)))
         (if (i32.load (i32.const 140000)) (then (unreachable)))
         (i32.store (i32.const 100000) (i32.const 7))
         (i32.store (i32.const 140000) (i32.const 7))",
    );
    let bed = Bed::new(&guest(&body));
    for recreations in 0..20 {
        assert_eq!(bed.metric("recreations_total"), recreations);
        bed.get().await.unwrap();
        bed.get().await.unwrap_err(); // what the one before has left
    }
}

/// `x-a` is replaced again and again, which makes the head no longer; what would make it too long is refused, and what then
/// fits is taken.
#[tokio::test]
async fn r91_headers_stay_below_their_cap_and_a_replaced_value_frees_its_room() {
    let text = "a".repeat(900);
    let set = |function: &str, name: u32, length: u32| {
        format!(
            "(call ${function} (i32.const 0) (i32.const {name}) (i32.const 3) (i32.const 1000) (i32.const {length}))"
        )
    };
    let taken = |call: String| format!("(if (i32.ne {call} (i32.const 0)) (then (unreachable)))");
    let steps = [
        taken(set("set_header", 200, 300)).repeat(20),
        format!(
            "(if (i32.eqz {}) (then (unreachable)))",
            set("add_header", 204, 900)
        ),
        taken(set("add_header", 204, 300)),
        format!(
            "(if (i32.eqz {}) (then (unreachable)))",
            set("add_header", 204, 400)
        ),
    ];
    let body = format!(
        r#"(data (i32.const 200) "x-a") (data (i32.const 204) "x-b") (data (i32.const 1000) "{text}") {}"#,
        on_request(&steps.concat())
    );
    let mut spec = spec();
    spec.limits.header_bytes = 1000;
    let bed = Bed::with(&guest(&body), spec);
    let passed = bed.get().await.unwrap();
    assert_eq!(passed.headers()["x-a"].len(), 300);
    assert_eq!(passed.headers()["x-b"].len(), 300);
}

#[tokio::test]
async fn r91_a_lost_instance_takes_its_streams_and_no_others() {
    // One stream is paused in the instance that another one destroys; a third, in another plugin, goes on.
    let body = r#"(global $count (mut i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (if (i32.eq (global.get $count) (i32.const 2)) (then (unreachable)))
            (i32.const 1))"#;
    let bed = Bed::new(&guest(body));
    let stream = bed.open();
    let waiting = tokio::spawn(async move { stream.request(request("")).await.map(|_| ()) });
    tokio::task::yield_now().await;
    let mut neighbour = spec();
    neighbour.name = Arc::from("neighbour");
    let neighbour = Plugin::new(&load(&bed.runtime, &guest(&on_request(""))), neighbour).unwrap();
    let other = bed.worker.open(&Chain::new([neighbour]), info());
    let other_request = other.request(request("")).await.unwrap();
    let refused = bed.get().await.unwrap_err();
    let first = failure(&refused).id.clone();
    let waiting = waiting.await.unwrap().unwrap_err();
    assert_eq!(failure(&waiting).id, first);
    assert_eq!(text(other_request.into_body()).await, "");
    assert!(other.response(response("x")).await.is_ok());
    assert_eq!(bed.metric("recreations_total"), 1);
}

#[tokio::test]
async fn r91_a_response_does_not_pass_a_plugin_that_was_lost_meanwhile() {
    for on_failure in [OnFailure::Closed, OnFailure::Open] {
        let mut spec = spec();
        spec.on_failure = on_failure;
        let bed = Bed::with(&on_evil("(unreachable)"), spec);
        let stream = bed.open();
        stream.request(request("")).await.unwrap();
        let lost = evil(&bed).await;
        match (stream.response(response("secret")).await, on_failure) {
            (Ok(passed), OnFailure::Open) => assert_eq!(text(passed.into_body()).await, "secret"),
            (Err(refused), OnFailure::Closed) => {
                assert_eq!(failure(&refused).id, failure(&lost.unwrap_err()).id);
                assert_eq!(refused.response.unwrap().status(), 503);
            }
            (other, _) => panic!("{on_failure:?}: {other:?}"),
        }
    }
}

/// Each callback, the request it needs, and whether the stream itself notices.
const CALLBACKS: &[(&str, &str, bool)] = &[
    (
        "proxy_on_context_create",
        "(param $id i32) (param $root i32)",
        true,
    ),
    (
        "proxy_on_request_headers",
        "(param i32 i32 i32) (result i32)",
        true,
    ),
    (
        "proxy_on_request_body",
        "(param i32 i32 i32) (result i32)",
        true,
    ),
    (
        "proxy_on_request_trailers",
        "(param i32 i32) (result i32)",
        false,
    ),
    (
        "proxy_on_response_headers",
        "(param i32 i32 i32) (result i32)",
        true,
    ),
    (
        "proxy_on_response_body",
        "(param i32 i32 i32) (result i32)",
        true,
    ),
    ("proxy_on_done", "(param i32) (result i32)", false),
    ("proxy_on_log", "(param i32)", false),
    ("proxy_on_delete", "(param i32)", false),
];

async fn whole_exchange(bed: &Bed) -> bool {
    let stream = bed.open();
    let Ok(passed) = stream.request(request("abc")).await else {
        return false;
    };
    if http_body_util::BodyExt::collect(passed.into_body())
        .await
        .is_err()
    {
        return false;
    }
    let Ok(passed) = stream.response(response("def")).await else {
        return false;
    };
    http_body_util::BodyExt::collect(passed.into_body())
        .await
        .is_ok()
}

#[tokio::test]
async fn r91_every_callback_may_trap_or_loop() {
    for (callback, signature, is_noticed) in CALLBACKS {
        for harm in ["(unreachable)", "(loop (br 0))"] {
            // The plugin's own context is made without harm: the guest could not start.
            let guard = match *callback {
                "proxy_on_context_create" => "(if (i32.eqz (local.get $root)) (then (return)))",
                _ => "",
            };
            let body =
                format!("(func (export \"{callback}\") {signature} {guard} {harm} (unreachable))");
            let bed = Bed::new(&guest(&body));
            for _ in 0..2 {
                assert_eq!(whole_exchange(&bed).await, !is_noticed, "{callback} {harm}");
            }
            let lost = bed.metric("traps_total") + bed.metric("timeouts_total");
            let expected = if *callback == "proxy_on_request_trailers" {
                0
            } else {
                2
            };
            assert_eq!(lost, expected, "{callback} {harm}");
            assert_eq!(bed.metric("recreations_total"), expected);
        }
    }
}

#[tokio::test]
async fn r91_a_plugin_that_cannot_start_any_more_is_unavailable() {
    // Configures once for the trial, once for the worker; then a shared mark makes it refuse.
    let body = r#"(data (i32.const 100) "mark")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (i32.ne (call $get_data (i32.const 100) (i32.const 4) (global.get $p) (global.get $n) (i32.const 56)) (i32.const 0)))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $set_data (i32.const 100) (i32.const 4) (i32.const 100) (i32.const 4) (i32.const 0)))
            (unreachable))"#;
    for on_failure in [OnFailure::Closed, OnFailure::Open] {
        let mut spec = spec();
        spec.on_failure = on_failure;
        let bed = Bed::with(&guest(body), spec);
        let first = bed.get().await;
        assert_eq!(first.is_ok(), on_failure == OnFailure::Open);
        drop(first);
        let second = bed.get().await;
        match on_failure {
            OnFailure::Open => drop(second.unwrap()),
            OnFailure::Closed => {
                let refused = second.unwrap_err();
                assert_eq!(failure(&refused).kind, FailureKind::Unavailable);
                assert_eq!(refused.response.unwrap().status(), 503);
            }
        }
        assert_eq!(bed.metric("instances"), 0);
    }
}

/// What a plugin answers to requests one after the other, until it is left alone; then what it has lost until then.
async fn until_left_alone(bed: &Bed) -> u64 {
    for lost in 0..1000 {
        let refused = bed.get().await.unwrap_err();
        if failure(&refused).kind == FailureKind::Unavailable {
            return lost;
        }
    }
    panic!("it is never left alone");
}

#[tokio::test]
async fn r91_a_plugin_whose_starts_are_costly_is_not_started_for_every_request() {
    // Its configuration takes more than 20 ms of work; then every request is a trap.
    let body = format!(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (local $i i64)
            (loop (local.set $i (i64.add (local.get $i) (i64.const 1))) (br_if 0 (i64.lt_u (local.get $i) (i64.const 300000000))))
            (i32.const 1)){}"#,
        on_request("(unreachable)")
    );
    let mut spec = spec();
    spec.limits.start_time = Duration::from_secs(60);
    let bed = Bed::with(&guest(&body), spec);
    let lost = until_left_alone(&bed).await;
    assert!((1..=5).contains(&lost), "{lost}");
    assert_eq!(bed.metric("recreations_total"), lost - 1);
}

#[tokio::test]
async fn r91_a_plugin_that_loops_for_every_request_is_left_alone() {
    let bed = Bed::new(&guest(&on_request("(loop (br 0))")));
    let lost = until_left_alone(&bed).await;
    // A hundred milliseconds for all of them, ten for each; on a busy machine a tick may come late.
    assert!((2..=12).contains(&lost), "{lost}");
    assert_eq!(bed.metric("timeouts_total"), lost);
    assert_eq!(bed.metric("failed_closed_total"), lost + 1);
}

#[tokio::test]
async fn r91_log_lines_are_limited_in_rate() {
    let body = on_request(
        "(local $i i32) (loop
            (drop (call $log (i32.const 2) (i32.const 8) (i32.const 8)))
            (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50))))",
    );
    let mut spec = spec();
    spec.limits.log_lines_per_second = 10;
    let bed = Bed::with(&guest(&body), spec);
    bed.get().await.unwrap();
    // A second may have passed in between, on a very slow machine: then ten more are let through.
    let dropped = bed.metric("log_lines_dropped_total");
    assert!(dropped == 40 || dropped == 30, "{dropped}");
}

#[tokio::test]
async fn r91_many_failures_leave_nothing_behind() {
    let bed = Bed::new(&guest(&on_request("(unreachable)")));
    for _ in 0..300 {
        assert!(bed.get().await.is_err());
    }
    assert_eq!(bed.metric("recreations_total"), 300);
    assert_eq!(bed.metric("instances"), 1);
    assert_eq!(bed.metric("memory_bytes"), 131_072);
}

#[test]
fn r91_a_loop_in_one_worker_does_not_stop_another() {
    let runtime = runtime();
    let evil = load(&runtime, &guest(&on_request("(loop (br 0))")));
    let good = load(&runtime, &guest(&on_request("(call $say (i32.const 7))")));
    let mut long = spec();
    long.limits.callback_time = Duration::from_millis(300);
    let evil = Plugin::new(&evil, long).unwrap();
    let mut named = spec();
    named.name = Arc::from("good");
    let good = Plugin::new(&good, named).unwrap();
    let serve = |plugin: Arc<Plugin>| {
        let runtime = runtime.clone();
        std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio.block_on(async {
                let worker = Worker::new(&runtime, Arc::new(NoCallouts));
                let chain = Chain::new([plugin]);
                let passed = worker.open(&chain, info()).request(request("")).await;
                passed.is_ok()
            })
        })
    };
    let looping = serve(evil);
    let served = serve(good).join().unwrap();
    assert!(served);
    assert!(!looping.join().unwrap());
}

/// What an observer is told.
#[derive(Default)]
struct Seen(parking_lot::Mutex<Vec<String>>);

impl ringwall_plugin_host::Observer for Seen {
    fn hostcall(&self, plugin: &str, name: &'static str, status: Option<u32>) {
        self.0.lock().push(format!("{plugin} {name} {status:?}"));
    }

    fn refused(&self, plugin: &str, what: &str) {
        self.0.lock().push(format!("{plugin} refused: {what}"));
    }

    fn callback(&self, _: &str, callback: &ringwall_plugin_host::Callback) {
        assert!(!callback.took.is_zero() && !callback.used.is_zero());
        let ringwall_plugin_host::Callback {
            name,
            hostcalls,
            memory,
            ..
        } = callback;
        self.0.lock().push(format!("{name} {hostcalls} {memory}"));
    }

    fn log(&self, _: &str, level: ringwall_plugin_host::LogLevel, line: &str) {
        self.0.lock().push(format!("{level:?} {line}"));
    }
}

#[tokio::test]
async fn r93_an_observer_sees_callbacks_host_calls_and_lines() {
    let runtime = runtime();
    let seen = Arc::new(Seen::default());
    let observer: Arc<dyn ringwall_plugin_host::Observer> = seen.clone();
    let worker = Worker::observed(&runtime, Arc::new(NoCallouts), Some(observer));
    let body = on_request("(drop (call $log (i32.const 3) (i32.const 8) (i32.const 8)))");
    let plugin = Plugin::new(&load(&runtime, &guest(&body)), spec()).unwrap();
    let stream = worker.open(&Chain::new([plugin]), info());
    stream.request(request("")).await.unwrap();
    let expected = [
        "Warn x-status",
        "p proxy_log Some(0)",
        "proxy_on_request_headers 1 131072",
    ];
    assert_eq!(*seen.0.lock(), expected);
}

#[tokio::test]
async fn r93_an_observer_is_told_of_a_refusal_before_its_host_call() {
    let runtime = runtime();
    let seen = Arc::new(Seen::default());
    let observer: Arc<dyn ringwall_plugin_host::Observer> = seen.clone();
    let worker = Worker::observed(&runtime, Arc::new(NoCallouts), Some(observer));
    let mut spec = spec();
    spec.capabilities.read_headers = Names::default();
    let asked = "(drop (call $get_header (i32.const 0) (i32.const 100) (i32.const 5) (global.get $p) (global.get $n)))";
    let body = format!("(data (i32.const 100) \":path\"){}", on_request(asked));
    let plugin = Plugin::new(&load(&runtime, &guest(&body)), spec).unwrap();
    let stream = worker.open(&Chain::new([plugin]), info());
    stream.request(request("")).await.unwrap();
    let expected = [
        "p refused: a header that it may not read",
        "p proxy_get_header_map_value Some(1)",
        "proxy_on_request_headers 1 131072",
    ];
    assert_eq!(*seen.0.lock(), expected);
}
