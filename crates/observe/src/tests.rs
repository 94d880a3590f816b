use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Request, StatusCode};
use ringwall_identity::SpiffeId;
use ringwall_service::Peer;
use serde_json::Value;
use time::OffsetDateTime;
use tower::ServiceExt;

use super::*;

fn flow(caller: &str, path: &str, status: u16) -> Flow {
    let mut flow = Flow::new(OffsetDateTime::UNIX_EPOCH, Direction::Inbound);
    flow.caller = caller.into();
    flow.callee = "inventory".into();
    flow.method = "GET".into();
    flow.path = path.into();
    flow.status = status;
    flow
}

async fn ask(router: &Router, uri: &str) -> (StatusCode, Body) {
    let mut request = Request::get(uri).body(Body::empty()).unwrap();
    let operator = SpiffeId::parse("spiffe://ringwall.local/ringwall").unwrap();
    request.extensions_mut().insert(Peer(operator));
    let response = router.clone().oneshot(request).await.unwrap();
    (response.status(), response.into_body())
}

async fn lines(body: Body) -> Vec<Value> {
    let bytes = ringwall_http_io::body::collect(body, 1 << 20)
        .await
        .unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn next(stream: &mut (impl Stream<Item = Result<Bytes, axum::Error>> + Unpin)) -> Value {
    let bytes = stream.next().await.unwrap().unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn nothing_is_computed_while_nobody_looks() {
    let observer = Observer::new("inventory", &[]);
    observer.record(Verdict::Allowed, || unreachable!("nobody looks"));
    let (_, body) = ask(&router(Arc::clone(&observer)), "/observe?follow=true").await;
    let mut stream = body.into_data_stream();
    observer.record(Verdict::Allowed, || flow("orders", "/v1/stock?key=x", 200));
    let seen = next(&mut stream).await;
    assert_eq!(seen["proxy"], "inventory");
    assert_eq!(seen["path"], "/v1/stock", "without the query");
    assert_eq!(seen["verdict"], "allowed");
    drop(stream);
    observer.record(Verdict::Allowed, || unreachable!("nobody looks any more"));
}

#[tokio::test]
async fn denials_are_kept_and_filters_hold() {
    let observer = Observer::new("inventory", &[]);
    let routes = router(Arc::clone(&observer));
    for index in 0..MAX_KEPT + 2 {
        observer.record(Verdict::Denied, || {
            flow("payments", &format!("/v1/{index}"), 403)
        });
    }
    observer.record(Verdict::Error, || flow("orders", "/v1/stock", 502));
    let (_, body) = ask(&routes, "/observe").await;
    let all = lines(body).await;
    assert_eq!(all.len(), MAX_KEPT);
    assert_eq!(all[0]["path"], "/v1/3", "the oldest are gone");
    for (query, count) in [
        ("verdict=denied", MAX_KEPT - 1),
        ("verdict=error&status=5xx", 1),
        ("status=403&caller=payments&path=/v1/25", 9),
        ("service=orders", 1),
        ("service=inventory&method=GET&callee=inventory", MAX_KEPT),
        ("status=404", 0),
        ("caller=nobody", 0),
    ] {
        let (_, body) = ask(&routes, &format!("/observe?{query}")).await;
        assert_eq!(lines(body).await.len(), count, "{query}");
    }
    for query in [
        "verdikt=denied",
        "status=6xx",
        "status=abc",
        "verdict=maybe",
        "max=3",
    ] {
        let (status, _) = ask(&routes, &format!("/observe?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_slow_reader_loses_records_and_is_told_how_many() {
    let observer = Observer::new("inventory", &[]);
    let (_, body) = ask(&router(Arc::clone(&observer)), "/observe?follow=true").await;
    let mut stream = body.into_data_stream();
    for _ in 0..MAX_WAITING + 10 {
        observer.record(Verdict::Allowed, || flow("orders", "/", 200));
    }
    assert_eq!(next(&mut stream).await["lost"], 10);
    assert_eq!(next(&mut stream).await["caller"], "orders");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_that_it_lives() {
    let observer = Observer::new("inventory", &[]);
    let (_, body) = ask(&router(observer), "/observe?follow=true").await;
    let mut stream = body.into_data_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "\n");
}

#[tokio::test]
async fn the_number_of_readers_and_taps_has_a_limit() {
    let observer = Observer::new("inventory", &[]);
    let routes = router(Arc::clone(&observer));
    for (uri, limit) in [("/observe?follow=true", MAX_READERS), ("/tap", 8)] {
        let mut open = Vec::new();
        for _ in 0..limit {
            let (status, body) = ask(&routes, uri).await;
            assert_eq!(status, StatusCode::OK);
            open.push(body);
        }
        assert_eq!(ask(&routes, uri).await.0, StatusCode::TOO_MANY_REQUESTS);
        open.pop();
        assert_eq!(ask(&routes, uri).await.0, StatusCode::OK, "{uri}");
    }
}

fn seen<'a>(headers: &'a HeaderMap, caller: &'a str) -> Seen<'a> {
    Seen {
        direction: Direction::Inbound,
        caller,
        callee: "inventory",
        port: 7106,
        method: "GET",
        path_and_query: "/v1/stock?token=canary-q",
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
        headers,
    }
}

#[tokio::test]
async fn r69_a_tap_shows_heads_without_secrets_and_ends_with_its_count() {
    let observer = Observer::new("inventory", &["x-partner".to_owned()]);
    let routes = router(Arc::clone(&observer));
    let mut headers = HeaderMap::new();
    for name in [
        "authorization",
        "cookie",
        "x-api-key",
        "x-ringwall-user-context",
        "x-partner",
    ] {
        headers.append(name, "canary-h".parse().unwrap());
    }
    headers.append("accept", "*/*".parse().unwrap());
    assert!(
        observer.tap(&seen(&headers, "orders")).is_none(),
        "nobody taps"
    );
    let (_, body) = ask(&routes, "/tap?caller=orders&max=1").await;
    assert!(
        observer.tap(&seen(&headers, "payments")).is_none(),
        "another caller"
    );
    let tapped = observer.tap(&seen(&headers, "orders")).unwrap();
    assert!(
        observer.tap(&seen(&headers, "orders")).is_none(),
        "one was asked for"
    );
    assert_eq!(observer.taps.len(), 0);
    let mut answer = HeaderMap::new();
    answer.append("set-cookie", "canary-s".parse().unwrap());
    answer.append("location", "/next?code=canary-l".parse().unwrap());
    tapped.response(StatusCode::FOUND, &answer);
    let heads = lines(body).await;
    assert_eq!(heads.len(), 2);
    let text = serde_json::to_string(&heads).unwrap();
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(heads[0]["headers"]["accept"], "*/*");
    assert_eq!(heads[0]["headers"]["authorization"], "[redacted 8 bytes]");
    assert_eq!(heads[0]["target"], "/v1/stock?[redacted 14 bytes]");
    assert_eq!(heads[1]["exchange"], heads[0]["exchange"]);
    assert_eq!(heads[1]["status"], 302);
}

#[tokio::test(start_paused = true)]
async fn a_tap_ends_with_its_time_and_with_its_reader() {
    let observer = Observer::new("inventory", &[]);
    let routes = router(Arc::clone(&observer));
    let (_, body) = ask(&routes, "/tap?seconds=30").await;
    let begun = tokio::time::Instant::now();
    assert!(lines(body).await.is_empty());
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    assert_eq!(observer.taps.len(), 0);
    let (_, body) = ask(&routes, "/tap").await;
    assert_eq!(observer.taps.len(), 1);
    drop(body);
    assert_eq!(observer.taps.len(), 0, "the reader has left");
    for query in [
        "max=0",
        "max=1001",
        "seconds=0",
        "seconds=601",
        "status=200",
        "follow=true",
    ] {
        let (status, _) = ask(&routes, &format!("/tap?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_slow_reader_of_a_tap_is_told_what_it_lost() {
    let observer = Observer::new("inventory", &[]);
    let (_, body) = ask(&router(Arc::clone(&observer)), "/tap?max=1000").await;
    let mut stream = body.into_data_stream();
    let headers = HeaderMap::new();
    for _ in 0..300 {
        observer.tap(&seen(&headers, "orders"));
    }
    assert_eq!(next(&mut stream).await["lost"], 44);
    assert_eq!(next(&mut stream).await["message"], "request");
}

#[test]
fn records_have_a_bounded_size() {
    let mut long = flow("orders", &format!("/{}", "é".repeat(4000)), 200);
    long.policies = vec!["p".into(); 100];
    let flow = long.bounded(Verdict::Denied);
    assert!(flow.path.len() < 600);
    assert_eq!(flow.policies.len(), 16);
    assert!(serde_json::to_vec(&flow).unwrap().len() < 5000);
}
