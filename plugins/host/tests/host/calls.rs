//! Calls of plugins: HTTP, gRPC, their limits; queues and what resumes a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use ringwall_plugin_host::{
    BoxError, CalloutBody, CalloutFuture, Callouts, Chain, HttpStream, Names, Plugin, PluginSpec,
    Runtime, Worker,
};

use crate::support::*;

/// The clusters of the tests: what they answer depends on their name.
struct Clusters;

fn body(frames: Vec<Frame<Bytes>>) -> CalloutBody {
    let frames = frames.into_iter().map(Ok::<_, BoxError>);
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    for (key, value) in pairs {
        map.insert(*key, value.parse().unwrap());
    }
    Frame::trailers(map)
}

fn grpc(frames: Vec<Frame<Bytes>>) -> Response<CalloutBody> {
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(body(frames)).unwrap()
}

impl Callouts for Clusters {
    fn knows(&self, cluster: &str) -> bool {
        cluster != "unknown"
    }

    fn send(&self, cluster: &str, request: Request<CalloutBody>) -> CalloutFuture {
        let cluster = cluster.to_owned();
        Box::pin(async move {
            let (head, sent) = request.into_parts();
            match &*cluster {
                // 42 bytes, a header and a trailer.
                "echo" => {
                    assert_eq!(head.uri, "http://auth.example/check");
                    let sent = sent.collect().await?.to_bytes();
                    let answer = Response::builder().status(200).header("x-len", sent.len());
                    Ok(answer.body(body(vec![
                        Frame::data(Bytes::from(vec![b'a'; 42])),
                        trailers(&[("x-t", "1")]),
                    ]))?)
                }
                "never" => std::future::pending().await,
                "large" => Ok(Response::new(body(vec![Frame::data(
                    vec![0; 2 << 20].into(),
                )]))),
                "grpc" => {
                    assert_eq!(head.uri.path(), "/pkg.Svc/Do");
                    let sent = sent.collect().await?.to_bytes();
                    Ok(grpc(vec![
                        Frame::data(sent),
                        trailers(&[("grpc-status", "0")]),
                    ]))
                }
                "denied" => Ok(grpc(vec![trailers(&[
                    ("grpc-status", "7"),
                    ("grpc-message", "no"),
                ])])),
                _ => Err("broken".into()),
            }
        })
    }
}

struct Lab {
    runtime: Runtime,
    worker: Worker,
    chain: Chain,
}

impl Lab {
    fn new(body: &str, spec: PluginSpec) -> Self {
        let runtime = runtime();
        let worker = Worker::new(&runtime, Arc::new(Clusters));
        let plugin = Plugin::new(&load(&runtime, &guest(body)), spec).unwrap();
        Self {
            runtime,
            worker,
            chain: Chain::new([plugin]),
        }
    }

    fn open(&self) -> HttpStream {
        self.worker.open(&self.chain, info())
    }

    async fn said(&self) -> String {
        let request = self.open().request(request("")).await.unwrap();
        request.headers()["x-status"].to_str().unwrap().to_owned()
    }
}

