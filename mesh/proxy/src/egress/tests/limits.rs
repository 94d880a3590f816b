use std::time::Duration;

use http_body_util::{BodyExt as _, StreamBody};

use super::super::*;
use super::world::*;

async fn partner(limits: &str) -> (World, Upstream, Arc<Egress>) {
    let world = World::new().await;
    let upstream = world
        .server("127.0.0.2", &["api.partner.example"], "http/1.1")
        .await;
    world.resolves("api.partner.example", &[&["127.0.0.2"]]);
    let rules = format!(
        r#"[{{"name":"partner","callers":["orders"],"host":"api.partner.example","port":{},"private":true,"limits":{limits}}}]"#,
        upstream.port()
    );
    let (egress, _) = world.gateway(r#"["127.0.0.2/32"]"#, &rules);
    (world, upstream, egress)
}

fn post(length: usize, declared: bool) -> Request<BoxBody> {
    let request = Request::post("http://api.partner.example/v1");
    if declared {
        let request = request.header("content-length", length);
        return request.body(body::full(vec![b'x'; length])).unwrap();
    }
    let frames = (0..length / 100).map(|_| {
        Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from_static(
            &[b'x'; 100],
        )))
    });
    let stream = StreamBody::new(futures_util::stream::iter(frames));
    request.body(body::boxed(stream)).unwrap()
}

#[tokio::test]
async fn request_bodies_have_a_limit_whether_declared_or_not() {
    let (_world, upstream, egress) = partner(r#"{"max_request_body":1000}"#).await;
    for declared in [true, false] {
        assert_eq!(
            send(&egress, post(1000, declared)).await.0,
            StatusCode::OK,
            "{declared}"
        );
        let (status, ..) = send(&egress, post(2000, declared)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{declared}");
    }
    let requests = upstream.requests.lock();
    let whole = requests.iter().filter(|seen| seen.bytes == 1000).count();
    assert_eq!(whole, 2);
    assert!(requests.iter().all(|seen| seen.bytes <= 1000));
}

#[tokio::test]
async fn response_bodies_have_a_limit_in_bytes_and_in_silence() {
    let (_world, _upstream, egress) =
        partner(r#"{"max_response_body":100000,"idle_timeout":"50ms"}"#).await;
    let (_, _, text) = send(&egress, get("http://api.partner.example/big")).await;
    assert!(text.starts_with("cut: "), "longer than allowed");
    let (status, _, text) = send(&egress, get("http://api.partner.example/stall")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("nothing came within"), "{text}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_left() {
    let (_world, _upstream, egress) = partner(r#"{"timeout":"50ms"}"#).await;
    let (status, ..) = send(&egress, get("http://api.partner.example/never")).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn requests_at_once_have_a_limit_until_their_last_byte() {
    let (_world, _upstream, egress) = partner(r#"{"max_requests":1}"#).await;
    let open = egress
        .handle("orders", get("http://api.partner.example/stall"))
        .await;
    assert_eq!(open.status(), StatusCode::OK);
    let (status, ..) = send(&egress, get("http://api.partner.example/v1")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    drop(open);
    let (status, ..) = send(&egress, get("http://api.partner.example/v1")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn responses_are_streamed() {
    let (_world, _upstream, egress) = partner("{}").await;
    let mut response = egress
        .handle("orders", get("http://api.partner.example/stall"))
        .await;
    let frame = tokio::time::timeout(Duration::from_secs(5), response.body_mut().frame());
    let data = frame.await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert_eq!(data, "begun", "before the body has ended");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_failure_and_no_denial() {
    let (_world, _upstream, egress) = partner("{}").await;
    let world = World::new().await;
    let (other, observer) = world.gateway(
        "[]",
        r#"[{"name":"x","callers":["orders"],"host":"nowhere.example"}]"#,
    );
    let (status, ..) = send(&other, get("http://nowhere.example/")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert_eq!(kept(&observer)[0].verdict, Verdict::Error);
    drop(egress);
}
