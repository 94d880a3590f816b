//! Spans: received from components, shown to the owner of the order.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use ringwall_http_io::body;
use serde_json::json;
use tower::ServiceExt;

use super::fixture::{Platform, now, peer};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PATH: &str = "/api/traces/4bf92f3577b34da6a3ce929d0e0e4736";

fn export(spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn span(n: u8) -> Span {
    let trace_id = TRACE.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    Span {
        trace_id: trace_id.map(byte).collect(),
        span_id: vec![n; 8],
        name: "POST /v1/orders".into(),
        ..Span::default()
    }
}

async fn send(platform: &Platform, caller: &str, media: &str, body: Vec<u8>) -> (StatusCode, i64) {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/traces")
        .header(header::CONTENT_TYPE, media)
        .extension(peer(caller))
        .body(Body::from(body))
        .unwrap();
    let (parts, body) = platform
        .router
        .clone()
        .oneshot(request)
        .await
        .unwrap()
        .into_parts();
    let bytes = body::collect(body, 1 << 20).await.unwrap();
    let rejected = match parts.status {
        StatusCode::OK => {
            let answer = ExportTraceServiceResponse::decode(bytes).unwrap();
            answer
                .partial_success
                .map_or(0, |partial| partial.rejected_spans)
        }
        _ => -1,
    };
    (parts.status, rejected)
}

#[tokio::test]
async fn r19_a_trace_is_shown_to_its_owner_alone_with_the_service_of_the_certificate() {
    let platform = Platform::start().await;
    let mut alice = platform.signed_in().await;
    platform.app.traces.claim(TRACE, "alice");
    let protobuf = "application/x-protobuf";
    assert_eq!(
        send(&platform, "orders", protobuf, export(vec![span(1)]))
            .await
            .1,
        0
    );

    let report = json!({ "trace_id": TRACE, "span_id": "00f067aa0ba902b7", "name": "Place order",
        "start_us": now() * 1_000_000, "duration_us": 5_000, "ok": true });
    assert_eq!(
        alice.post("/api/spans", &report).await.status,
        StatusCode::ACCEPTED
    );
    let trace = alice.get(PATH).await.json();
    assert_eq!(trace["trace_id"], TRACE);
    let services: Vec<_> = trace["spans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["service"])
        .collect();
    assert_eq!(services, ["orders", "browser"]);

    let mut bob = platform.browser();
    platform.sign_in(&mut bob, "bob").await;
    assert_eq!(bob.get(PATH).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        bob.post("/api/spans", &report).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        platform.browser().get(PATH).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        alice.get("/api/traces/unknown").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn the_receiver_is_bounded() {
    let platform = Platform::start().await;
    let protobuf = "application/x-protobuf";
    let large = vec![0; 4 * 1024 * 1024 + 1];
    let status = send(&platform, "orders", protobuf, large).await.0;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let status = send(&platform, "orders", protobuf, vec![0xff; 64]).await.0;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let status = send(&platform, "orders", "application/json", b"{}".to_vec())
        .await
        .0;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);

    let mut spans: Vec<Span> = (1..=250).map(span).collect();
    spans.push(Span {
        trace_id: vec![0; 16],
        ..span(9)
    });
    let (status, rejected) = send(&platform, "orders", protobuf, export(spans)).await;
    assert_eq!((status, rejected), (StatusCode::OK, 51));
}

#[tokio::test]
async fn spans_from_the_internet_are_refused() {
    let platform = Platform::start().await;
    let mut browser = platform.browser();
    let request = browser
        .request(Method::POST, "/v1/traces")
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header("x-forwarded-for", "203.0.113.9")
        .body(Body::from(export(vec![span(1)])))
        .unwrap();
    assert_eq!(browser.send(request).await.status, StatusCode::FORBIDDEN);
}
