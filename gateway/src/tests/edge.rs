//! The public listener: TLS, host dispatch, HTTP/2; and the mesh side that it dials.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_tls::PeerPolicy;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::harness::{World, exchange, read_some};
use super::upstreams;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r26_unknown_sni_closed() {
    let world = World::start().await;
    assert!(world.tls("api.localhost", b"http/1.1").await.is_ok());
    for sni in ["evil.localhost", "localhost", "127.0.0.1"] {
        assert!(world.tls(sni, b"http/1.1").await.is_err(), "{sni}");
    }
    let mut plain = TcpStream::connect(world.tls_address())
        .await
        .expect("connect");
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await
        .expect("write");
    let mut answer = Vec::new();
    while read_some(&mut plain, &mut answer).await > 0 {}
    assert!(
        !answer.starts_with(b"HTTP"),
        "plain HTTP on the TLS port has no answer"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r26_a_connection_speaks_for_its_own_host_only() {
    let world = World::start().await;
    let stream = world.tls("app.localhost", b"http/1.1").await.expect("TLS");
    let answer = exchange(stream, b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n").await;
    assert_eq!(answer.status, 421, "{answer:?}");
    assert!(answer.closed);
    let answer = world
        .send("GET /open HTTP/1.1\r\nHost: evil.localhost\r\n\r\n")
        .await;
    assert_eq!((answer.status, answer.closed), (421, true));
    let answer = world
        .send_plain(b"GET /open HTTP/1.1\r\nHost: evil.localhost\r\n\r\n")
        .await;
    assert_eq!((answer.status, answer.closed), (421, true));
    assert_eq!(world.upstream_requests(), 0);
}

type H2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn http2(world: &World) -> H2 {
    let stream = world.tls("api.localhost", b"h2").await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("handshake");
    tokio::spawn(connection);
    sender
}

fn h2_request(uri: &str) -> http::request::Builder {
    Request::builder().version(Version::HTTP_2).uri(uri)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_becomes_canonical_http1() {
    let world = World::start().await;
    let mut sender = http2(&world).await;
    let request = h2_request("https://api.localhost/open/x?y=1")
        .method("POST")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-forwarded-for", "1.2.3.4")
        .body(Full::new(Bytes::from_static(b"hello")))
        .expect("request");
    let response = sender.send_request(request).await.expect("response");
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("strict-transport-security"));
    let said = response
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    let said: serde_json::Value = serde_json::from_slice(&said).expect("json");
    assert_eq!(
        (said["uri"].as_str(), said["length"].as_u64()),
        (Some("/open/x?y=1"), Some(5))
    );
    let field = |name: &str| {
        let headers = said["headers"].as_array().expect("headers");
        headers
            .iter()
            .find(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str().expect("text").to_owned())
    };
    assert_eq!(field("host").as_deref(), Some("api.localhost"));
    assert_eq!(field("cookie").as_deref(), Some("a=1; b=2"));
    assert_eq!(field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
}

/// The time for a request's head is over when it has come, though an HTTP/2 connection reads nothing more meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_http2_request_outlives_the_limit_of_heads() {
    let world = World::start_with(&[
        ("header_timeout: 10s", "header_timeout: 1s"),
        (
            "policy: everybody, timeout: 1s",
            "policy: everybody, timeout: 3s",
        ),
    ])
    .await;
    let mut sender = http2(&world).await;
    let request = h2_request("https://api.localhost/never").body(Full::default());
    let response = sender.send_request(request.expect("request")).await;
    assert_eq!(response.expect("an answer").status(), 504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_refusals_end_the_stream_alone() {
    let world = World::start().await;
    let mut sender = http2(&world).await;
    for (uri, status) in [
        ("https://app.localhost/open", 421),
        ("https://api.localhost/open/../x", 400),
        ("https://api.localhost/open%2fx", 400),
        ("https://api.localhost/undeclared/x", 404),
        ("https://api.localhost/v1/orders", 401),
        ("https://api.localhost/open", 200),
    ] {
        let request = h2_request(uri)
            .body(Full::new(Bytes::new()))
            .expect("request");
        let response = sender.send_request(request).await.expect(uri);
        assert_eq!(response.status().as_u16(), status, "{uri}");
    }
    let request = h2_request("https://api.localhost/open").header("host", "app.localhost");
    let response = sender
        .send_request(request.body(Full::new(Bytes::new())).expect("request"))
        .await;
    assert_eq!(
        response.expect("response").status(),
        400,
        ":authority and host differ"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rapid_reset_flood_ends_the_connection() {
    let world = World::start().await;
    let mut sender = http2(&world).await;
    let mut refused = false;
    for _ in 0..2000 {
        let request = h2_request("https://api.localhost/never")
            .body(Full::new(Bytes::new()))
            .expect("request");
        if sender.ready().await.is_err() {
            refused = true;
            break;
        }
        // Polled once so that HEADERS leave, then dropped: RST_STREAM follows.
        let sending = sender.send_request(request);
        let _timed_out = tokio::time::timeout(Duration::from_micros(50), sending).await;
    }
    let neighbour = http2(&world)
        .await
        .send_request(
            h2_request("https://api.localhost/open")
                .body(Full::new(Bytes::new()))
                .expect("request"),
        )
        .await;
    assert_eq!(neighbour.expect("neighbour").status(), 200);
    // Either the connection was ended for the flood, or the flood was held to the streams limit.
    assert!(refused || world.upstream_requests() < 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r15_only_the_declared_identity_is_believed_and_ours_is_shown() {
    let mut world = World::start().await;
    let root = world.directory.path().to_owned();
    // The same address, answered by another workload: the certificate is valid, the name is not.
    let gateway = SpiffeId::workload(
        &TrustDomain::parse("ringwall.local").expect("domain"),
        "gateway",
    )
    .expect("id");
    let rogue = upstreams::api(&root.join("authz-server"), PeerPolicy::AnyOf(vec![gateway])).await;
    let text = fs::read_to_string(&world.config_file).expect("config");
    let text = text.replace(
        &world.orders.address.to_string(),
        &rogue.address.to_string(),
    );
    let config: crate::config::Config =
        ringwall_service::config::parse_yaml(&text, &world.config_file).expect("parse");
    let snapshot =
        crate::snapshot::compile(&config, 2, &crate::plugins::Loaded::default()).expect("compile");
    world.running().shared.snapshot.store(snapshot.into());
    let answer = world
        .send("GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(rogue.requests.load(Ordering::SeqCst), 0);

    // A direct dial without an identity gets nothing.
    let mut direct = TcpStream::connect(world.orders.address)
        .await
        .expect("connect");
    direct
        .write_all(b"GET /open HTTP/1.1\r\nHost: orders\r\n\r\n")
        .await
        .expect("write");
    let mut answer = Vec::new();
    while read_some(&mut direct, &mut answer).await > 0 {}
    assert!(!answer.starts_with(b"HTTP"));
    let log = world.finish().await;
    assert!(log.iter().any(|line| line["refusal"] == "upstream-connect"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tells_about_the_upstream_stays_inside() {
    let world = World::start().await;
    let answer = world
        .send("GET /hop HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200);
    for gone in ["server", "keep-alive", "x-ringwall-user-context"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_closed() {
    let world = World::start_with(&[("header_timeout: 10s", "header_timeout: 10s, max: 3")]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(world.plain_address())
            .await
            .expect("connect");
        stream
            .write_all(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
            .await
            .expect("write");
        let mut some = Vec::new();
        assert!(read_some(&mut stream, &mut some).await > 0);
        held.push(stream);
    }
    let answer = world
        .send_plain(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(answer.status, 0, "{answer:?}");
    drop(held);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = world
        .send_plain(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200);
}

/// One HTTP/2 frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("length").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continuation_flood_ends_the_connection() {
    let world = World::start().await;
    let mut stream = world.tls("api.localhost", b"h2").await.expect("TLS");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("preface");
    stream
        .write_all(&frame(4, 0, 0, &[]))
        .await
        .expect("SETTINGS");
    // HEADERS without END_HEADERS, then CONTINUATION after CONTINUATION of `a: b`.
    let field = [0x00, 0x01, b'a', 0x01, b'b'];
    let fields = field.repeat(3000);
    stream
        .write_all(&frame(1, 0, 1, &fields))
        .await
        .expect("HEADERS");
    let mut sent = 0;
    for _ in 0..5000 {
        if stream.write_all(&frame(9, 0, 1, &fields)).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 5000, "75 MB of one request head were taken");
    assert_eq!(
        world
            .send("GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
            .await
            .status,
        200
    );
    assert_eq!(world.upstream_requests(), 1);
}
