//! Pauses: what is held, what goes on, what lets go.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use ringwall_plugin_host::{BodyAccess, BoxError, Cause, HeadersPause, OnFailure};
use tokio::sync::mpsc;

use crate::support::*;

/// A body that is fed by the test.
struct Fed(mpsc::Receiver<Frame<Bytes>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

fn fed() -> (mpsc::Sender<Frame<Bytes>>, Request<Fed>) {
    let (sender, receiver) = mpsc::channel(16);
    let request = Request::post("/")
        .header("host", "a")
        .header("content-length", "6");
    (sender, request.body(Fed(receiver)).unwrap())
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

/// Pauses in the headers; the body callback answers `answer`.
fn holding(answer: &str) -> Vec<u8> {
    guest(&format!(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
           (func (export "proxy_on_request_body") (param $id i32) (param $size i32) (param $end i32) (result i32) {answer})"#
    ))
}

const AT_THE_END: &str =
    "(if (local.get $end) (then (call $say (local.get $size)))) (i32.eqz (local.get $end))";

#[tokio::test]
async fn r90_headers_wait_for_the_whole_body_and_can_be_changed_by_it() {
    let bed = Bed::new(&holding(AT_THE_END));
    let (sender, request) = fed();
    for part in ["abc", "def"] {
        sender.send(data(part)).await.unwrap();
    }
    drop(sender);
    let request = bed.open().request(request).await.unwrap();
    // All of the body was there when the headers went on, so its length is known.
    assert_eq!(request.headers()["x-status"], "06");
    assert_eq!(request.headers()["content-length"], "6");
    assert_eq!(text(request.into_body()).await, "abcdef");
}

#[tokio::test]
async fn r90_a_continue_from_the_body_lets_the_headers_go() {
    let bed = Bed::new(&holding("(i32.const 0)"));
    let (sender, request) = fed();
    sender.send(data("abc")).await.unwrap();
    let request = bed.open().request(request).await.unwrap();
    // The rest may still be changed: its length is not known.
    assert!(!request.headers().contains_key("content-length"));
    sender.send(data("def")).await.unwrap();
    drop(sender);
    assert_eq!(text(request.into_body()).await, "abcdef");
}

#[tokio::test(start_paused = true)]
async fn r90_a_stream_held_as_envoy_holds_it_gets_no_body_and_is_refused_in_the_end() {
    let mut spec = spec();
    spec.headers_pause = HeadersPause::Stream;
    let bed = Bed::with(&holding("(unreachable)"), spec);
    let (sender, request) = fed();
    sender.send(data("abc")).await.unwrap();
    let refused = bed.open().request(request).await.unwrap_err();
    assert_eq!(refused.response.unwrap().status(), 503);
    assert_eq!(bed.metric("paused_too_long_total"), 1);
    assert_eq!(bed.metric("traps_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn r91_a_pause_without_end_can_fail_open() {
    let mut spec = spec();
    spec.on_failure = OnFailure::Open;
    spec.limits.pause = Duration::from_secs(1);
    let bed = Bed::with(&holding("(i32.const 1)"), spec);
    let (sender, request) = fed();
    sender.send(data("abc")).await.unwrap();
    let request = bed.open().request(request).await.unwrap();
    sender.send(data("def")).await.unwrap();
    drop(sender);
    assert_eq!(text(request.into_body()).await, "abcdef");
    assert_eq!(bed.metric("failed_open_total"), 1);
}

#[tokio::test]
async fn r90_a_pause_in_the_callback_that_continues_it_is_none() {
    let body = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $continue (i32.const 0))) (i32.const 1))"#;
    assert!(Bed::new(&guest(body)).get().await.is_ok());
}

#[tokio::test]
async fn r91_a_request_body_beyond_the_limit_is_413() {
    let mut spec = spec();
    spec.limits.buffered_body = 5;
    let bed = Bed::with(&holding("(i32.const 1)"), spec);
    let refused = bed.open().request(request("abcdef")).await.unwrap_err();
    assert_eq!(refused.cause, Cause::TooLarge);
    assert_eq!(refused.response.unwrap().status(), 413);
}

#[tokio::test]
async fn r91_a_response_body_beyond_the_limit_is_500() {
    let mut spec = spec();
    spec.limits.buffered_body = 5;
    let body = r#"(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 1))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 1))"#;
    let bed = Bed::with(&guest(body), spec);
    let stream = bed.open();
    stream.request(request("")).await.unwrap();
    let refused = stream.response(response("abcdef")).await.unwrap_err();
    assert_eq!(refused.response.unwrap().status(), 500);
}

/// Buffers the request's body, and at its end puts `[` before and `]` behind it and changes its middle.
const WRAPPER: &str = r#"(data (i32.const 100) "[]--")
    (func (export "proxy_on_request_body") (param $id i32) (param $size i32) (param $end i32) (result i32)
        (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
        (drop (call $set_buffer (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 102) (i32.const 2)))
        (drop (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 1)))
        (drop (call $set_buffer (i32.const 0) (i32.const -1) (i32.const -1) (i32.const 101) (i32.const 1)))
        (i32.const 0))"#;

#[tokio::test]
async fn r90_a_body_is_buffered_changed_and_released() {
    let bed = Bed::new(&guest(WRAPPER));
    let (sender, request) = fed();
    let request = bed.open().request(request).await.unwrap();
    for part in ["abc", "def"] {
        sender.send(data(part)).await.unwrap();
    }
    drop(sender);
    assert_eq!(text(request.into_body()).await, "[a--cdef]");
}

#[tokio::test]
async fn r91_a_body_may_be_read_but_not_changed() {
    let mut spec = spec();
    spec.capabilities.body = BodyAccess::Read;
    let bed = Bed::with(&guest(WRAPPER), spec);
    let request = bed.open().request(request("abcdef")).await.unwrap();
    assert_eq!(request.headers()["content-length"], "6");
    assert_eq!(text(request.into_body()).await, "abcdef");
    assert_eq!(bed.metric("refused_hostcalls_total"), 3);
}

#[tokio::test]
async fn r91_without_access_a_body_streams_through_unseen() {
    let mut spec = spec();
    spec.capabilities.body = BodyAccess::None;
    let body =
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (unreachable))"#;
    let bed = Bed::with(&guest(body), spec);
    let request = bed.open().request(request("abcdef")).await.unwrap();
    assert_eq!(text(request.into_body()).await, "abcdef");
}

