//! Endpoints that fail, answers that are late, callers that leave.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Request;
use listenfd::ListenFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use super::super::peers::{read2, seen};
use super::super::world::{HTTP, HTTP2, TOKEN};
use super::{Pair, dead};
use crate::app::{Running, shared};
use ringwall_mesh_api::traffic::RoutePolicy;

/// How long a breaker of these tests stays open.
const OPEN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r29_a_dead_endpoint_costs_no_request_and_is_ejected() {
    let dead = dead(HTTP).await;
    let pair = Pair::start_with(|orders| {
        orders.endpoints.push(dead);
        // All of them come at once here.
        orders.traffic.retries.budget_floor = 10;
    })
    .await;
    for n in 0..60 {
        let body = "x".repeat(n * 10);
        let answer = pair
            .send(&format!(
                "POST /v1/orders HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["length"], n * 10, "the body is sent again");
    }
    let shared = &pair.running.shared;
    let snapshot = shared.state.snapshot.load();
    let orders = &snapshot.services["orders"];
    let callee = shared.callees.of(&snapshot, orders, HTTP);
    assert!(callee.tally().retries.get() >= 1);
    assert_eq!(pair.world.app.seen(), 60);
    // One is not enough for an ejection: what is expected of it grows first. A dead one is met five times at most.
    assert!(callee.tally().retries.get() <= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r29_a_service_that_fails_is_given_a_rest_and_tried_again() {
    let dead = dead(HTTP).await;
    let pair = Pair::start_with(|orders| {
        orders.endpoints = vec![dead];
        orders.traffic.breaker.min_requests = 5;
        orders.traffic.breaker.open = OPEN;
        orders.traffic.retries.attempts = 0;
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(pair.get("orders", "/v1/orders", "").await);
    }
    assert!(statuses[..5].iter().all(|answer| answer.status == 502));
    assert!(statuses[5..].iter().all(|answer| answer.status == 503));
    assert!(statuses[6].body.contains("circuit-open"));
    let line = pair.line(|line| line["refusal"] == "circuit-open").await;
    assert_eq!(line["flag"], "UO");
    // The service comes back, at another address; the breaker has to find out.
    let mut orders = pair.orders();
    orders.traffic.breaker.min_requests = 5;
    orders.traffic.breaker.open = OPEN;
    pair.publish(vec![orders], super::bundle());
    sleep(OPEN).await;
    for _ in 0..5 {
        assert_eq!(pair.get("orders", "/v1/orders", "").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_a_service_without_endpoints_is_a_clear_answer() {
    let pair = Pair::start_with(|orders| orders.endpoints.clear()).await;
    let answer = pair.get("orders", "/v1/orders", "").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("no-endpoint"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r29_requests_beyond_the_limit_are_refused_at_once() {
    let pair = Pair::start_with(|orders| orders.traffic.breaker.max_requests = 1).await;
    let mut first = pair.connect().await;
    let request =
        format!("GET /never HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n");
    first.write_all(request.as_bytes()).await.unwrap();
    while pair.world.app.seen() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let second = pair.get("orders", "/v1/orders", "").await;
    assert_eq!(second.status, 503);
    assert!(second.body.contains("overloaded"), "{}", second.body);
    // The first one leaves, and with it its place and its request at the peer.
    drop(first);
    let line = pair.line(|line| line["path"] == "/never").await;
    assert_eq!(line["end"], "aborted");
    assert_eq!(pair.get("orders", "/v1/orders", "").await.status, 200);
    let theirs = pair.world.line(|line| line["path"] == "/never").await;
    assert_eq!(
        theirs["end"], "aborted",
        "the caller's leaving reached the peer"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_a_late_answer_is_a_timeout_and_the_deadline_is_told() {
    let pair = Pair::start_with(|orders| {
        orders.traffic.routes = vec![RoutePolicy {
            method: None,
            prefix: "/never".to_owned(),
            timeout: Some(Duration::from_millis(200)),
            retries: None,
            hedge: None,
        }];
    })
    .await;
    let began = Instant::now();
    let answer = pair.get("orders", "/never", "").await;
    assert_eq!(answer.status, 504);
    assert!(began.elapsed() < Duration::from_secs(3));
    let line = pair.line(|line| line["path"] == "/never").await;
    assert_eq!(line["refusal"], "timeout");
    assert_eq!(line["flag"], "UT");
    // A plain request is told what its policy leaves; a wish is passed on, less what has gone.
    let told = |said: &serde_json::Value| -> u64 {
        let fields = seen(said, "grpc-timeout");
        assert_eq!(fields.len(), 1);
        fields[0].strip_suffix('u').unwrap().parse().unwrap()
    };
    let said = pair.get("orders", "/v1/x", "").await.json();
    assert!((10_000_000..=15_000_000).contains(&told(&said)));
    let said = pair
        .get("orders", "/v1/x", "Grpc-Timeout: 5S\r\n")
        .await
        .json();
    assert!((4_000_000..5_000_000).contains(&told(&said)));
    let wrong = pair.get("orders", "/v1/x", "Grpc-Timeout: soon\r\n").await;
    assert_eq!(wrong.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_a_call_of_grpc_ends_with_its_deadline_in_its_own_words() {
    let pair = Pair::start().await;
    let mut sender = pair.http2().await;
    let request = Request::post(format!("http://orders:{HTTP2}/never"))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "150m")
        .header("x-ringwall-loopback", TOKEN)
        .body(())
        .unwrap();
    let began = Instant::now();
    let (response, _) = sender.send_request(request, true).unwrap();
    let answer = read2(response.await.unwrap()).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.headers["grpc-status"], "4");
    let request = Request::post("http://nobody/never")
        .header("content-type", "application/grpc")
        .header("x-ringwall-loopback", TOKEN)
        .body(())
        .unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let answer = read2(response.await.unwrap()).await;
    assert_eq!(answer.head.headers["grpc-status"], "12");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_a_caller_that_resets_its_stream_ends_the_work_for_it() {
    let pair = Pair::start().await;
    let mut sender = pair.http2().await;
    let request = Request::get("http://orders/never")
        .header("x-ringwall-loopback", TOKEN)
        .body(())
        .unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    while pair.world.app.seen() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    let theirs = pair.world.line(|line| line["path"] == "/never").await;
    assert_eq!(theirs["end"], "aborted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_a_hedge_answers_for_a_slow_endpoint() {
    let pair = Pair::start_with(|orders| {
        // Twice the same place behind two names: what is slow is the request.
        let twin = crate::resilience::fixture::endpoint(orders.endpoints[1].address, HTTP);
        orders.endpoints.push(twin);
        orders.endpoints.retain(|endpoint| endpoint.port == HTTP);
        orders.traffic.hedge = Some(Duration::from_millis(100));
    })
    .await;
    let began = Instant::now();
    assert_eq!(pair.get("orders", "/slow", "").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(700));
    let line = pair.line(|line| line["path"] == "/slow").await;
    assert_eq!(line["attempts"], 2);
    assert_eq!(pair.world.app.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_a_peer_that_drains_fails_no_request() {
    let mut pair = Pair::start().await;
    assert_eq!(pair.get("orders", "/v1/orders", "").await.status, 200);
    let (http, running) = (pair.http(), pair.world.running.take().unwrap());
    let calling = tokio::spawn(async move {
        let mut statuses = Vec::new();
        for _ in 0..200 {
            let mut socket = tokio::net::TcpStream::connect(http).await.unwrap();
            let request = format!(
                "GET /v1/orders HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nConnection: close\r\n\r\n"
            );
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut text = Vec::new();
            socket.read_to_end(&mut text).await.unwrap();
            statuses.push(String::from_utf8_lossy(&text[..12]).into_owned());
            sleep(Duration::from_millis(2)).await;
        }
        statuses
    });
    sleep(Duration::from_millis(100)).await;
    // Its successor listens already, and discovery has told.
    let world = &pair.world;
    let parts = shared(&world.shell, &world.config, &world.state).unwrap();
    let successor = Running::over(parts, ListenFd::empty()).unwrap();
    let at = &successor.addresses;
    pair.publish(vec![Pair::orders_at(at[0], at[2])], super::bundle());
    running.drain(Duration::from_secs(5)).await;
    let statuses = calling.await.unwrap();
    let failed = statuses
        .iter()
        .filter(|s| !s.starts_with("HTTP/1.1 200"))
        .count();
    assert_eq!(failed, 0, "{statuses:?}");
}
