//! Bodies stream in both directions under their limits; WebSocket and server-sent events pass at once.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{World, read_answer, read_some};

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: usize = status
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("pages");
    pages * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_response_streams_with_flat_memory() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    stream
        .write_all(b"GET /big HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("write");
    let before = resident();
    let (mut total, mut buffer) = (0usize, vec![0; 64 * 1024]);
    let mut peak = before;
    loop {
        let read = stream.read(&mut buffer).await.expect("read");
        if read == 0 {
            break;
        }
        total += read;
        if total % (8 * 1024 * 1024) < read {
            peak = peak.max(resident());
        }
    }
    assert!(total > 64 * 1024 * 1024, "{total}");
    assert!(
        peak.saturating_sub(before) < 24 * 1024 * 1024,
        "grew by {}",
        peak - before
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_streams_with_flat_memory() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    let length = 64 * 1024 * 1024;
    stream
        .write_all(
            format!(
                "POST /open HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: {length}\r\n\r\n"
            )
            .as_bytes(),
        )
        .await
        .expect("write");
    let before = resident();
    let piece = vec![1u8; 64 * 1024];
    for _ in 0..length / piece.len() {
        stream.write_all(&piece).await.expect("write");
    }
    let grown = resident().saturating_sub(before);
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.json()["length"], length);
    assert_eq!(answer.json()["sum"], length);
    assert!(grown < 24 * 1024 * 1024, "grew by {grown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_beyond_the_limit_are_refused() {
    let world = World::start().await;
    let declared = world
        .send_plain(
            b"POST /small HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: 11\r\n\r\nhello world",
        )
        .await;
    assert_eq!(
        (declared.status, declared.closed),
        (413, true),
        "{declared:?}"
    );
    assert_eq!(world.upstream_requests(), 0);
    let chunked = world
        .send_plain(b"POST /small HTTP/1.1\r\nHost: api.localhost\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n")
        .await;
    assert_eq!((chunked.status, chunked.closed), (413, true), "{chunked:?}");
    let exact = world
        .send_plain(
            b"POST /small HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: 10\r\n\r\n0123456789",
        )
        .await;
    assert_eq!(exact.status, 200, "{exact:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_are_not_buffered() {
    let world = World::start().await;
    let mut stream = world.tls("api.localhost", b"http/1.1").await.expect("TLS");
    stream
        .write_all(b"GET /events HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await
        .expect("write");
    let started = Instant::now();
    let mut seen = Vec::new();
    let mut arrivals = Vec::new();
    while arrivals.len() < 3 {
        assert!(read_some(&mut stream, &mut seen).await > 0);
        let count = String::from_utf8_lossy(&seen)
            .matches("event: tick")
            .count();
        while arrivals.len() < count {
            arrivals.push(started.elapsed());
        }
    }
    assert!(
        arrivals[2] - arrivals[0] > Duration::from_millis(250),
        "{arrivals:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_on_declared_routes() {
    let world = World::start().await;
    let mut stream = world.tls("api.localhost", b"http/1.1").await.expect("TLS");
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await
        .expect("write");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(read_some(&mut stream, &mut head).await > 0);
    }
    let head = String::from_utf8_lossy(&head);
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("sec-websocket-accept: accepted"),
        "{head}"
    );
    // Bytes that would be an offence in HTTP are frames now.
    for message in [&b"\n\n\0frame"[..], b"GET / HTTP/1.1\nHost: x\n\n"] {
        stream.write_all(message).await.expect("write");
        let mut echoed = vec![0; message.len()];
        stream.read_exact(&mut echoed).await.expect("echo");
        assert_eq!(echoed, message);
    }
    let other = world
        .send("GET /ws HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert_ne!(other.status, 200, "the mock only upgrades: {other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_never_answers_is_504_and_connections_are_reused() {
    let world = World::start().await;
    let answer = world
        .send("GET /never HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status, 504, "{answer:?}");
    let mut stream = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    let before = world
        .orders
        .connections
        .load(std::sync::atomic::Ordering::SeqCst);
    for _ in 0..20 {
        stream
            .write_all(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
            .await
            .expect("write");
        let mut some = Vec::new();
        assert!(read_some(&mut stream, &mut some).await > 0);
    }
    let dialled = world
        .orders
        .connections
        .load(std::sync::atomic::Ordering::SeqCst)
        - before;
    assert!(dialled <= 1, "20 requests used {dialled} new connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_has_no_body_and_expect_is_answered() {
    let mut world = World::start().await;
    let head = world
        .send_plain(b"HEAD /open HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(head.status, 200);
    let mut stream = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    stream
        .write_all(b"POST /open HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .await
        .expect("write");
    let mut some = Vec::new();
    assert!(read_some(&mut stream, &mut some).await > 0);
    assert!(
        some.starts_with(b"HTTP/1.1 100"),
        "{}",
        String::from_utf8_lossy(&some)
    );
    stream.write_all(b"ok").await.expect("write");
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.json()["length"], 2);
    assert_eq!(answer.seen("expect"), None);
    drop(stream);
    let log = world.finish().await;
    assert!(log.iter().all(|line| line["end"].is_null()), "{log:?}");
    assert!(
        log.iter()
            .any(|line| line["bytes_in"] == 2 && line["status"] == 200)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stalls_and_a_client_that_does_not_read_are_ended() {
    let world = World::start_with(&[(
        "header_timeout: 10s",
        "header_timeout: 10s, body_timeout: 1s, write_timeout: 1s",
    )])
    .await;
    let mut stalled = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    stalled
        .write_all(b"POST /open HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: 10\r\n\r\na")
        .await
        .expect("write");
    let mut deaf = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    deaf.write_all(b"GET /big HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await
        .expect("write");
    let started = Instant::now();
    let mut some = Vec::new();
    assert_eq!(
        read_some(&mut stalled, &mut some).await,
        0,
        "ended without an answer"
    );
    assert!(started.elapsed() < Duration::from_secs(4));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut total = 0;
    loop {
        some.clear();
        match read_some(&mut deaf, &mut some).await {
            0 => break,
            read => total += read,
        }
    }
    assert!(
        total < 64 * 1024 * 1024,
        "the response went on for a client that did not read"
    );
}
