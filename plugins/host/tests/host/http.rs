//! Chains, local responses, the end of a stream.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use ringwall_plugin_host::{Cause, Chain, NoCallouts, Plugin, PluginSpec, Worker};

use crate::support::*;

/// Appends `letter` to the header x-o of requests and responses.
fn marks(letter: char) -> Vec<u8> {
    let append = |map: i32| {
        format!(
            r#"(drop (call $add_header (i32.const {map}) (i32.const 100) (i32.const 3) (i32.const 104) (i32.const 1)))"#
        )
    };
    guest(&format!(
        r#"(data (i32.const 100) "x-o") (data (i32.const 104) "{letter}")
        {}
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) {} (i32.const 0))"#,
        on_request(&append(0)),
        append(2)
    ))
}

fn order(headers: &http::HeaderMap) -> String {
    let marks = headers.get_all("x-o").iter();
    marks.map(|mark| mark.to_str().unwrap()).collect()
}

struct Trio {
    worker: Worker,
    chain: Chain,
}

/// Three plugins; the middle one is `middle`.
fn trio(middle: &[u8]) -> Trio {
    let runtime = runtime();
    let worker = Worker::new(&runtime, Arc::new(NoCallouts));
    let plugin = |name: &str, bytes: &[u8]| {
        let mut named = spec();
        named.name = Arc::from(name);
        Plugin::new(&load(&runtime, bytes), named).unwrap()
    };
    let chain = Chain::new([
        plugin("a", &marks('a')),
        plugin("b", middle),
        plugin("c", &marks('c')),
    ]);
    Trio { worker, chain }
}

#[tokio::test]
async fn r90_requests_pass_forwards_and_responses_backwards() {
    let trio = trio(&marks('b'));
    let stream = trio.worker.open(&trio.chain, info());
    let request = stream.request(request("")).await.unwrap();
    assert_eq!(order(request.headers()), "abc");
    let response = stream.response(response("x")).await.unwrap();
    assert_eq!(order(response.headers()), "cba");
    assert_eq!(response.headers()["content-length"], "1");
    assert_eq!(text(response.into_body()).await, "x");
}

const RESPOND: &str = r#"(data (i32.const 200) "\01\00\00\00\03\00\00\00\01\00\00\00x-l\00y\00") (data (i32.const 230) "body") (data (i32.const 240) "why not")
    (func $answer (drop (call $respond (i32.const 418) (i32.const 240) (i32.const 7) (i32.const 230) (i32.const 4) (i32.const 200) (i32.const 18) (i32.const -1))))"#;

#[tokio::test]
async fn r90_a_local_response_passes_the_filters_that_saw_the_request() {
    // The callback goes on to say CONTINUE; the response stands.
    let middle = guest(&format!("{RESPOND}{}", on_request("(call $answer)")));
    let trio = trio(&middle);
    let stream = trio.worker.open(&trio.chain, info());
    let refused = stream.request(request("")).await.unwrap_err();
    let details = "why_not".to_owned();
    assert_eq!(refused.cause, Cause::Local { details });
    let response = refused.response.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.headers()["x-l"], "y");
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(order(response.headers()), "a");
    assert_eq!(text(response.into_body()).await, "body");
}

#[tokio::test]
async fn r90_a_local_response_to_a_response_goes_out_as_it_is() {
    let middle = guest(&format!(
        r#"{RESPOND}(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
            (call $answer) (i32.const 0))"#
    ));
    let trio = trio(&middle);
    let stream = trio.worker.open(&trio.chain, info());
    stream.request(request("")).await.unwrap();
    let refused = stream.response(response("x")).await.unwrap_err();
    let response = refused.response.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(order(response.headers()), "");
    assert_eq!(text(response.into_body()).await, "body");
}

#[tokio::test]
async fn r90_a_local_response_from_the_request_s_body_interrupts_the_stream() {
    let body = format!(
        r#"{RESPOND}(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
            (call $answer) (i32.const 0))"#
    );
    let bed = Bed::new(&guest(&body));
    let stream = bed.open();
    let passed = stream.request(request("abc")).await.unwrap();
    let read = http_body_util::BodyExt::collect(passed.into_body()).await;
    assert!(read.unwrap_err().to_string().contains("why_not"));
    let refused = stream.interrupted().await;
    let response = refused.response.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(bed.metric("local_responses_total"), 1);
}

#[tokio::test]
async fn r91_an_end_that_breaks_what_is_sent_is_the_plugin_s_and_no_failure() {
    let body = format!(
        r#"{RESPOND}(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
            (call $answer) (i32.const 0))"#
    );
    let bed = Bed::new(&guest(&body));
    let stream = bed.open();
    let passed = stream.request(request("abc")).await.unwrap();
    // The body breaks off while it is sent, so that sending fails, and that is seen first.
    let sent = http_body_util::BodyExt::collect(passed.into_body());
    let refused = stream.beside(sent).await.unwrap_err();
    assert_eq!(refused.response.unwrap().status(), 418);
    let untouched = bed.open();
    let failed: Result<(), &str> = untouched.beside(async { Err("of its own") }).await.unwrap();
    assert_eq!(failed, Err("of its own"));
}

