//! What arrives, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::peers::{is_over, read_answer, read2, seen};
use super::super::world::{HTTP2, TCP, TOKEN};
use super::{Pair, egress};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_plain_request_arrives_with_the_callers_identity() {
    let pair = Pair::start().await;
    let answer = pair
        .get("orders", "/v1/orders?page=2", "Accept: */*\r\n")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.closed, "keep-alive");
    let said = answer.json();
    assert_eq!(said["uri"], "/v1/orders?page=2");
    assert_eq!(seen(&said, "host"), ["orders"]);
    let cert = &seen(&said, "x-forwarded-client-cert")[0];
    assert!(
        cert.contains("URI=spiffe://ringwall.local/gateway"),
        "{cert}"
    );
    assert_eq!(seen(&said, "accept"), ["*/*"]);
    let line = pair.line(|line| line["path"] == "/v1/orders").await;
    assert_eq!(line["direction"], "outbound");
    assert_eq!(line["callee"], "orders");
    assert_eq!(line["status"], 200);
    assert_eq!(line["endpoint"], pair.world.at(super::HTTP).to_string());
    // One connection to the peer, whatever the number of requests and connections of the application.
    for _ in 0..10 {
        assert_eq!(pair.get("orders", "/v1/orders", "").await.status, 200);
    }
    assert_eq!(pair.running.workers[0].tunnels.open(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_the_trace_goes_on_through_both_proxies() {
    let pair = Pair::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let field = format!("Traceparent: 00-{trace}-00f067aa0ba902b7-01\r\nTracestate: a=b\r\n");
    let said = pair.get("orders", "/v1/orders", &field).await.json();
    let parent = &seen(&said, "traceparent")[0];
    let unchanged = format!("00-{trace}-00f067aa0ba902b7-01");
    assert_eq!(
        *parent, unchanged,
        "without telemetry there is no span of ours"
    );
    assert_eq!(seen(&said, "tracestate"), ["a=b"]);
    let said = pair
        .get("orders", "/v1/x", "Tracestate: a=b\r\n")
        .await
        .json();
    assert_eq!(seen(&said, "traceparent").len(), 1, "begun here");
    assert_eq!(seen(&said, "tracestate"), Vec::<String>::new());
    let line = pair.line(|line| line["path"] == "/v1/orders").await;
    assert_eq!(line["trace_id"], trace);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_ports_are_named_and_hosts_are_services() {
    let pair = Pair::start().await;
    let said = pair
        .get(&format!("orders:{HTTP2}"), "/v1/x", "")
        .await
        .json();
    assert_eq!(said["version"], "2");
    assert_eq!(pair.get("ORDERS", "/v1/x", "").await.status, 200);
    let absolute = format!(
        "GET http://orders/v1/y HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"
    );
    assert_eq!(pair.send(&absolute).await.json()["uri"], "/v1/y");
    let opaque = pair.get(&format!("orders:{TCP}"), "/v1/x", "").await;
    assert_eq!(opaque.status, 404);
    assert_eq!(pair.get("orders:1", "/v1/x", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_head_has_a_length_and_no_body() {
    let pair = Pair::start().await;
    let mut socket = pair.connect().await;
    let head =
        format!("HEAD /v1/orders HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 4096];
    let read = socket.read(&mut bytes).await.unwrap();
    let text = String::from_utf8_lossy(&bytes[..read]);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "{text}");
    // The connection goes on with the next request.
    let get = head.replace("HEAD", "GET");
    socket.write_all(get.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut socket).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_large_bodies_stream_both_ways_past_a_slow_reader() {
    let pair = Pair::start().await;
    let body: Vec<u8> = (0..2 * 1024 * 1024u32)
        .map(|n| n.to_le_bytes()[0])
        .collect();
    let socket = pair.connect().await;
    let (mut reader, mut writer) = socket.into_split();
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let sent = body.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(head.as_bytes()).await.unwrap();
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let mut seen = Vec::new();
    let mut buffer = vec![0; 48 * 1024];
    loop {
        let read = reader.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        seen.extend_from_slice(&buffer[..read]);
        if seen.len() < 512 * 1024 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    writing.await.unwrap();
    let text = String::from_utf8_lossy(&seen[..64]);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let end = seen.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(seen[end..] == body, "{} bytes", seen.len() - end);
    let line = pair.line(|line| line["path"] == "/echo").await;
    assert_eq!(line["bytes_in"], body.len());
    assert_eq!(line["bytes_out"], body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_grpc_with_prior_knowledge_has_its_trailers() {
    let pair = Pair::start().await;
    let mut sender = pair.http2().await;
    let request = Request::post(format!("http://orders:{HTTP2}/pkg.Service/Call"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-ringwall-loopback", TOKEN)
        .body(())
        .unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    for _ in 0..10 {
        stream
            .send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false)
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.send_data(Bytes::new(), true).unwrap();
    let answer = read2(response.await.unwrap()).await;
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.headers["x-version"], "2");
    assert_eq!(answer.head.headers["x-te"], "trailers");
    assert_eq!(answer.body, b"\0\0\0\0\x02ok");
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-length"], "60");
    let line = pair.line(|line| line["path"] == "/pkg.Service/Call").await;
    assert_eq!(line["grpc_status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_request_trailers_pass() {
    let pair = Pair::start().await;
    let mut sender = pair.http2().await;
    let request = Request::post(format!("http://orders:{HTTP2}/v1/orders"))
        .header("x-ringwall-loopback", TOKEN)
        .body(())
        .unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream
        .send_data(Bytes::from_static(b"body"), false)
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    stream.send_trailers(trailers).unwrap();
    let said = read2(response.await.unwrap()).await.json();
    assert_eq!(said["length"], 4);
    assert_eq!(said["trailers"][0][1], "7", "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_both_directions_stream_at_once() {
    let pair = Pair::start().await;
    let mut sender = pair.http2().await;
    let request = Request::post(format!("http://orders:{HTTP2}/echo"))
        .header("x-ringwall-loopback", TOKEN)
        .body(())
        .unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream
        .send_data(Bytes::from_static(b"first"), false)
        .unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    stream
        .send_data(Bytes::from_static(b"second"), true)
        .unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "second");
    assert!(is_over(&mut body).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_websocket_of_http1_and_one_of_http2_reach_the_application() {
    let pair = Pair::start().await;
    let mut socket = pair.connect().await;
    let handshake = format!(
        "GET /ws HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    // What follows is no HTTP, and is not read as such.
    for frame in [
        &b"\x81\x05hello"[..],
        b"GET / HTTP/1.1\nbroken",
        b"\r\n\r\n\0",
    ] {
        socket.write_all(frame).await.unwrap();
        let mut echoed = vec![0; frame.len()];
        socket.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, frame);
    }
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    let line = pair.line(|line| line["flow"] == "websocket").await;
    assert_eq!(line["status"], 101);
    assert_eq!(line["bytes_in"], 7 + 21 + 5);

    let mut sender = pair.http2().await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://orders/ws")
        .header("x-ringwall-loopback", TOKEN)
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let protocol = h2::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    stream
        .send_data(Bytes::from_static(b"frame"), false)
        .unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "frame");
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(is_over(&mut body).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_declined_websocket_is_an_answer() {
    let pair = Pair::start().await;
    let answer = pair
        .get(
            "orders",
            "/forbidden/ws",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        )
        .await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_names_outside_go_to_the_egress_gateway() {
    let pair = Pair::start().await;
    let outside = pair.get("api.example.com", "/v1/x", "").await;
    assert_eq!(outside.status, 404);
    assert!(outside.body.contains("egress"), "{}", outside.body);
    pair.publish(
        vec![pair.orders(), egress(&pair)],
        super::bundle_with_database(),
    );
    let request = format!(
        "GET http://api.example.com:8080/v1/x?y=1 HTTP/1.1\r\nHost: api.example.com:8080\r\nX-Ringwall-Loopback: {TOKEN}\r\nProxy-Authorization: Basic eA==\r\n\r\n"
    );
    let said = pair.send(&request).await.json();
    assert_eq!(seen(&said, "host"), ["api.example.com:8080"]);
    assert_eq!(said["uri"], "/v1/x?y=1");
    assert_eq!(seen(&said, "proxy-authorization"), Vec::<String>::new());
    // A name without a dot is never outside.
    assert_eq!(pair.get("metadata", "/v1/x", "").await.status, 404);
}
