//! Requests pass, with what the application may rely on.

use http::{HeaderMap, HeaderValue, Request};
use serde_json::Value;

use super::peers::{get2, read2, seen};
use super::world::{ADMIN, HTTP, HTTP2, TOKEN, World, id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_request_over_http1_reaches_the_application_with_its_caller() {
    let world = World::start().await;
    let answer = world.get("gateway", "/v1/orders?q=%2F..%2F").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let said = answer.json();
    assert_eq!(said["uri"], "/v1/orders?q=%2F..%2F");
    assert_eq!(said["version"], "1.1");
    assert_eq!(seen(&said, "host"), ["orders"]);
    assert_eq!(seen(&said, "x-ringwall-loopback"), [TOKEN]);
    let client_cert = seen(&said, "x-forwarded-client-cert");
    let [client_cert] = client_cert.as_slice() else {
        panic!("{client_cert:?}")
    };
    let parts: Vec<&str> = client_cert.split(';').collect();
    assert_eq!(parts[0], format!("By={}", id("orders")));
    assert_eq!(parts[2], format!("URI={}", id("gateway")));
    let hash = parts[1].strip_prefix("Hash=").expect("hash");
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let line = world.line(|line| line["path"] == "/v1/orders").await;
    assert_eq!(line["caller"], "gateway");
    assert_eq!(line["callee"], "orders");
    assert_eq!(line["port"], HTTP);
    assert_eq!(line["reason"], "gateway-calls", "the policy that decided");
    assert!(!line.to_string().contains("q=") && !line.to_string().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_requests_over_http2_share_one_connection() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    for _ in 0..3 {
        let answer = peer.get("/v1/orders").await;
        assert_eq!(answer.head.status, 200);
        let said = answer.json();
        assert_eq!(said["version"], "1.1", "the application speaks HTTP/1.1");
        assert_eq!(seen(&said, "host"), ["orders"]);
        assert_eq!(said["uri"], "/v1/orders");
    }
    let post = Request::post("http://orders/v1/orders")
        .body(&b"0123456789"[..])
        .expect("request");
    let answer = peer.send(post).await;
    assert_eq!(answer.json()["length"], 10);
    let connections = world
        .app
        .connections
        .load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(connections, 1, "to the application too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_grpc_goes_to_the_application_as_http2_with_trailers() {
    let world = World::start().await;
    for port in [HTTP, HTTP2] {
        let mut peer = world.http2("gateway", port).await;
        let call = Request::post("http://orders/pkg.Service/Call")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(&b"\0\0\0\0\x02hi"[..])
            .expect("request");
        let answer = peer.send(call).await;
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.head.headers["x-version"], "2");
        assert_eq!(answer.head.headers["x-te"], "trailers");
        assert_eq!(answer.body, b"\0\0\0\0\x02ok");
        let trailers = answer.trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["x-length"], "7");
    }
    let line = world.line(|line| line["path"] == "/pkg.Service/Call").await;
    assert_eq!(line["grpc_status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_of_http2_is_asked_in_http2_by_every_peer() {
    let world = World::start().await;
    let request = "GET /x HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    let answer = world.send("gateway", HTTP2, request).await;
    let said = answer.json();
    assert_eq!((answer.status, &said["version"]), (200, &Value::from("2")));
    assert_eq!(said["uri"], "http://orders/x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_requests_pass() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP2).await;
    let request = Request::post("http://orders/x").body(()).expect("request");
    let (response, mut stream) = peer.sender.send_request(request, false).expect("send");
    stream.send_data("body".into(), false).expect("data");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    stream.send_trailers(trailers).expect("trailers");
    let said = read2(response.await.expect("response")).await.json();
    assert_eq!(said["length"], 4);
    assert_eq!(said["trailers"][0][0], "x-checksum");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_a_trace_is_continued_and_a_forged_state_is_not() {
    let world = World::start().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = format!(
        "GET /traced HTTP/1.1\r\nHost: orders\r\ntraceparent: {parent}\r\ntracestate: a=b\r\nConnection: close\r\n\r\n"
    );
    let said = world.send("gateway", HTTP, &request).await.json();
    let [text] = &seen(&said, "traceparent")[..] else {
        panic!("{said}")
    };
    assert_eq!(text, parent, "without telemetry there is no span of ours");
    assert_eq!(seen(&said, "tracestate"), ["a=b"]);
    let line = world.line(|line| line["path"] == "/traced").await;
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let request = "GET /x HTTP/1.1\r\nHost: orders\r\ntracestate: a=b\r\nConnection: close\r\n\r\n";
    let said = world.send("gateway", HTTP, request).await.json();
    assert_eq!(seen(&said, "tracestate"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_listener_has_edges_of_its_own() {
    let world = World::start().await;
    let request = "GET /metrics HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    assert_eq!(world.send("ringwall", ADMIN, request).await.status, 200);
    let write =
        "POST /metrics HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(world.send("ringwall", ADMIN, write).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_has_no_body_expect_is_answered_and_the_end_is_seen() {
    let world = World::start().await;
    let head = "HEAD /headless HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    let answer = world.send("gateway", HTTP, head).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let mut peer = world.http2("gateway", HTTP).await;
    let answer = peer
        .send(
            Request::head("http://orders/headless")
                .body(&[][..])
                .expect("request"),
        )
        .await;
    assert_eq!(answer.head.status, 200);
    assert!(answer.body.is_empty());
    let expect = "POST /expecting HTTP/1.1\r\nHost: orders\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nok";
    let answer = world.send("gateway", HTTP, expect).await;
    assert_eq!(answer.status, 100, "{answer:?}");
    let lines = world
        .log(|lines| {
            lines
                .iter()
                .filter(|line| line["path"] == "/headless")
                .count()
                == 2
        })
        .await;
    assert!(lines.iter().all(|line| line["end"].is_null()), "{lines:?}");
    let line = world.line(|line| line["path"] == "/expecting").await;
    assert_eq!(line["bytes_in"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_loopback_may_see_does_not_leave_it() {
    let world = World::start().await;
    let answer = world.get("gateway", "/leaky").await;
    assert_eq!(answer.field("x-ringwall-loopback"), None);
    assert_eq!(answer.field("x-kept"), Some("yes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_away_is_502_and_grpc_has_its_own_word() {
    // Port 1 of loopback: nobody listens there.
    let world = World::start_with(&[("APP_HTTP2", "127.0.0.1:1")]).await;
    let mut peer = world.http2("gateway", HTTP2).await;
    let answer = peer.send(get2("/away")).await;
    assert_eq!(answer.head.status, 502);
    let call = Request::post("http://orders/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .body(&[][..])
        .expect("request");
    let answer = peer.send(call).await;
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.headers["grpc-status"], "14");
    let line = world.line(|line| line["path"] == "/away").await;
    assert_eq!(
        (line["refusal"].as_str(), line["flag"].as_str()),
        (Some("connect"), Some("UF"))
    );
}