/// Calls `cluster` in the request's headers and pauses; the answer resumes, with what `answered` says in the stream.
fn caller(cluster: &str, timeout: u32, answered: &str) -> String {
    let length = cluster.len();
    format!(
        r#"(data (i32.const 100) "{cluster}")
        (data (i32.const 400) "\03\00\00\00\07\00\00\00\04\00\00\00\05\00\00\00\06\00\00\00\0a\00\00\00\0c\00\00\00:method\00POST\00:path\00/check\00:authority\00auth.example\00")
        (global $id (mut i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
            (global.set $id (local.get $id))
            (call $say (call $http_call (i32.const 100) (i32.const {length}) (i32.const 400) (i32.const 78)
                (i32.const 8) (i32.const 8) (i32.const 0) (i32.const 0) (i32.const {timeout}) (i32.const 60)))
            (i32.eqz (i32.eqz (i32.load (i32.const 60)))))
        (func (export "proxy_on_http_call_response") (param $root i32) (param $call i32) (param $headers i32) (param $body i32) (param $trailers i32)
            (local $say i32)
            (if (i32.ne (local.get $call) (i32.load (i32.const 60))) (then (unreachable)))
            (local.set $say {answered})
            (drop (call $set_context (global.get $id)))
            (call $say (local.get $say))
            (drop (call $continue (i32.const 0))))"#
    )
}

#[tokio::test]
async fn r90_a_call_s_answer_resumes_the_stream() {
    for (answered, expected) in [
        ("(local.get $headers)", "02"),
        ("(local.get $body)", "42"),
        ("(local.get $trailers)", "01"),
        (
            "(block (result i32) (drop (call $get_buffer (i32.const 4) (i32.const 2) (i32.const 100) (global.get $p) (global.get $n))) (i32.load (global.get $n)))",
            "40",
        ),
        (
            "(block (result i32) (drop (call $get_map_size (i32.const 7) (i32.const 64))) (i32.load (i32.const 64)))",
            "18",
        ),
        (
            "(block (result i32) (drop (call $get_status (i32.const 64) (global.get $p) (global.get $n))) (i32.rem_u (i32.load (i32.const 64)) (i32.const 99)))",
            "02",
        ),
    ] {
        let lab = Lab::new(&caller("echo", 0, answered), spec());
        assert_eq!(lab.said().await, expected, "{answered}");
        assert_eq!(metric(&lab.runtime, "callouts_total"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn r91_a_call_that_fails_or_takes_too_long_says_so() {
    // BROKEN_CONNECTION, and no headers.
    let status = "(block (result i32) (drop (call $get_status (i32.const 64) (global.get $p) (global.get $n))) (i32.add (i32.load (i32.const 64)) (local.get $headers)))";
    for (cluster, timeout) in [("broken", 0), ("never", 100), ("never", 0), ("large", 0)] {
        let lab = Lab::new(&caller(cluster, timeout, status), spec());
        assert_eq!(lab.said().await, "11", "{cluster}");
        assert_eq!(metric(&lab.runtime, "callouts_failed_total"), 1);
    }
}

#[tokio::test]
async fn r90_the_answer_of_a_call_that_has_failed_has_no_fields() {
    let asked = "(call $get_header (i32.const 6) (i32.const 8) (i32.const 8) (global.get $p) (global.get $n))";
    for (cluster, expected) in [("broken", "01"), ("echo", "01")] {
        let lab = Lab::new(&caller(cluster, 0, asked), spec());
        assert_eq!(lab.said().await, expected, "{cluster}"); // NOT_FOUND
    }
    // Without a call there is no such map: BAD_ARGUMENT.
    assert_eq!(status_of("", asked).await, 2);
}

#[tokio::test]
async fn r91_only_declared_clusters_are_called() {
    let mut spec = spec();
    spec.capabilities.clusters = Names::new(["e*"]);
    let body = caller("echo", 0, "(i32.const 5)");
    assert_eq!(Lab::new(&body, spec.clone()).said().await, "05");
    for cluster in ["never", "unknown"] {
        let lab = Lab::new(&caller(cluster, 0, "(i32.const 5)"), spec.clone());
        assert_eq!(lab.said().await, "02", "{cluster}"); // BAD_ARGUMENT
        assert_eq!(metric(&lab.runtime, "callouts_total"), 0);
    }
    let body = caller("echo", 0x8000_0000, "(i32.const 5)");
    assert_eq!(Lab::new(&body, spec).said().await, "02"); // a negative time-out
}

#[tokio::test]
async fn r91_a_storm_of_calls_ends_at_the_limit() {
    let count = r#"(data (i32.const 100) "never")
        (data (i32.const 400) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\01\00\00\00\0a\00\00\00\01\00\00\00:method\00GET\00:path\00/\00:authority\00a\00")
        (func $storm (result i32) (local $n i32)
            (loop (if (i32.eqz (call $http_call (i32.const 100) (i32.const 5) (i32.const 400) (i32.const 61)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 60)))
                (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br 1))))
            (local.get $n))"#;
    let mut spec = spec();
    spec.limits.calls_per_stream = 3;
    spec.limits.calls = 5;
    let body = format!("{count}{}", on_request("(call $say (call $storm))"));
    let lab = Lab::new(&body, spec);
    let (first, second) = (lab.open(), lab.open());
    let first = first.request(request("")).await.unwrap();
    assert_eq!(first.headers()["x-status"], "03");
    let second = second.request(request("")).await.unwrap();
    assert_eq!(second.headers()["x-status"], "02", "all of the instance");
    assert_eq!(metric(&lab.runtime, "refused_hostcalls_total"), 2);
}

#[tokio::test]
async fn r91_a_held_stream_is_not_released_by_a_body_while_its_call_is_under_way() {
    // As an SDK's default does, the body callback answers CONTINUE. The call must be answered first.
    let body = format!(
        r#"{}(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))"#,
        caller("echo", 0, "(i32.const 77)")
    );
    let lab = Lab::new(&body, spec());
    let passed = lab.open().request(request("abc")).await.unwrap();
    assert_eq!(passed.headers()["x-status"], "77");
    assert_eq!(text(passed.into_body()).await, "abc");
}

#[tokio::test]
async fn r91_a_stream_held_for_a_call_keeps_its_body_from_a_plugin_that_may_not_see_it() {
    let body = format!(
        r#"{}(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (unreachable))"#,
        caller("echo", 0, "(i32.const 77)")
    );
    let mut spec = spec();
    spec.capabilities.body = ringwall_plugin_host::BodyAccess::None;
    let lab = Lab::new(&body, spec);
    let passed = lab.open().request(request("abc")).await.unwrap();
    assert_eq!(passed.headers()["x-status"], "77");
    assert_eq!(passed.headers()["content-length"], "3");
    assert_eq!(text(passed.into_body()).await, "abc");
}

/// A gRPC call or stream to `cluster`; callbacks write what they saw as one digit each, in order, from 500 on.
fn grpc_guest(cluster: &str, begin: &str, done: &str) -> String {
    let note = |digit: &str| {
        format!(
            "(i32.store8 (global.get $at) (i32.add (i32.const 48) {digit})) (global.set $at (i32.add (global.get $at) (i32.const 1)))"
        )
    };
    format!(
        r#"(data (i32.const 100) "{cluster}") (data (i32.const 120) "pkg.SvcDo") (data (i32.const 140) "hello")
        (global $at (mut i32) (i32.const 500)) (global $id (mut i32) (i32.const 0))
        (func $finish
            (drop (call $set_context (global.get $id)))
            (drop (call $set_header (i32.const 0) (i32.const 8) (i32.const 8) (i32.const 500) (i32.sub (global.get $at) (i32.const 500))))
            (drop (call $continue (i32.const 0))))
        (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
            (global.set $id (local.get $id)) {begin} (i32.const 1))
        (func (export "proxy_on_grpc_receive_initial_metadata") (param i32 i32) (param $count i32) {})
        (func (export "proxy_on_grpc_receive") (param i32 i32) (param $size i32)
            (drop (call $get_buffer (i32.const 5) (i32.const 0) (i32.const 99) (global.get $p) (global.get $n)))
            {} {done})
        (func (export "proxy_on_grpc_receive_trailing_metadata") (param i32 i32) (param $count i32) {})
        (func (export "proxy_on_grpc_close") (param i32 i32) (param $status i32) {} (call $finish))"#,
        note("(local.get $count)"),
        note("(i32.load (global.get $n))"),
        note("(local.get $count)"),
        note("(local.get $status)"),
    )
}

const CALL: &str = "(if (call $grpc_call (i32.const 100) (i32.const LEN) (i32.const 120) (i32.const 7) (i32.const 127) (i32.const 2)
    (i32.const 0) (i32.const 0) (i32.const 140) (i32.const 5) (i32.const 0) (i32.const 60)) (then (unreachable)))";
const STREAM: &str = "(if (call $grpc_stream (i32.const 100) (i32.const LEN) (i32.const 120) (i32.const 7) (i32.const 127) (i32.const 2)
    (i32.const 0) (i32.const 0) (i32.const 60)) (then (unreachable)))
    (if (call $grpc_send (i32.load (i32.const 60)) (i32.const 140) (i32.const 5) (i32.const 0)) (then (unreachable)))
    (if (call $grpc_send (i32.load (i32.const 60)) (i32.const 140) (i32.const 3) (i32.const 1)) (then (unreachable)))";

