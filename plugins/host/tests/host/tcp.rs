//! TCP streams.

use bytes::Bytes;
use ringwall_plugin_host::tcp::{Ended, Side};
use ringwall_plugin_host::{BodyAccess, FailureKind, OnFailure, Peer, TcpStream};

use crate::support::*;

fn open(bed: &Bed) -> TcpStream {
    bed.worker.open_tcp(&bed.chain(), info())
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Holds what comes from downstream until there are six bytes, then puts `>` before them.
const FRAMER: &str = r#"(data (i32.const 100) ">")
    (func (export "proxy_on_downstream_data") (param $id i32) (param $size i32) (param $end i32) (result i32)
        (if (i32.lt_u (local.get $size) (i32.const 6)) (then (return (i32.eqz (local.get $end)))))
        (drop (call $set_buffer (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 1)))
        (i32.const 0))"#;

#[tokio::test]
async fn r90_stream_data_is_held_changed_and_passed() {
    let bed = Bed::new(&guest(FRAMER));
    let stream = open(&bed);
    stream.connected().await.unwrap();
    assert_eq!(
        stream
            .data(Side::Downstream, bytes("abc"), false)
            .await
            .unwrap(),
        ""
    );
    assert_eq!(
        stream
            .data(Side::Downstream, bytes("def"), false)
            .await
            .unwrap(),
        ">abcdef"
    );
    assert_eq!(
        stream
            .data(Side::Upstream, bytes("xyz"), false)
            .await
            .unwrap(),
        "xyz"
    );
}

#[tokio::test]
async fn r90_a_connection_is_relayed_through_its_plugins() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let bed = Bed::new(&guest(FRAMER));
    let stream = open(&bed);
    assert!(stream.looks_at_data());
    let (mut client, downstream) = tokio::io::duplex(64);
    let (mut server, upstream) = tokio::io::duplex(64);
    let relaying = tokio::spawn(async move {
        stream.connected().await.unwrap();
        stream.relay(downstream, upstream).await.unwrap()
    });
    let mut seen = [0; 7];
    client.write_all(b"abc").await.unwrap();
    client.write_all(b"def").await.unwrap();
    server.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b">abcdef");
    client.shutdown().await.unwrap();
    assert_eq!(
        server.read(&mut seen).await.unwrap(),
        0,
        "the end is passed on"
    );
    // The other direction is still open.
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
    let relayed = relaying.await.unwrap();
    assert_eq!((relayed.to_upstream, relayed.to_downstream), (7, 6));
}

#[tokio::test]
async fn r91_a_relayed_connection_ends_with_its_plugin() {
    let body = r#"(func (export "proxy_on_upstream_data") (param i32 i32 i32) (result i32) (unreachable))"#;
    let bed = Bed::new(&guest(body));
    let stream = open(&bed);
    let (_client, downstream) = tokio::io::duplex(64);
    let (mut server, upstream) = tokio::io::duplex(64);
    tokio::io::AsyncWriteExt::write_all(&mut server, b"x")
        .await
        .unwrap();
    let ended = stream.relay(downstream, upstream).await.unwrap_err();
    assert!(ended.to_string().contains("Trap"), "{ended}");
}

#[tokio::test]
async fn r91_stream_data_needs_the_capability() {
    let mut spec = spec();
    spec.capabilities.stream_data = BodyAccess::None;
    let bed = Bed::with(&guest(FRAMER), spec);
    let stream = open(&bed);
    assert_eq!(
        stream
            .data(Side::Downstream, bytes("abc"), false)
            .await
            .unwrap(),
        "abc"
    );
}

#[tokio::test]
async fn r90_a_paused_connection_is_continued_by_a_timer() {
    let body = r#"(global $id (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $set_tick (i32.const 1))) (i32.const 1))
        (func (export "proxy_on_new_connection") (param $id i32) (result i32) (global.set $id (local.get $id)) (i32.const 1))
        (func (export "proxy_on_upstream_data") (param i32 i32 i32) (result i32) (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (if (global.get $id) (then
            (drop (call $set_context (global.get $id)))
            (drop (call $continue (i32.const 2))) (drop (call $continue (i32.const 3))))))"#;
    let bed = Bed::new(&guest(body));
    let stream = open(&bed);
    stream.connected().await.unwrap();
    assert_eq!(
        stream
            .data(Side::Upstream, bytes("abc"), false)
            .await
            .unwrap(),
        ""
    );
    assert_eq!(stream.resumed(Side::Upstream).await.unwrap(), "abc");
}

#[tokio::test]
async fn r91_a_connection_ends_when_a_plugin_closes_hoards_or_fails() {
    let on_data = |body: &str| {
        guest(&format!(
            r#"(func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32) {body})"#
        ))
    };
    let bed = Bed::new(&on_data("(drop (call $close (i32.const 2))) (i32.const 0)"));
    let closed = open(&bed).data(Side::Downstream, bytes("abc"), false).await;
    assert_eq!(closed, Err(Ended::Closed));

    let mut small = spec();
    small.limits.buffered_body = 5;
    let bed = Bed::with(&on_data("(i32.const 1)"), small);
    let hoarded = open(&bed)
        .data(Side::Downstream, bytes("abcdef"), false)
        .await;
    assert_eq!(hoarded, Err(Ended::TooLarge));

    let bed = Bed::new(&on_data("(unreachable)"));
    let failed = open(&bed).data(Side::Downstream, bytes("abc"), false).await;
    assert!(matches!(failed, Err(Ended::Failed(failure)) if failure.kind == FailureKind::Trap));

    let mut fails_open = spec();
    fails_open.on_failure = OnFailure::Open;
    let bed = Bed::with(&on_data("(unreachable)"), fails_open);
    let stream = open(&bed);
    let passed = stream.data(Side::Downstream, bytes("abc"), false).await;
    assert_eq!(passed.unwrap(), "abc");
    let passed = stream.data(Side::Downstream, bytes("def"), true).await;
    assert_eq!(passed.unwrap(), "def");
    assert_eq!(bed.metric("failed_open_total"), 1);
}

#[tokio::test]
async fn r90_closes_are_told_once_with_who_did_it() {
    // Counts: 1 for the upstream, 10 times the peer for the downstream; told as a metric.
    let body = r#"(data (i32.const 100) "closed")
        (func $count (param $by i32)
            (drop (call $define_metric (i32.const 0) (i32.const 100) (i32.const 6) (i32.const 60)))
            (drop (call $record_metric (i32.load (i32.const 60)) (i64.extend_i32_u (local.get $by)))))
        (func (export "proxy_on_upstream_connection_close") (param i32) (param $peer i32) (call $count (i32.const 1)))
        (func (export "proxy_on_downstream_connection_close") (param i32) (param $peer i32)
            (call $count (i32.mul (i32.const 10) (local.get $peer))))"#;
    let bed = Bed::new(&guest(body));
    let stream = open(&bed);
    stream.connected().await.unwrap();
    stream.closed(Side::Downstream, Peer::Remote);
    stream.closed(Side::Downstream, Peer::Local);
    drop(stream);
    let expected = "ringwall_plugin_counter_total{plugin=\"p\",metric=\"closed\"} 21\n";
    assert!(bed.runtime.metrics().contains(expected));
}
