//! What does not leave, and what does not arrive.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::peers::seen;
use super::super::world::{ADMIN, TOKEN, bundle, id};
use super::Pair;

fn problem(answer: &super::Answer) -> (String, String) {
    assert_eq!(
        answer.field("content-type"),
        Some("application/problem+json")
    );
    let said = answer.json();
    let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    (text("type"), text("detail"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r60_attack_only_the_workload_itself_is_served_on_loopback() {
    let pair = Pair::start().await;
    for proof in [
        String::new(),
        "X-Ringwall-Loopback: wrong\r\n".to_owned(),
        format!("X-Ringwall-Loopback: {TOKEN}x\r\n"),
        format!("X-Ringwall-Loopback: {TOKEN}\r\nX-Ringwall-Loopback: {TOKEN}\r\n"),
    ] {
        let request = format!("GET /v1/orders HTTP/1.1\r\nHost: orders\r\n{proof}\r\n");
        let answer = pair.send(&request).await;
        assert_eq!(answer.status, 403, "{proof}");
        assert!(problem(&answer).0.ends_with("loopback-token"));
    }
    assert_eq!(pair.world.app.seen(), 0);
    let tunnel = pair
        .send("CONNECT orders:5432 HTTP/1.1\r\nHost: orders:5432\r\n\r\n")
        .await;
    assert_eq!(tunnel.status, 403);
    // And the proof itself goes no further: the peer's application sees its own proxy's.
    let said = pair.get("orders", "/v1/orders", "").await.json();
    assert_eq!(
        seen(&said, "x-ringwall-loopback"),
        [TOKEN],
        "both proxies of the test share it"
    );
    let log = std::fs::read_to_string(&pair.log).unwrap();
    assert!(!log.contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_the_capture_listener_serves_nobody_whom_the_kernel_has_not_led_there() {
    let pair = Pair::start().await;
    for listener in pair.captured() {
        let mut socket = TcpStream::connect(listener).await.unwrap();
        let request = format!(
            "GET /v1/orders HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"
        );
        let _sent = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _closed = socket.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(pair.world.app.seen(), 0);
    assert_eq!(pair.running.shared.metrics.strays.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_an_application_cannot_claim_another_identity() {
    let pair = Pair::start().await;
    let said = pair
        .get(
            "orders",
            "/v1/orders",
            "X-Forwarded-Client-Cert: URI=spiffe://ringwall.local/ringwall\r\nx_forwarded_client_cert: URI=spiffe://ringwall.local/ringwall\r\nConnection: x-forwarded-client-cert\r\n",
        )
        .await
        .json();
    assert!(
        !said.to_string().contains("ringwall.local/ringwall"),
        "{said}"
    );
    let cert = &seen(&said, "x-forwarded-client-cert")[0];
    assert!(cert.contains("URI=spiffe://ringwall.local/gateway"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r50_a_call_that_is_not_declared_does_not_leave_and_says_how_to_declare_it() {
    let pair = Pair::start().await;
    let unknown = pair.get("payments", "/", "").await;
    assert_eq!(unknown.status, 404);
    let (kind, detail) = problem(&unknown);
    assert!(kind.ends_with("unknown-service"));
    for word in ["`gateway`", "`payments`", "`calls`", "ringwall.yaml"] {
        assert!(detail.contains(word), "{word}: {detail}");
    }
    // Known, but without an edge to this port.
    let denied = pair.get(&format!("orders:{ADMIN}"), "/healthz", "").await;
    assert_eq!(denied.status, 403);
    let (kind, detail) = problem(&denied);
    assert!(kind.ends_with("edge-not-declared"));
    for word in ["`gateway`", "`orders`", "7205", "`callers`"] {
        assert!(detail.contains(word), "{word}: {detail}");
    }
    let line = pair
        .line(|line| line["refusal"] == "edge-not-declared")
        .await;
    assert_eq!(line["callee"], "orders");
    assert_eq!(pair.world.app.seen(), 0);
    assert_eq!(
        pair.running.workers[0].tunnels.open(),
        0,
        "nothing was dialled"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_before_the_mesh_is_known_nobody_is_called() {
    let pair = Pair::ignorant().await;
    let answer = pair.get("orders", "/v1/orders", "").await;
    assert_eq!(answer.status, 503);
    assert!(problem(&answer).0.ends_with("not-ready"));
    assert_eq!(answer.field("retry-after"), Some("1"));
    pair.publish(vec![pair.orders()], bundle());
    assert_eq!(pair.get("orders", "/v1/orders", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r71_attack_an_address_with_another_identity_behind_it_gets_nothing() {
    // The control plane says that this is where payments is; orders answers there.
    let pair = Pair::start_with(|orders| orders.identity = id("payments")).await;
    let answer = pair.get("orders", "/v1/orders", "").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(problem(&answer).0.ends_with("upstream-unreachable"));
    assert_eq!(pair.world.app.seen(), 0);
    let line = pair.line(|line| line["refusal"] == "connect").await;
    assert_eq!(line["attempts"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_ambiguous_messages_end_at_the_first_proxy() {
    let pair = Pair::start().await;
    for request in [
        format!(
            "GET / HTTP/1.1\r\nHost: orders\r\nHost: payments\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"
        ),
        format!(
            "GET http://orders/ HTTP/1.1\r\nHost: payments\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n0\r\n\r\n"
        ),
        format!("GET / HTTP/1.1\nHost: orders\nX-Ringwall-Loopback: {TOKEN}\n\n"),
        format!(
            "GET / HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        ),
        format!("TRACE / HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: user@orders\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"),
    ] {
        let answer = pair.send(&request).await;
        assert_eq!(answer.status, 400, "{request}");
        assert!(answer.closed, "{request}");
    }
    assert_eq!(pair.world.app.seen(), 0);
}