async fn grpc_said(cluster: &str, begin: &str, done: &str) -> String {
    let begin = begin.replace("LEN", &cluster.len().to_string());
    Lab::new(&grpc_guest(cluster, &begin, done), spec())
        .said()
        .await
}

#[tokio::test]
async fn r90_grpc_calls_are_answered_once() {
    assert_eq!(grpc_said("grpc", CALL, "(call $finish)").await, "5");
    assert_eq!(grpc_said("denied", CALL, "").await, "7");
    assert_eq!(grpc_said("broken", CALL, "").await, ">"); // 14: UNAVAILABLE
    assert_eq!(grpc_said("echo2", CALL, "").await, ">");
}

#[tokio::test]
async fn r90_grpc_streams_deliver_metadata_messages_and_the_end() {
    assert_eq!(grpc_said("grpc", STREAM, "").await, "15310");
    assert_eq!(grpc_said("denied", STREAM, "").await, "127");
}

#[tokio::test]
async fn r90_a_cancelled_call_says_nothing_more() {
    let cancel = format!(
        "{CALL} (if (call $grpc_cancel (i32.load (i32.const 60))) (then (unreachable)))
        (if (i32.ne (call $grpc_close (i32.load (i32.const 60))) (i32.const 1)) (then (unreachable)))
        (call $finish)"
    );
    assert_eq!(grpc_said("grpc", &cancel, "(unreachable)").await, "");
    // This side of a stream can end once; a unary call cannot be sent on.
    let close = format!(
        "{STREAM} (if (i32.ne (call $grpc_send (i32.load (i32.const 60)) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 2)) (then (unreachable)))
        (if (call $grpc_close (i32.load (i32.const 60))) (then (unreachable)))"
    );
    assert_eq!(grpc_said("grpc", &close, "").await, "15310");
    let send = format!(
        "{CALL} (if (i32.ne (call $grpc_send (i32.load (i32.const 60)) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 2)) (then (unreachable)))"
    );
    assert_eq!(grpc_said("grpc", &send, "(call $finish)").await, "5");
}

