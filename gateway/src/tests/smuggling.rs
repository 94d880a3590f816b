//! Bytes that two parsers could read differently never reach an upstream, and end their connection.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::harness::{World, exchange, read_answer};

const HEAD: &str = "POST /open HTTP/1.1\r\nHost: api.localhost\r\n";
const SMUGGLED: &str = "GET /open/smuggled HTTP/1.1\r\nHost: api.localhost\r\n\r\n";

/// Every refusal: its name, and the bytes.
fn matrix() -> Vec<(&'static str, String)> {
    let post = |fields: &str, body: &str| format!("{HEAD}{fields}\r\n{body}");
    vec![
        ("CL then TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{SMUGGLED}"))),
        ("TE then CL", post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", &format!("0\r\n\r\n{SMUGGLED}"))),
        ("TE not chunked", post("Transfer-Encoding: identity\r\n", SMUGGLED)),
        ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", SMUGGLED)),
        ("TE gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
        ("TE blank before colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        ("TE vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        ("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n")),
        ("CL twice, equal", post("Content-Length: 1\r\nContent-Length: 1\r\n", "a")),
        ("CL twice, differing", post("Content-Length: 1\r\nContent-Length: 60\r\n", SMUGGLED)),
        ("CL list", post("Content-Length: 1, 1\r\n", "a")),
        ("CL sign", post("Content-Length: +1\r\n", "a")),
        ("CL hexadecimal", post("Content-Length: 0x1\r\n", "a")),
        ("CL too large", post("Content-Length: 99999999999999999999999\r\n", "a")),
        ("bare LF line", format!("GET /open HTTP/1.1\nHost: api.localhost\r\n\r\n{SMUGGLED}")),
        ("bare LF end", format!("GET /open HTTP/1.1\r\nHost: api.localhost\r\n\n{SMUGGLED}")),
        ("bare CR in value", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nX: a\rb\r\n\r\n".to_owned()),
        ("obs-fold", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nX: a\r\n b\r\n\r\n".to_owned()),
        ("fold first", "GET /open HTTP/1.1\r\n Host: api.localhost\r\n\r\n".to_owned()),
        ("Host twice", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nHost: app.localhost\r\n\r\n".to_owned()),
        ("Host missing", "GET /open HTTP/1.1\r\n\r\n".to_owned()),
        ("Host with path", "GET /open HTTP/1.1\r\nHost: api.localhost/x\r\n\r\n".to_owned()),
        ("Host userinfo", "GET /open HTTP/1.1\r\nHost: a@api.localhost\r\n\r\n".to_owned()),
        ("absolute form, other host", "GET http://app.localhost/open HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("absolute form, userinfo", "GET http://a@api.localhost/open HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("NUL in name", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nX\0: a\r\n\r\n".to_owned()),
        ("NUL in value", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nX: a\0b\r\n\r\n".to_owned()),
        ("no colon", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nX\r\n\r\n".to_owned()),
        ("empty name", "GET /open HTTP/1.1\r\nHost: api.localhost\r\n: a\r\n\r\n".to_owned()),
        ("two blanks in request line", "GET  /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("version", "GET /open HTTP/1.2\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("HTTP/1.0 with TE", "POST /open HTTP/1.0\r\nHost: api.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("h2c preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("h2c upgrade", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n".to_owned()),
        ("unknown upgrade", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: tls/1.0\r\n\r\n".to_owned()),
        ("undeclared websocket", "GET /open HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned()),
        ("dot segment", "GET /open/../v1/orders HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("encoded dot segment", "GET /open/%2e%2e/v1/orders HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("encoded slash", "GET /open%2fx HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("encoded backslash", "GET /open%5cx HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("double encoding", "GET /open/%252e%252e HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("empty segment", "GET //open HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
        ("encoded CRLF", "GET /open%0d%0aX:%20y HTTP/1.1\r\nHost: api.localhost\r\n\r\n".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_are_refused_and_their_connection_ends() {
    let world = World::start().await;
    for (name, bytes) in matrix() {
        let answer = world.send_plain(bytes.as_bytes()).await;
        // Some bytes deserve no answer at all; none deserve another one.
        assert!(matches!(answer.status, 400 | 0), "{name}: {answer:?}");
        assert!(
            answer.closed,
            "{name}: the connection stays open: {answer:?}"
        );
    }
    assert_eq!(
        world.upstream_requests(),
        0,
        "something reached the upstream"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_inside_tls() {
    let world = World::start().await;
    for (name, bytes) in matrix() {
        let stream = world.tls("api.localhost", b"http/1.1").await.expect("TLS");
        let answer = exchange(stream, bytes.as_bytes()).await;
        assert!(matches!(answer.status, 400 | 0), "{name}: {answer:?}");
        assert!(answer.closed, "{name}: {answer:?}");
    }
    assert_eq!(world.upstream_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_by_byte_the_verdict_is_the_same() {
    let world = World::start().await;
    for (name, bytes) in matrix().into_iter().take(18) {
        let mut stream = TcpStream::connect(world.plain_address())
            .await
            .expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        for byte in bytes.as_bytes() {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        let answer = read_answer(&mut stream).await;
        assert!(matches!(answer.status, 400 | 0), "{name}: {answer:?}");
    }
    assert_eq!(world.upstream_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lax_chunks_never_become_a_request() {
    let world = World::start().await;
    for chunks in [
        "1 \r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "x\r\n",
        "0\r\nx: y\n\r\n",
    ] {
        let bytes = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}");
        let answer = world.send_plain(bytes.as_bytes()).await;
        assert!(
            matches!(answer.status, 0 | 400 | 502),
            "{chunks:?}: {answer:?}"
        );
        assert!(answer.closed, "{chunks:?}: {answer:?}");
        assert!(!answer.body.contains("smuggled"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_pipelined_request_before_an_offence_is_served() {
    let world = World::start().await;
    let bytes = "GET /open/first HTTP/1.1\r\nHost: api.localhost\r\n\r\nGET /open HTTP/1.1\nHost: api.localhost\r\n\r\n";
    let mut stream = TcpStream::connect(world.plain_address())
        .await
        .expect("connect");
    stream.write_all(bytes.as_bytes()).await.expect("write");
    let mut all = Vec::new();
    while super::harness::read_some(&mut stream, &mut all).await > 0 {}
    let all = String::from_utf8_lossy(&all);
    assert!(
        all.starts_with("HTTP/1.1 200") && all.contains("/open/first"),
        "{all}"
    );
    assert!(all.contains("HTTP/1.1 400"), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_requests_are_forwarded_canonically() {
    let world = World::start().await;
    let answer = world
        .send_plain(b"POST http://API.localhost:80/open/x?q=%2F..%2F HTTP/1.1\r\nHost: API.localhost:80\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nTrailer: x\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let said = answer.json();
    assert_eq!(said["uri"], "/open/x?q=%2F..%2F");
    assert_eq!(said["length"], 3);
    assert_eq!(answer.seen("transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(answer.seen("content-length"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_end_and_neighbours_do_not_notice() {
    let world = World::start_with(&[("header_timeout: 10s", "header_timeout: 1s")]).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(world.plain_address())
            .await
            .expect("connect");
        stream
            .write_all(b"GET /open HTTP/1.1\r\nHost: api")
            .await
            .expect("write");
        slow.push(stream);
    }
    let started = std::time::Instant::now();
    let neighbour = world
        .send_plain(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(neighbour.status, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        assert_eq!(
            super::harness::read_some(&mut stream, &mut rest).await,
            0,
            "closed without an answer"
        );
    }
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_floods_are_refused() {
    let world = World::start().await;
    let many: String = (0..200).map(|n| format!("X-{n}: a\r\n")).collect();
    let answer = world
        .send_plain(format!("GET /open HTTP/1.1\r\nHost: api.localhost\r\n{many}\r\n").as_bytes())
        .await;
    assert!(
        matches!(answer.status, 431 | 400) && answer.closed,
        "{answer:?}"
    );
    let long = "a".repeat(64 * 1024);
    let answer = world
        .send_plain(
            format!("GET /open HTTP/1.1\r\nHost: api.localhost\r\nX: {long}\r\n\r\n").as_bytes(),
        )
        .await;
    assert!(
        matches!(answer.status, 431 | 400 | 0) && answer.closed,
        "{answer:?}"
    );
    assert_eq!(world.upstream_requests(), 0);
}
