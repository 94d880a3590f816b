//! Plugins on the application's way to services.

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::calls::Pair;
use super::super::peers::{read2, seen};
use super::super::world::{Edit, HTTP, TOKEN};
use super::guests::{
    GIVEN, HEADERS, Modules, VALUE, answer, ask, ask_by_grpc, marker, on_request, replace_body,
    set, word,
};

/// The plugin `p` on the way to `to`.
pub(super) fn on_the_way(modules: &Modules, to: &str, capabilities: &str) -> [Edit; 2] {
    let key = format!("{}\nzone: a", modules.key(capabilities));
    let filters = format!("outbound:\n  filters: {{ \"{to}\": [p] }}");
    [("zone: a", key.leak()), ("outbound:", filters.leak())]
}

async fn pair(body: String, to: &str, capabilities: &str) -> (Pair, Modules) {
    let modules = Modules::one(body);
    let pair = Pair::start_edited(&on_the_way(&modules, to, capabilities)).await;
    (pair, modules)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_changes_a_call_and_its_answer() {
    for to in ["orders", "orders:7105", "*"] {
        let (pair, _modules) = pair(marker("7"), to, HEADERS).await;
        let answer = pair.get("orders", "/a", "").await;
        assert_eq!(answer.status, 200, "{to}: {answer:?}");
        assert_eq!(seen(&answer.json(), "x-filter"), ["7"], "{to}");
        assert_eq!(answer.field("x-filter"), Some("7"), "{to}");
    }
    let (pair, _modules) = pair(marker("7"), "orders:7305", HEADERS).await;
    let other = pair.get("orders", "/a", "").await;
    assert_eq!((other.status, other.field("x-filter")), (200, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_changes_bodies_of_a_call() {
    let capabilities = format!("{HEADERS}, body: write");
    let (first, _modules) = pair(replace_body("request"), "orders", &capabilities).await;
    let post = format!(
        "POST /a HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nContent-Length: 5\r\n\r\n12345"
    );
    assert_eq!(first.send(&post).await.json()["length"], 18);
    let line = first.line(|line| line["path"] == "/a").await;
    assert_eq!(line["bytes_in"], 5, "the application's own bytes count");
    let (second, _modules) = pair(replace_body("response"), "orders", &capabilities).await;
    let answer = second.get("orders", "/a", "").await;
    assert!(answer.body.contains("changed on the way"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_grpc_calls_pass_with_their_trailers() {
    let (pair, _modules) = pair(marker("7"), "orders", HEADERS).await;
    let mut app = pair.http2().await;
    let request = Request::post("http://orders/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-ringwall-loopback", TOKEN)
        .body(());
    let (response, mut send) = app.send_request(request.unwrap(), false).unwrap();
    send.send_data(Bytes::from_static(b"\0\0\0\0\x05hello"), true)
        .unwrap();
    let answer = read2(response.await.unwrap()).await;
    assert_eq!(answer.head.headers["x-filter"], "7");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_answers_a_call_in_the_place_of_the_service() {
    let (pair, _modules) = pair(on_request(&answer()), "orders", "local_response: true").await;
    let answer = pair.get("orders", "/a", "").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "changed on the way")
    );
    assert_eq!(pair.world.app.seen(), 0);
    let line = pair.line(|line| line["path"] == "/a").await;
    assert_eq!(line["refusal"], "filter-answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_trap_fails_its_own_call() {
    let (pair, _modules) = pair(on_request("(unreachable)"), "orders", HEADERS).await;
    for _ in 0..2 {
        assert_eq!(pair.get("orders", "/a", "").await.status, 503);
    }
    assert_eq!(pair.world.app.seen(), 0);
    let line = pair.line(|line| line["path"] == "/a").await;
    assert_eq!(line["refusal"], "filter-failed");
    assert_eq!(line["attempts"].as_u64().unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_plugin_cannot_send_a_call_elsewhere() {
    for (name, value) in [(":method", "DELETE"), (":authority", "payments")] {
        let guest = on_request(&format!("{} (i32.const 0)", set(0, name, value)));
        let (pair, _modules) = pair(guest, "*", HEADERS).await;
        let answer = pair.get("orders", "/a", "").await;
        assert_eq!(answer.status, 500, "{name}: {answer:?}");
        assert_eq!(pair.world.app.seen(), 0);
        let line = pair.line(|line| line["path"] == "/a").await;
        assert_eq!(line["refusal"], "filter-left-the-policy");
    }
    // A path is the callee's to decide about.
    let guest = on_request(&format!(
        "{} (i32.const 0)",
        set(0, ":path", "/forbidden/x")
    ));
    let (pair, _modules) = pair(guest, "*", HEADERS).await;
    assert_eq!(pair.get("orders", "/a", "").await.status, 403);
    assert_eq!(pair.world.app.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_plugin_does_not_see_the_secret_of_the_loopback() {
    let copy = format!(
        "(if (i32.eqz (call $get (i32.const 0) {} {GIVEN})) (then (drop (call $set (i32.const 0) {} {VALUE})))) {} (i32.const 0)",
        word("x-ringwall-loopback"),
        word("x-filter"),
        set(0, "x-forwarded-client-cert", "forged")
    );
    let (pair, _modules) = pair(on_request(&copy), "orders", HEADERS).await;
    let said = pair.get("orders", "/a", "").await.json();
    assert_eq!(seen(&said, "x-filter"), [""; 0]);
    assert!(!said.to_string().contains("forged"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_tunnel_of_the_application_s_own_leads_around_no_plugin() {
    let (pair, _modules) = pair(marker("7"), "orders:7105", HEADERS).await;
    let request = format!(
        "CONNECT orders:{HTTP} HTTP/1.1\r\nHost: orders:{HTTP}\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"
    );
    assert_eq!(pair.send(&request).await.status, 500);
    let line = pair.line(|line| line["method"] == "CONNECT").await;
    assert_eq!(line["refusal"], "filter-tunnel");
    // A listener for opaque bytes that leads to the same port.
    let modules = Modules::one(marker("7"));
    let [key, filters] = on_the_way(&modules, "orders:7105", HEADERS);
    let opaque = ("service: payments }", "service: orders, port: 7105 }");
    let pair = Pair::start_edited(&[key, filters, opaque]).await;
    let mut app = tokio::net::TcpStream::connect(pair.tcp(2)).await.unwrap();
    let _sent = app
        .write_all(b"GET /a HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
        .await;
    let mut rest = Vec::new();
    let _ended = app.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    let line = pair.line(|line| line["flow"] == "tcp").await;
    assert_eq!(line["refusal"], "filter-tunnel");
    // The same without plugins.
    let (free, _modules) = super::outbound::pair(marker("7"), "orders:7305", HEADERS).await;
    assert_eq!(free.send(&request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_asks_a_service_first() {
    for (guest, asked) in [
        (ask("orders"), "/asked"),
        (ask_by_grpc("orders:7305"), "/pkg.Service/Call"),
    ] {
        let capabilities = format!("{HEADERS}, local_response: true, clusters: [\"orders*\"]");
        let (pair, _modules) = pair(guest, "orders:7105", &capabilities).await;
        let answer = pair.get("orders", "/a", "").await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        assert_eq!(seen(&answer.json(), "x-filter"), ["7"], "{asked}");
        assert_eq!(pair.world.app.seen(), 2);
        // The call is one of the workload's: it is in its log, and the callee knows who asks.
        let line = pair.line(|line| line["path"] == asked).await;
        assert_eq!(
            (&line["caller"], &line["callee"]),
            (&"gateway".into(), &"orders".into())
        );
        let line = pair.world.line(|line| line["path"] == asked).await;
        assert_eq!(line["caller"], "gateway");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_attack_a_plugin_calls_nobody_without_an_edge() {
    let capabilities = format!("{HEADERS}, local_response: true, clusters: [\"*\"]");
    let modules = Modules::one(ask("inventory"));
    let edits = on_the_way(&modules, "orders", &capabilities);
    let pair = Pair::start_edited(&edits).await;
    // A service that is known, and to which the workload has no edge.
    let mut inventory = pair.orders();
    inventory.name = "inventory".into();
    pair.publish(
        vec![pair.orders(), inventory],
        super::super::world::bundle(),
    );
    let answer = pair.get("orders", "/a", "").await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(pair.world.app.seen(), 0);
    let line = pair.line(|line| line["path"] == "/asked").await;
    assert_eq!(line["refusal"], "edge-not-declared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_attack_a_plugin_calls_nobody_whom_its_capabilities_do_not_name() {
    let capabilities = format!("{HEADERS}, local_response: true, clusters: [inventory]");
    let (pair, _modules) = pair(ask("orders"), "orders", &capabilities).await;
    let answer = pair.get("orders", "/a", "").await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(pair.world.app.seen(), 0);
}
