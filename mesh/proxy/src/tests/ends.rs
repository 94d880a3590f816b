//! Live connections end within a second when their peer loses its right to them (R34).

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peers::{Http2, Tls, connect_request, get2, http2, read_some, tls};
use super::world::{HTTP, TCP, World, bundle};

const SECOND: Duration = Duration::from_secs(1);

/// Everything that can be open: a stream of HTTP/2, a tunnel, a WebSocket, idle HTTP/1.1.
struct Open {
    http2: Http2,
    stream: RecvStream,
    tunnel: (SendStream<Bytes>, RecvStream),
    websocket: Tls,
    idle: Tls,
    bare: Tls,
}

impl Open {
    async fn of(world: &World, ttl: Duration) -> Self {
        let source = world.source_for("gateway", ttl);
        let mut peer = http2(&source, world.at(HTTP)).await;
        let request = get2("/lingering").map(|_| ());
        let (response, _) = peer.sender.send_request(request, true).expect("send");
        let mut stream = response.await.expect("response").into_body();
        stream.data().await.expect("first").expect("byte");
        let request = connect_request(&format!("orders:{TCP}"));
        let (response, send) = peer.sender.send_request(request, false).expect("send");
        let mut recv = response.await.expect("response").into_body();
        recv.data().await.expect("greeting").expect("bytes");
        let mut websocket = tls(&source, world.at(HTTP)).await.expect("TLS");
        websocket
            .write_all(b"GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nx")
            .await
            .expect("write");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\nx") {
            assert!(read_some(&mut websocket, &mut head).await > 0);
        }
        let mut idle = tls(&source, world.at(HTTP)).await.expect("TLS");
        idle.write_all(b"GET /x HTTP/1.1\r\nHost: orders\r\n\r\n")
            .await
            .expect("write");
        assert!(read_some(&mut idle, &mut head).await > 0);
        let mut bare = tls(&source, world.at(TCP)).await.expect("TLS");
        let mut greeting = [0; 5];
        bare.read_exact(&mut greeting).await.expect("greeting");
        Self {
            http2: peer,
            stream,
            tunnel: (send, recv),
            websocket,
            idle,
            bare,
        }
    }

    /// Waits until all of it has ended.
    async fn ended(self) {
        let Self {
            http2,
            mut stream,
            tunnel: (_send, mut tunnel),
            mut websocket,
            mut idle,
            mut bare,
        } = self;
        let over = |data: Option<Result<Bytes, h2::Error>>| !matches!(data, Some(Ok(_)));
        assert!(over(stream.data().await));
        assert!(over(tunnel.data().await));
        for connection in [&mut websocket, &mut idle, &mut bare] {
            let mut rest = [0; 16];
            assert!(matches!(connection.read(&mut rest).await, Ok(0) | Err(_)));
        }
        let _driver = http2.driver.await.expect("driver");
    }
}

async fn within_a_second(open: Open, since: Instant) {
    let left = (SECOND + Duration::from_millis(200)).saturating_sub(since.elapsed());
    tokio::time::timeout(left, open.ended())
        .await
        .expect("everything has ended within a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_revocation_ends_what_is_open() {
    let world = World::start().await;
    let open = Open::of(&world, super::world::HOUR).await;
    let neighbour = world.source("inventory");
    let mut neighbour = tls(&neighbour, world.at(HTTP)).await.expect("TLS");
    let since = Instant::now();
    world.revoke("gateway");
    within_a_second(open, since).await;
    neighbour
        .write_all(b"GET /x HTTP/1.1\r\nHost: orders\r\n\r\n")
        .await
        .expect("others are not concerned");
    let mut answer = Vec::new();
    assert!(read_some(&mut neighbour, &mut answer).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_the_end_of_an_edge_ends_what_is_open() {
    let world = World::start().await;
    let open = Open::of(&world, super::world::HOUR).await;
    let mut without = bundle();
    without.edges.retain(|edge| edge.caller != "gateway");
    let since = Instant::now();
    world.publish(without);
    within_a_second(open, since).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_the_end_of_a_certificate_ends_what_is_open() {
    let world = World::start().await;
    let began = Instant::now();
    let ttl = Duration::from_secs(4);
    let open = Open::of(&world, ttl).await;
    assert!(began.elapsed() < Duration::from_secs(2), "slow machine");
    // Certificates end at whole seconds.
    let late = ttl + SECOND + Duration::from_millis(200);
    tokio::time::timeout(late.saturating_sub(began.elapsed()), open.ended())
        .await
        .expect("everything has ended with the certificate");
    assert!(began.elapsed() >= ttl - SECOND, "and not much before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_another_connection_is_asked_for_before_a_certificate_ends() {
    let world = World::start().await;
    let began = Instant::now();
    let source = world.source_for("gateway", Duration::from_secs(4));
    let mut http1 = tls(&source, world.at(HTTP)).await.expect("TLS");
    let mut http2 = http2(&source, world.at(HTTP)).await;
    assert_eq!(http2.get("/x").await.head.status, 200);
    let mut answered = 0;
    loop {
        let mut answer = Vec::new();
        http1
            .write_all(b"GET /x HTTP/1.1\r\nHost: orders\r\n\r\n")
            .await
            .expect("write");
        assert!(
            read_some(&mut http1, &mut answer).await > 0,
            "cut after {answered}"
        );
        answered += 1;
        if answer
            .to_ascii_lowercase()
            .windows(17)
            .any(|part| part == b"connection: close")
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = began.elapsed();
    assert!(answered > 5, "asked at once");
    // GOAWAY: nothing is in flight, so that the connection ends.
    let gone = tokio::time::timeout(SECOND, http2.driver).await;
    let _driver = gone.expect("HTTP/2 as well").expect("driver");
    assert!(
        asked < Duration::from_millis(3_500),
        "{asked:?} is no time for another one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goaway_comes_before_the_cut() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    assert_eq!(peer.get("/x").await.head.status, 200);
    world.revoke("gateway");
    let ended = tokio::time::timeout(SECOND, peer.driver)
        .await
        .expect("ended");
    // NO_ERROR is an orderly end to the h2 crate; a cut alone would be an error of I/O.
    assert!(ended.expect("driver").is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_root_that_is_no_longer_trusted_ends_what_is_open() {
    let world = World::start().await;
    let open = Open::of(&world, super::world::HOUR).await;
    // The proxy's own identity moves to a new authority, and the old root leaves its bundle.
    let successor = super::world::authority("ringwall.local");
    super::world::identity(
        &successor,
        world.directory.path(),
        "orders",
        super::world::HOUR,
    );
    let since = Instant::now();
    assert!(
        world
            .shell
            .identity()
            .expect("identity")
            .reload()
            .expect("reload")
    );
    within_a_second(open, since).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_under_supervision_when_peers_go() {
    let world = World::start().await;
    let open = Open::of(&world, super::world::HOUR).await;
    let workers = &world.running().workers;
    let live = || {
        workers
            .iter()
            .map(|worker| worker.live.len())
            .sum::<usize>()
    };
    let watched = || {
        workers
            .iter()
            .map(|worker| worker.watches.len())
            .sum::<usize>()
    };
    assert!(live() >= 5);
    drop(open);
    for _ in 0..100 {
        if live() == 0 && watched() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} live, {} watched", live(), watched());
}