#[tokio::test]
async fn r90_an_item_in_a_queue_wakes_whoever_registered_it() {
    let body = r#"(data (i32.const 100) "queue") (global $id (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (i32.eqz (call $register_queue (i32.const 100) (i32.const 5) (i32.const 60))))
        (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
            (global.set $id (local.get $id))
            (drop (call $resolve_queue (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 5) (i32.const 64)))
            (drop (call $enqueue (i32.load (i32.const 64)) (i32.const 100) (i32.const 3)))
            (i32.const 1))
        (func (export "proxy_on_queue_ready") (param i32) (param $queue i32)
            (drop (call $dequeue (local.get $queue) (global.get $p) (global.get $n)))
            (drop (call $set_context (global.get $id)))
            (call $say (i32.load (global.get $n)))
            (drop (call $continue (i32.const 0))))"#;
    assert_eq!(Lab::new(body, spec()).said().await, "03");
}

/// A stream waits; the callback that would resume it does harm instead.
#[tokio::test]
async fn r91_callbacks_of_calls_queues_and_timers_may_trap_or_loop() {
    let wait = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) BEGIN (i32.const 1))"#;
    let queue = r#"(data (i32.const 100) "queue")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (i32.eqz (call $register_queue (i32.const 100) (i32.const 5) (i32.const 60))))"#;
    let enqueue = "(drop (call $enqueue (i32.load (i32.const 60)) (i32.const 100) (i32.const 3)))";
    let grpc = r#"(data (i32.const 100) "grpcdenied") (data (i32.const 120) "pkg.SvcDo")"#;
    let call = |start: u32, length: u32| {
        format!(
            "(drop (call $grpc_stream (i32.const {start}) (i32.const {length}) (i32.const 120) (i32.const 7)
                (i32.const 127) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 60)))
             (drop (call $grpc_send (i32.load (i32.const 60)) (i32.const 100) (i32.const 3) (i32.const 1)))"
        )
    };
    for harm in ["(unreachable)", "(loop (br 0))"] {
        for (name, setup, begin, params) in [
            (
                "proxy_on_tick",
                "",
                "(drop (call $set_tick (i32.const 1)))".to_owned(),
                1,
            ),
            ("proxy_on_queue_ready", queue, enqueue.to_owned(), 2),
            (
                "proxy_on_grpc_receive_initial_metadata",
                grpc,
                call(100, 4),
                3,
            ),
            ("proxy_on_grpc_receive", grpc, call(100, 4), 3),
            (
                "proxy_on_grpc_receive_trailing_metadata",
                grpc,
                call(100, 4),
                3,
            ),
            ("proxy_on_grpc_close", grpc, call(104, 6), 3),
        ] {
            let params = "i32 ".repeat(params);
            let harmful = format!("(func (export \"{name}\") (param {params}) {harm})");
            let body = format!("{setup}{harmful}{}", wait.replace("BEGIN", &begin));
            let lab = Lab::new(&body, spec());
            let refused = lab.open().request(request("")).await.unwrap_err();
            assert_eq!(refused.response.unwrap().status(), 503, "{name} {harm}");
            assert!(metric(&lab.runtime, "recreations_total") >= 1);
        }
        let harm = format!("(block (result i32) {harm} (i32.const 0))");
        let lab = Lab::new(&caller("echo", 0, &harm), spec());
        let refused = lab.open().request(request("")).await.unwrap_err();
        assert_eq!(
            refused.response.unwrap().status(),
            503,
            "a call's answer, {harm}"
        );
    }
}

