//! Services that the gateway believes no more: what it has open to them ends, and nothing new begins.

use std::time::{Duration, Instant};

use ringwall_identity::TrustDomain;
use ringwall_identity::authority::Authority;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::harness::{World, read_answer, read_some};

const ENDS: Duration = Duration::from_secs(1);

/// A connection to the gateway on which a request for `path` is under way.
async fn ask(world: &World, path: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nHost: api.localhost\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    stream
}

/// Reads until the response is seen to flow.
async fn flowing(stream: &mut TcpStream, sign: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(sign) {
        assert!(
            read_some(stream, &mut seen).await > 0,
            "{}",
            String::from_utf8_lossy(&seen)
        );
    }
}

/// Reads to the end of the connection; the last bytes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    while read_some(stream, &mut seen).await > 0 {}
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_what_is_open_to_a_service_ends_when_it_is_believed_no_more() {
    const SOCKET: &str = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut world = World::start().await;
    let idle = world
        .send_plain(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(idle.status, 200);
    let mut stream = ask(&world, "/drip", "").await;
    flowing(&mut stream, "event: tick").await;
    let mut socket = ask(&world, "/ws", SOCKET).await;
    flowing(&mut socket, "\r\n\r\n").await;
    let mut waiting = ask(&world, "/open/never", "").await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let domain = TrustDomain::parse("ringwall.local").expect("domain");
    let strangers = Authority::generate(&domain, OffsetDateTime::now_utc()).expect("authority");
    let before = world.trust(strangers.cert_pem());
    let began = Instant::now();
    let last = rest(&mut stream).await;
    assert!(
        !last.ends_with(b"0\r\n\r\n"),
        "half a response passes for a whole one"
    );
    rest(&mut socket).await;
    assert!(began.elapsed() < ENDS, "{:?}", began.elapsed());
    let refused = read_answer(&mut waiting).await;
    assert_eq!(refused.status, 502, "no answer had begun: {refused:?}");
    let new = world
        .send_plain(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(new.status, 502, "{new:?}");

    world.trust(&before);
    let again = world
        .send_plain(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(again.status, 200, "{again:?}");
    let log = world.finish().await;
    let drip = log.iter().find(|line| line["path"] == "/drip");
    assert_eq!(drip.expect("logged")["end"], "aborted", "{drip:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_what_is_open_to_a_service_ends_with_its_certificate() {
    let left = Duration::from_secs(4);
    let began = Instant::now();
    let world = World::start_where(&[], left).await;
    let mut stream = ask(&world, "/drip", "").await;
    flowing(&mut stream, "event: tick").await;
    rest(&mut stream).await;
    let took = began.elapsed();
    // Certificates end at whole seconds.
    assert!(
        took + ENDS > left && took < left + ENDS,
        "ended after {took:?}"
    );
}
