//! Bytes stream in both directions: bodies, WebSocket, tunnels.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peers::{connect_request, get2, http2, is_over, read_some, read2, tls};
use super::world::{ADMIN, HTTP, TCP, World};

async fn data(body: &mut RecvStream) -> Bytes {
    let wait = Duration::from_secs(5);
    let data = tokio::time::timeout(wait, body.data())
        .await
        .expect("in time");
    let data = data.expect("not the end").expect("data");
    let _released = body.flow_control().release_capacity(data.len());
    data
}

/// Reads until `length` bytes are there.
async fn exactly(body: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        all.extend_from_slice(&data(body).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_stream_at_once() {
    let world = World::start().await;
    for port in [HTTP, super::world::HTTP2] {
        let mut peer = world.http2("gateway", port).await;
        let request = Request::post("http://orders/echo")
            .body(())
            .expect("request");
        let (response, mut send) = peer.sender.send_request(request, false).expect("send");
        // HTTP/1.1 applications answer once they have begun to read.
        send.send_data("first".into(), false).expect("data");
        let mut body = response.await.expect("response").into_body();
        assert_eq!(exactly(&mut body, 5).await, b"first");
        for text in ["second", "third"] {
            send.send_data(text.into(), false).expect("data");
            assert_eq!(exactly(&mut body, text.len()).await, text.as_bytes());
        }
        send.send_data(Bytes::new(), true).expect("end");
        assert!(is_over(&mut body).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_arrives_before_the_request_is_complete() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    let request = Request::post("http://orders/early")
        .body(())
        .expect("request");
    let (response, mut send) = peer.sender.send_request(request, false).expect("send");
    send.send_data("a".into(), false).expect("data");
    let answer = read2(response.await.expect("response")).await;
    assert_eq!(answer.body, b"early");
    assert_eq!(peer.get("/still-usable").await.head.status, 200);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = status.split(' ').nth(1).expect("pages");
    pages.parse::<usize>().expect("number") * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_slowly_holds_the_application_back() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    let (response, _) = peer
        .sender
        .send_request(get2("/big").map(|_| ()), true)
        .expect("send");
    let mut body = response.await.expect("response").into_body();
    let before = resident();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grown = resident().saturating_sub(before);
    // Other tests of this process have their share in it.
    assert!(grown < 40 * 1024 * 1024, "64 MiB wait; grew by {grown}");
    let mut total = 0;
    while total < 64 * 1024 * 1024 {
        total += data(&mut body).await.len();
    }
    assert!(is_over(&mut body).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_websocket_over_http1() {
    let world = World::start().await;
    let mut stream = tls(&world.source("gateway"), world.at(HTTP))
        .await
        .expect("TLS");
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await
        .expect("write");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(read_some(&mut stream, &mut head).await > 0);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    // Bytes that would be an offence in HTTP are frames now.
    for message in [&b"\n\n\0frame"[..], b"GET / HTTP/1.1\nHost: x\n\n"] {
        stream.write_all(message).await.expect("write");
        let mut echoed = vec![0; message.len()];
        stream.read_exact(&mut echoed).await.expect("echo");
        assert_eq!(echoed, message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_websocket_over_http2_is_an_extended_connect() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    assert!(peer.sender.is_extended_connect_protocol_enabled());
    let request = || {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("http://orders/ws")
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        request.body(()).expect("request")
    };
    let (response, mut send) = peer.sender.send_request(request(), false).expect("send");
    let response = response.await.expect("response");
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut body = response.into_body();
    for text in ["one", "two"] {
        send.send_data(text.into(), false).expect("data");
        assert_eq!(exactly(&mut body, 3).await, text.as_bytes());
    }
    send.send_data(Bytes::new(), true).expect("end");
    assert!(is_over(&mut body).await);
    let line = world.line(|line| line["flow"] == "websocket").await;
    assert_eq!(
        (line["bytes_in"].as_u64(), line["bytes_out"].as_u64()),
        (Some(6), Some(6))
    );
    // Any other protocol is not carried.
    let mut other = request();
    other
        .extensions_mut()
        .insert(Protocol::from_static("connect-udp"));
    let (response, _send) = peer.sender.send_request(other, false).expect("send");
    assert_eq!(response.await.expect("response").status(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_opaque_bytes_through_a_tunnel_and_the_server_speaks_first() {
    let world = World::start().await;
    // On any inbound listener, on the one of the port, and on the HBONE port.
    for at in [world.at(HTTP), world.at(TCP), world.hbone()] {
        let mut peer = http2(&world.source("gateway"), at).await;
        let request = connect_request(&format!("orders:{TCP}"));
        let (response, mut send) = peer.sender.send_request(request, false).expect("send");
        let response = response.await.expect("response");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        assert_eq!(exactly(&mut body, 5).await, b"hello");
        send.send_data("query".into(), false).expect("data");
        assert_eq!(exactly(&mut body, 5).await, b"QUERY");
        // Half-close: the application may still answer.
        send.send_data(Bytes::new(), true).expect("end");
        assert_eq!(exactly(&mut body, 3).await, b"bye");
        assert!(is_over(&mut body).await);
    }
    let lines = world
        .log(|lines| lines.iter().filter(|line| line["flow"] == "tcp").count() == 3)
        .await;
    let tcp = lines
        .iter()
        .find(|line| line["flow"] == "tcp")
        .expect("line");
    assert_eq!(tcp["port"], TCP);
    assert_eq!(
        (tcp["bytes_in"].as_u64(), tcp["bytes_out"].as_u64()),
        (Some(5), Some(13))
    );
    assert!(tcp["end"].is_null(), "{tcp}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_carries_much_and_exactly() {
    let world = World::start().await;
    let mut peer = http2(&world.source("gateway"), world.hbone()).await;
    let request = connect_request(&format!("127.0.0.1:{TCP}"));
    let (response, mut send) = peer.sender.send_request(request, false).expect("send");
    let mut body = response.await.expect("response").into_body();
    exactly(&mut body, 5).await;
    let total = 16 * 1024 * 1024;
    let writer = tokio::spawn(async move {
        let piece = Bytes::from(vec![b'a'; 16 * 1024]);
        for _ in 0..total / piece.len() {
            send.reserve_capacity(piece.len());
            while send.capacity() < piece.len() {
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                room.expect("open").expect("room");
            }
            send.send_data(piece.clone(), false).expect("data");
        }
        send.send_data(Bytes::new(), true).expect("end");
    });
    let all = exactly(&mut body, total + 3).await;
    assert!(all[..total].iter().all(|byte| *byte == b'A'));
    assert_eq!(&all[total..], b"bye");
    writer.await.expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_without_a_tunnel_reaches_an_opaque_port() {
    let world = World::start().await;
    let mut stream = tls(&world.source("gateway"), world.at(TCP))
        .await
        .expect("TLS");
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.expect("greeting");
    assert_eq!(&greeting, b"hello");
    stream.write_all(b"query").await.expect("write");
    stream.read_exact(&mut greeting).await.expect("answer");
    assert_eq!(&greeting, b"QUERY");
    stream.shutdown().await.expect("half-close");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("rest");
    assert_eq!(rest, b"bye");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_tunnel_leads_around_no_policy() {
    let world = World::start().await;
    let mut peer = http2(&world.source("gateway"), world.hbone()).await;
    let request = connect_request(&format!("orders:{HTTP}"));
    let (response, mut send) = peer.sender.send_request(request, false).expect("send");
    let response = response.await.expect("response");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for (path, status) in [("/v1/orders", "200"), ("/forbidden", "403")] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: orders\r\nX-Forwarded-Client-Cert: URI=spiffe://ringwall.local/ringwall\r\n\r\n"
        );
        send.send_data(request.into(), false).expect("data");
        let mut answer = String::new();
        while !answer.contains("}") {
            answer += &String::from_utf8_lossy(&data(&mut body).await);
        }
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(
            !answer.contains("URI=spiffe://ringwall.local/ringwall"),
            "{answer}"
        );
    }
    // What is smuggled inside a tunnel is seen too.
    let smuggled = "POST /x HTTP/1.1\r\nHost: orders\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    send.send_data(smuggled.into(), false).expect("data");
    assert!(String::from_utf8_lossy(&data(&mut body).await).starts_with("HTTP/1.1 400 "));
    let line = world.line(|line| line["path"] == "/forbidden").await;
    assert_eq!(line["refusal"], "policy-denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r50_tunnels_lead_to_declared_ports_with_an_edge_alone() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    for (target, status) in [
        ("orders:22", 404),
        ("orders:0", 404),
        (&format!("orders:{ADMIN}"), 403),
    ] {
        let request = connect_request(target);
        let (response, _send) = peer.sender.send_request(request, false).expect("send");
        assert_eq!(
            response.await.expect("response").status(),
            status,
            "{target}"
        );
    }
    // Nothing but tunnels on the HBONE port.
    let mut peer = http2(&world.source("gateway"), world.hbone()).await;
    assert_eq!(peer.get("/v1/orders").await.head.status, 400);
    assert_eq!(world.app.seen(), 0);
    assert_eq!(
        world
            .app
            .connections
            .load(std::sync::atomic::Ordering::SeqCst),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_loses_interest_ends_the_work_for_it() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    let (response, mut send) = peer
        .sender
        .send_request(get2("/never").map(|_| ()), false)
        .expect("send");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    send.send_reset(h2::Reason::CANCEL);
    drop(response);
    let line = world.line(|line| line["path"] == "/never").await;
    assert_eq!(line["end"], "aborted");
    assert!(started.elapsed() < Duration::from_secs(2));
}
