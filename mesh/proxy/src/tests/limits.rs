//! What there is too much of is refused with the right word, and what has a limit stays below it.

use std::time::Duration;

use http::Request;

use super::peers::{get2, tls};
use super::world::{HTTP, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_are_503_and_room_comes_back() {
    let world = World::start_with(&[("header_timeout: 10s", "max_requests: 2")]).await;
    let mut peer = world.http2("gateway", HTTP).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let request = get2("/lingering").map(|_| ());
        let (response, _) = peer.sender.send_request(request, true).expect("send");
        held.push(response.await.expect("response"));
    }
    let answer = peer.get("/x").await;
    assert_eq!(answer.head.status, 503);
    assert_eq!(answer.head.headers["retry-after"], "1");
    let line = world.line(|line| line["status"] == 503).await;
    assert_eq!(line["refusal"], "too-many-requests");
    assert_eq!(line["flag"], "UO");
    drop(held);
    for _ in 0..100 {
        if peer.get("/x").await.head.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no room came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_beyond_the_limit_are_413_and_calls_of_grpc_have_none() {
    let world = World::start_with(&[("header_timeout: 10s", "max_body: 10")]).await;
    let declared = "POST /x HTTP/1.1\r\nHost: orders\r\nContent-Length: 11\r\n\r\nhello world";
    let answer = world.send("gateway", HTTP, declared).await;
    assert_eq!((answer.status, answer.closed), (413, true), "{answer:?}");
    let chunked = "POST /x HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n";
    assert_eq!(world.send("gateway", HTTP, chunked).await.status, 413);
    let mut peer = world.http2("gateway", HTTP).await;
    let post = |path: &str, kind: &'static str| {
        Request::post(format!("http://orders{path}"))
            .header("content-type", kind)
            .body(&b"0123456789abcdef"[..])
            .expect("request")
    };
    let answer = peer.send(post("/x", "text/plain")).await;
    assert_eq!(answer.head.status, 413);
    let answer = peer
        .send(post("/pkg.Service/Call", "application/grpc"))
        .await;
    assert_eq!(answer.trailers.expect("trailers")["x-length"], "16");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_closed() {
    let world = World::start_with(&[("header_timeout: 10s", "max_connections: 2")]).await;
    let gateway = world.source("gateway");
    let first = tls(&gateway, world.at(HTTP)).await.expect("TLS");
    let _second = tls(&gateway, world.at(HTTP)).await.expect("TLS");
    assert!(tls(&gateway, world.at(HTTP)).await.is_err());
    drop(first);
    for _ in 0..100 {
        if tls(&gateway, world.at(HTTP)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no room came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_never_answers_is_504() {
    let world = World::start_with(&[("header_timeout: 10s", "response_timeout: 300ms")]).await;
    assert_eq!(world.get("gateway", "/never").await.status, 504);
    let line = world.line(|line| line["path"] == "/never").await;
    assert_eq!(
        (line["refusal"].as_str(), line["flag"].as_str()),
        (Some("timeout"), Some("UT"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_end() {
    let world = World::start_with(&[("header_timeout: 10s", "idle_timeout: 1s")]).await;
    let mut peer = world.http2("gateway", HTTP).await;
    assert_eq!(peer.get("/x").await.head.status, 200);
    let ended = tokio::time::timeout(Duration::from_secs(4), peer.driver).await;
    let _how = ended.expect("ended").expect("driver");
}