#[tokio::test]
async fn r90_a_timer_may_answer_a_request_that_the_upstream_has() {
    let body = format!(
        r#"{RESPOND}(global $id (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $set_tick (i32.const 1))) (i32.const 1))
        (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
            (global.set $id (local.get $id)) (i32.const 0))
        (func (export "proxy_on_tick") (param i32) (if (global.get $id) (then
            (drop (call $set_context (global.get $id))) (call $answer) (global.set $id (i32.const 0)))))"#
    );
    let bed = Bed::new(&guest(&body));
    let stream = bed.open();
    let passed = stream.request(request("")).await.unwrap();
    let refused = stream.interrupted().await;
    assert_eq!(refused.response.unwrap().status(), 418);
    drop(passed);
}

#[tokio::test]
async fn r90_a_closed_stream_is_reset() {
    let bed = Bed::new(&guest(&on_request("(drop (call $close (i32.const 0)))")));
    let refused = bed.get().await.unwrap_err();
    assert_eq!(refused.cause, Cause::Closed);
    assert!(refused.response.is_none());
}

#[tokio::test]
async fn r90_grpc_is_answered_as_grpc() {
    let bed = Bed::new(&guest(&format!(
        "{RESPOND}{}",
        on_request("(call $answer)")
    )));
    let mut sent = request("");
    let kind = HeaderValue::from_static("application/grpc+proto");
    sent.headers_mut().insert("content-type", kind);
    let response = bed
        .open()
        .request(sent)
        .await
        .unwrap_err()
        .response
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "2");
    assert_eq!(response.headers()["grpc-message"], "body");
}

/// Writes a mark into shared data under the letter of each callback.
const LIFE: &str = r#"(data (i32.const 100) "DLX")
    (func $mark (param $at i32) (drop (call $set_data (local.get $at) (i32.const 1) (i32.const 100) (i32.const 1) (i32.const 0))))
    (func $was (param $at i32) (result i32) (i32.eqz (call $get_data (local.get $at) (i32.const 1) (global.get $p) (global.get $n) (i32.const 56))))
    (func (export "proxy_on_log") (param i32) (call $mark (i32.const 101)))
    (func (export "proxy_on_delete") (param i32) (call $mark (i32.const 102)))"#;

/// How many of done, log and delete have been called.
fn seen() -> String {
    on_request(
        "(call $say (i32.add (i32.add (call $was (i32.const 100)) (call $was (i32.const 101))) (call $was (i32.const 102))))",
    )
}

#[tokio::test]
async fn r90_done_log_and_delete_follow_the_end() {
    let body = format!(
        r#"{LIFE}{}(func (export "proxy_on_done") (param i32) (result i32) (call $mark (i32.const 100)) (i32.const 1))"#,
        seen()
    );
    let bed = Bed::new(&guest(&body));
    let stream = bed.open();
    let passed = stream.request(request("")).await.unwrap();
    assert_eq!(passed.headers()["x-status"], "00");
    let answer = stream.response(response("x")).await.unwrap();
    drop((stream, passed));
    // The response is still on its way.
    let kept = bed.get().await.unwrap();
    assert_eq!(kept.headers()["x-status"], "00");
    drop(answer);
    assert_eq!(bed.get().await.unwrap().headers()["x-status"], "03");
}

#[tokio::test]
async fn r90_an_end_that_is_put_off_comes_with_done() {
    let body = format!(
        r#"{LIFE}{}(global $late (mut i32) (i32.const 0))
        (func (export "proxy_on_done") (param $id i32) (result i32)
            (call $mark (i32.const 100)) (global.set $late (local.get $id)) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $set_tick (i32.const 5))) (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (if (global.get $late) (then
            (drop (call $set_context (global.get $late))) (drop (call $done)) (drop (call $done)) (global.set $late (i32.const 0)))))"#,
        seen()
    );
    let mut spec = spec();
    spec.limits.tick_period = std::time::Duration::from_millis(1);
    let bed = Bed::with(&guest(&body), spec);
    drop(bed.get().await.unwrap());
    assert_eq!(bed.get().await.unwrap().headers()["x-status"], "01");
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        match bed.get().await.unwrap().headers()["x-status"]
            .to_str()
            .unwrap()
        {
            "03" => break,
            other => assert_eq!(other, "01"),
        }
    }
}

#[tokio::test]
async fn r90_what_has_passed_can_be_read_in_the_log() {
    // In proxy_on_log the response's status and the request's path are there, and both are kept for the next request.
    let body = r#"(data (i32.const 100) ":path:statusk")
        (func (export "proxy_on_log") (param i32)
            (drop (call $get_header (i32.const 0) (i32.const 100) (i32.const 5) (global.get $p) (global.get $n)))
            (if (i32.ne (i32.load (global.get $n)) (i32.const 11)) (then (unreachable)))
            (drop (call $get_header (i32.const 2) (i32.const 105) (i32.const 7) (global.get $p) (global.get $n)))
            (if (i32.ne (i32.load8_u (i32.load (global.get $p))) (i32.const 50)) (then (unreachable)))
            (if (i32.ne (call $get_header (i32.const 2) (i32.const 100) (i32.const 2) (global.get $p) (global.get $n)) (i32.const 1)) (then (unreachable))))"#;
    let bed = Bed::new(&guest(body));
    let stream = bed.open();
    let passed = stream.request(request("")).await.unwrap();
    let answer = stream.response(response("x")).await.unwrap();
    drop((stream, passed, answer));
    assert_eq!(bed.metric("traps_total"), 0);
}

#[tokio::test]
async fn r91_a_plugin_with_no_capabilities_still_lets_requests_through() {
    let bed = Bed::with(&guest(&on_request("")), PluginSpec::new("p"));
    assert!(bed.get().await.is_ok());
}
