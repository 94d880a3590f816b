//! Bytes that two parsers could read differently, and floods: from a peer with a genuine certificate.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use tokio::io::AsyncWriteExt;

use super::peers::{exchange, get2, read_some, tls};
use super::world::{HTTP, World};

const HEAD: &str = "POST /v1/orders HTTP/1.1\r\nHost: orders\r\n";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n";

/// Every refusal: its name, and the bytes.
fn matrix() -> Vec<(&'static str, String)> {
    let post = |fields: &str, body: &str| format!("{HEAD}{fields}\r\n{body}");
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: orders\r\n\r\n");
    vec![
        ("CL then TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{SMUGGLED}"))),
        ("TE then CL", post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", &format!("0\r\n\r\n{SMUGGLED}"))),
        ("TE not chunked", post("Transfer-Encoding: identity\r\n", SMUGGLED)),
        ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", SMUGGLED)),
        ("TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
        ("TE blank before colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        ("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n")),
        ("CL twice, equal", post("Content-Length: 1\r\nContent-Length: 1\r\n", "a")),
        ("CL twice, differing", post("Content-Length: 1\r\nContent-Length: 60\r\n", SMUGGLED)),
        ("CL list", post("Content-Length: 1, 1\r\n", "a")),
        ("CL sign", post("Content-Length: +1\r\n", "a")),
        ("bare LF line", format!("GET /x HTTP/1.1\nHost: orders\r\n\r\n{SMUGGLED}")),
        ("bare LF end", format!("GET /x HTTP/1.1\r\nHost: orders\r\n\n{SMUGGLED}")),
        ("obs-fold", "GET /x HTTP/1.1\r\nHost: orders\r\nX: a\r\n b\r\n\r\n".to_owned()),
        ("Host twice", "GET /x HTTP/1.1\r\nHost: orders\r\nHost: payments\r\n\r\n".to_owned()),
        ("Host missing", "GET /x HTTP/1.1\r\n\r\n".to_owned()),
        ("Host userinfo", "GET /x HTTP/1.1\r\nHost: a@orders\r\n\r\n".to_owned()),
        ("absolute form, other host", "GET http://payments/x HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned()),
        ("NUL in value", "GET /x HTTP/1.1\r\nHost: orders\r\nX: a\0b\r\n\r\n".to_owned()),
        ("HTTP/1.0 with TE", "POST /x HTTP/1.0\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("h2c preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("h2c upgrade", "GET /x HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n".to_owned()),
        ("unknown upgrade", "GET /x HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: tls/1.0\r\n\r\n".to_owned()),
        ("CONNECT", "CONNECT orders:5432 HTTP/1.1\r\nHost: orders:5432\r\n\r\n".to_owned()),
        ("TRACE", "TRACE / HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned()),
        ("dot segment", get("/x/../forbidden")),
        ("encoded dot segment", get("/x/%2e%2e/forbidden")),
        ("encoded slash", get("/forbidden%2fx")),
        ("double encoding", get("/x/%252e%252e")),
        ("needless escape", get("/%66orbidden")),
        ("empty segment", get("//forbidden")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_ambiguous_requests_are_refused_and_their_connection_ends() {
    let world = World::start().await;
    let gateway = world.source("gateway");
    for (name, bytes) in matrix() {
        let stream = tls(&gateway, world.at(HTTP)).await.expect("TLS");
        let answer = exchange(stream, bytes.as_bytes()).await;
        // Some bytes deserve no answer at all; none deserve another one.
        assert!(matches!(answer.status, 400 | 0), "{name}: {answer:?}");
        assert!(
            answer.closed,
            "{name}: the connection stays open: {answer:?}"
        );
    }
    assert_eq!(world.app.seen(), 0, "something reached the application");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_the_same_in_http2() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    for path in [
        "/x/../forbidden",
        "/x/%2e%2e/forbidden",
        "/forbidden%2fx",
        "//forbidden",
    ] {
        assert_eq!(peer.get(path).await.head.status, 400, "{path}");
    }
    let differing = Request::get("http://orders/x")
        .header("host", "payments")
        .body(&[][..])
        .expect("request");
    assert_eq!(peer.send(differing).await.head.status, 400);
    assert_eq!(world.app.seen(), 0);
    assert_eq!(
        peer.get("/x").await.head.status,
        200,
        "the connection is still good"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_rapid_reset_ends_the_connection_and_nobody_else_notices() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    let mut reset = 0;
    for _ in 0..1000 {
        let request = get2("/never").map(|_| ());
        let Ok((_response, mut send)) = peer.sender.send_request(request, false) else {
            break;
        };
        send.send_reset(h2::Reason::CANCEL);
        reset += 1;
        if reset % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), peer.driver).await;
    let error = ended
        .expect("ended")
        .expect("driver")
        .expect_err("an error");
    // Who goes on writing may meet the closed connection before it reads why.
    let told = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    assert!(told || error.is_io(), "{error}");
    world.line(|line| line["refusal"] == "http2-protocol").await;
    assert_eq!(world.get("gateway", "/neighbour").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_header_floods_are_refused() {
    let world = World::start().await;
    let long = "a".repeat(200 * 1024);
    let request = format!("GET /x HTTP/1.1\r\nHost: orders\r\nX: {long}\r\n\r\n");
    let answer = world.send("gateway", HTTP, &request).await;
    assert!(
        matches!(answer.status, 431 | 400 | 0) && answer.closed,
        "{}",
        answer.status
    );
    let mut peer = world.http2("gateway", HTTP).await;
    let mut request = Request::get("http://orders/x");
    for number in 0..40 {
        request = request.header(format!("x-{number}"), "a".repeat(4000));
    }
    let (response, _) = peer
        .sender
        .send_request(request.body(()).expect("request"), true)
        .expect("send");
    let refused = response.await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 431));
    assert_eq!(world.app.seen(), 0);
    assert_eq!(world.get("gateway", "/neighbour").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_slow_heads_and_silent_handshakes_end() {
    let world = World::start_with(&[(
        "header_timeout: 10s",
        "header_timeout: 1s, handshake_timeout: 1s, max_handshakes: 30",
    )])
    .await;
    let gateway = world.source("gateway");
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = tls(&gateway, world.at(HTTP)).await.expect("TLS");
        stream
            .write_all(b"GET /x HTTP/1.1\r\nHost: ord")
            .await
            .expect("write");
        slow.push(stream);
    }
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(
            tokio::net::TcpStream::connect(world.at(HTTP))
                .await
                .expect("connect"),
        );
    }
    let started = Instant::now();
    assert_eq!(world.get("gateway", "/neighbour").await.status, 200);
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "{:?}",
        started.elapsed()
    );
    for mut stream in slow {
        let mut rest = Vec::new();
        assert_eq!(read_some(&mut stream, &mut rest).await, 0);
    }
    for mut stream in silent {
        let mut rest = Vec::new();
        assert_eq!(read_some(&mut stream, &mut rest).await, 0);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_empty_frames_do_not_keep_a_worker_busy() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    let request = Request::post("http://orders/echo")
        .body(())
        .expect("request");
    let (_response, mut send) = peer.sender.send_request(request, false).expect("send");
    for _ in 0..20_000 {
        if send.send_data(Bytes::new(), false).is_err() {
            break;
        }
    }
    assert_eq!(world.get("gateway", "/neighbour").await.status, 200);
}