#[tokio::test]
async fn r91_the_queues_of_others_cannot_be_guessed() {
    let owner = r#"(data (i32.const 100) "queue")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (drop (call $register_queue (i32.const 100) (i32.const 5) (i32.const 60)))
            (i32.eqz (call $enqueue (i32.load (i32.const 60)) (i32.const 100) (i32.const 3))))"#;
    let lab = Lab::new(owner, spec());
    let thief =
        on_request("(call $say (call $dequeue (i32.const 1) (global.get $p) (global.get $n)))");
    let mut other = spec();
    other.vm_id = Arc::from("other");
    let thief = Plugin::new(&load(&lab.runtime, &guest(&thief)), other).unwrap();
    let stream = lab.worker.open(&Chain::new([thief]), info());
    let passed = stream.request(request("")).await.unwrap();
    assert_eq!(passed.headers()["x-status"], "01"); // NOT_FOUND
}

#[tokio::test(start_paused = true)]
async fn r91_a_lost_instance_ends_its_timer_and_its_calls() {
    let body = format!(
        r#"{}(func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $set_tick (i32.const 50))) (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (unreachable))"#,
        caller("never", 0, "(unreachable)")
    );
    let lab = Lab::new(&body, spec());
    let refused = lab.open().request(request("")).await.unwrap_err();
    assert_eq!(refused.response.unwrap().status(), 503);
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Each new instance ticks once, and is lost again; none ticks twice.
    let lost = metric(&lab.runtime, "traps_total");
    assert_eq!(lost, metric(&lab.runtime, "recreations_total"));
    assert!((9..=11).contains(&lost), "{lost}");
    assert_eq!(metric(&lab.runtime, "instances"), 1);
}

#[test]
fn a_body_of_a_call_can_be_made_of_bytes() {
    let _: CalloutBody = Full::new(Bytes::new())
        .map_err(BoxError::from)
        .boxed_unsync();
}