#[tokio::test]
async fn r90_two_filters_change_a_body_one_after_the_other() {
    let bed = Bed::new(&guest(WRAPPER));
    let chain = ringwall_plugin_host::Chain::new([bed.plugin.clone(), bed.plugin.clone()]);
    let stream = bed.worker.open(&chain, info());
    let request = stream.request(request("abc")).await.unwrap();
    // "[a--c]", and then its second byte, the `a`, replaced.
    assert_eq!(text(request.into_body()).await, "[[----c]]");
}

#[tokio::test]
async fn r90_trailers_are_seen_changed_and_added() {
    let body = r#"(data (i32.const 100) "x-t") (data (i32.const 104) "v")
        (func (export "proxy_on_request_trailers") (param i32) (param $count i32) (result i32)
            (drop (call $add_header (i32.const 1) (i32.const 100) (i32.const 3) (i32.const 104) (i32.const 1)))
            (i32.const 0))
        (func (export "proxy_on_request_body") (param i32 i32) (param $end i32) (result i32)
            (if (local.get $end) (then
                (drop (call $set_header (i32.const 1) (i32.const 100) (i32.const 3) (i32.const 104) (i32.const 1)))))
            (i32.const 0))"#;
    let bed = Bed::new(&guest(body));
    let (sender, sent) = fed();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-own", "1".parse().unwrap());
    sender.send(data("abc")).await.unwrap();
    sender.send(Frame::trailers(trailers)).await.unwrap();
    drop(sender);
    let passed = bed.open().request(sent).await.unwrap();
    let collected = passed.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-own"], "1");
    assert_eq!(collected.trailers().unwrap()["x-t"], "v");

    // Where there are none, they can be added at the end of the body.
    let passed = bed.open().request(request("abc")).await.unwrap();
    let collected = passed.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-t"], "v");
    assert_eq!(collected.to_bytes(), "abc");
}

#[tokio::test]
async fn r90_a_tick_lets_a_paused_stream_go() {
    // The stream's own id is kept; the timer's callback, in the plugin's context, continues it.
    let body = r#"(global $held (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (drop (call $set_tick (i32.const 1))) (i32.const 1))
        (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
            (global.set $held (local.get $id)) (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
            (if (global.get $held) (then
                (drop (call $set_context (global.get $held)))
                (call $say (i32.const 42))
                (drop (call $continue (i32.const 0))))))"#;
    // There is no body, so the body callback, with an SDK's default answer, is not called and releases nothing.
    let default =
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    for body in [body.to_owned(), format!("{body}{default}")] {
        let bed = Bed::new(&guest(&body));
        let request = bed.get().await.unwrap();
        assert_eq!(request.headers()["x-status"], "42");
    }
}
