//! Plugins before the application.

use std::sync::Arc;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::peers::{exchange, get2, read_answer, read2, seen, tls};
use super::super::world::{Edit, HTTP, HTTP2, World};
use super::guests::{
    GIVEN, HEADERS, Modules, VALUE, answer, marker, on_request, on_response, replace_body, set,
    word,
};

/// The plugin `p` before the port 7105.
pub(super) fn before_http(modules: &Modules, capabilities: &str) -> [Edit; 2] {
    let key = format!("{}\nhbone:", modules.key(capabilities));
    [
        ("port: 7105 }", "port: 7105, filters: [p] }"),
        ("hbone:", key.leak()),
    ]
}

async fn world(body: String, capabilities: &str) -> (World, Modules) {
    let modules = Modules::one(body);
    let world = World::start_with(&before_http(&modules, capabilities)).await;
    (world, modules)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_changes_request_and_response() {
    let (world, _modules) = world(marker("7"), HEADERS).await;
    let answer = world.get("gateway", "/a").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(seen(&answer.json(), "x-filter"), ["7"]);
    assert_eq!(answer.field("x-filter"), Some("7"));
    let mut http2 = world.http2("gateway", HTTP).await;
    let answer = http2.get("/a").await;
    assert_eq!(seen(&answer.json(), "x-filter"), ["7"]);
    assert_eq!(answer.head.headers["x-filter"], "7");
    // Another port has no filter.
    let mut other = world.http2("gateway", HTTP2).await;
    let answer = other.get("/a").await;
    assert_eq!(seen(&answer.json(), "x-filter"), [""; 0]);
    let line = world.line(|line| line["path"] == "/a").await;
    assert!(line["refusal"].is_null(), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_without_plugins_there_is_no_engine() {
    let world = World::start().await;
    assert_eq!(world.get("gateway", "/a").await.status, 200);
    let shared = &world.running().shared;
    assert!(!shared.plugins.has_engine());
    assert_eq!(shared.plugins.metrics(), "");
    assert!(
        world.running().workers[0].plugins.get().is_none(),
        "no worker has made one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_changes_bodies_of_both_directions() {
    let read_write = format!("{HEADERS}, body: write");
    let (first, _modules) = world(replace_body("request"), &read_write).await;
    let post =
        "POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345";
    let answer = first.send("gateway", HTTP, post).await;
    assert_eq!(answer.json()["length"], 18, "{answer:?}");
    let (second, _modules) = world(replace_body("response"), &read_write).await;
    let answer = second.get("gateway", "/a").await;
    assert!(answer.body.contains("changed on the way"), "{answer:?}");
    assert!(!answer.body.contains("headers"), "{answer:?}");
    // The connection to the application is used again, and nothing of the former answer is left on it.
    for _ in 0..3 {
        let again = second.get("gateway", "/b").await;
        assert_eq!(again.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_the_limit_of_a_body_is_about_what_the_peer_sends() {
    let modules = Modules::one(replace_body("request"));
    let [port, key] = before_http(&modules, &format!("{HEADERS}, body: write"));
    let limit = ("header_timeout: 10s", "max_body: 10");
    let world = World::start_with(&[port, key, limit]).await;
    let post = |length: usize, framing: &str| {
        format!(
            "POST /a HTTP/1.1\r\nHost: orders\r\n{framing}\r\nConnection: close\r\n\r\n{}",
            if framing.starts_with("Transfer") {
                format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length))
            } else {
                "x".repeat(length)
            }
        )
    };
    // 18 bytes reach the application.
    let answer = world
        .send("gateway", HTTP, &post(10, "Content-Length: 10"))
        .await;
    assert_eq!(answer.json()["length"], 18, "{answer:?}");
    for framing in ["Content-Length: 11", "Transfer-Encoding: chunked"] {
        let refused = world.send("gateway", HTTP, &post(11, framing)).await;
        assert_eq!(refused.status, 413, "{framing}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_grpc_passes_with_its_trailers() {
    let (world, _modules) = world(marker("7"), HEADERS).await;
    let mut peer = world.http2("gateway", HTTP).await;
    let request = Request::post("http://orders/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(&b"\0\0\0\0\x05hello"[..]);
    let answer = peer.send(request.unwrap()).await;
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.headers["x-filter"], "7");
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-length"]),
        (&"0".parse().unwrap(), &"10".parse().unwrap())
    );
    let line = world.line(|line| line["path"] == "/pkg.Service/Call").await;
    assert_eq!(line["grpc_status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_s_answer_to_grpc_is_a_status_of_grpc() {
    let (world, _modules) = world(on_request(&answer()), "local_response: true").await;
    let mut peer = world.http2("gateway", HTTP).await;
    let request = Request::post("http://orders/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .body(&b"\0\0\0\0\x05hello"[..]);
    let answer = peer.send(request.unwrap()).await;
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.headers["grpc-status"], "7");
    assert_eq!(world.app.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_the_head_of_a_websocket_is_filtered_and_its_bytes_pass() {
    let body = format!("{}{}", marker("7"), replace_body("request"));
    let (world, _modules) = world(body, &format!("{HEADERS}, body: write")).await;
    let mut stream = tls(&world.source("gateway"), world.at(HTTP)).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("x-filter: 7"), "{head}");
    let mut echoed = [0; 5];
    stream.write_all(b"\x81\x03abc").await.unwrap();
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x81\x03abc");

    let mut peer = world.http2("gateway", HTTP).await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://orders/ws")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (response, mut send) = peer.sender.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(b"abc"), true).unwrap();
    let answer = read2(response.await.unwrap()).await;
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.headers["x-filter"], "7");
    assert_eq!(answer.body, b"abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_may_refuse_what_the_application_has_answered() {
    let (world, _modules) = world(on_response(&answer()), "local_response: true").await;
    for path in ["/a", "/big", "/a"] {
        let answer = world.get("gateway", path).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert_eq!(answer.body, "changed on the way");
    }
    let mut stream = tls(&world.source("gateway"), world.at(HTTP)).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 403);
    let line = world.line(|line| line["path"] == "/big").await;
    assert_eq!(line["refusal"], "filter-answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_answers_in_the_place_of_the_application() {
    let (world, _modules) = world(on_request(&answer()), "local_response: true").await;
    let answer = world.get("gateway", "/a").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "changed on the way")
    );
    assert_eq!(world.app.seen(), 0);
    let line = world.line(|line| line["path"] == "/a").await;
    assert_eq!(line["refusal"], "filter-answered");
    // Policy is asked first: what it denies is not shown to plugins.
    let denied = world.get("gateway", "/forbidden").await;
    assert!(denied.body.contains("denied"), "{denied:?}");
}

/// Fails on the path `/elsewhere`, which is as long as no other.
fn fails_elsewhere(how: &str) -> String {
    format!(
        "(drop (call $get (i32.const 0) {} {GIVEN})) (if (i32.eq (i32.load (i32.const 60004)) (i32.const 10)) (then {how})) {} (i32.const 0)",
        word(":path"),
        set(0, "x-filter", "7")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_trap_fails_its_own_request_and_a_new_instance_serves_at_once() {
    let guest = on_request(&fails_elsewhere("(unreachable)"));
    let (world, _modules) = world(guest, HEADERS).await;
    for _ in 0..3 {
        let failed = world.get("gateway", "/elsewhere").await;
        assert_eq!(failed.status, 503, "{failed:?}");
        let next = world.get("gateway", "/a").await;
        assert_eq!(
            (next.status, seen(&next.json(), "x-filter").len()),
            (200, 1)
        );
    }
    assert_eq!(world.app.seen(), 3);
    let lines = world
        .log(|lines| lines.iter().filter(|line| line["status"] == 503).count() == 3)
        .await;
    let mut failed = lines.iter().filter(|line| line["status"] == 503);
    assert!(failed.all(|line| line["refusal"] == "filter-failed"));
    let metrics = world.running().shared.plugins.metrics();
    assert!(
        metrics.contains(r#"ringwall_plugin_recreations_total{plugin="p"} 3"#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_loop_is_ended_and_neighbours_go_on() {
    let guest = on_request(&fails_elsewhere("(loop $again (br $again))"));
    let (world, _modules) = world(guest, HEADERS).await;
    let mut other = world.http2("gateway", HTTP2).await;
    let (hung, beside) = tokio::join!(world.get("gateway", "/elsewhere"), other.get("/a"));
    assert_eq!((hung.status, beside.head.status.as_u16()), (503, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_what_is_not_declared_a_plugin_cannot_do() {
    let (world, _modules) = world(marker("7"), r#"read_headers: ["*"]"#).await;
    let answer = world.get("gateway", "/a").await;
    assert_eq!((answer.status, answer.field("x-filter")), (200, None));
    assert_eq!(seen(&answer.json(), "x-filter"), [""; 0]);
    let metrics = world.running().shared.plugins.metrics();
    let refused = r#"ringwall_plugin_refused_hostcalls_total{plugin="p"} 2"#;
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_attack_a_plugin_cannot_state_an_identity() {
    let forged: String = [
        "x-ringwall-user-context",
        "x-forwarded-client-cert",
        "x_forwarded_client_cert",
        "x-ringwall-loopback",
    ]
    .iter()
    .map(|name| set(0, name, "forged"))
    .collect();
    let guest = on_request(&format!("{forged} (i32.const 0)"));
    let (world, _modules) = world(guest, HEADERS).await;
    let said = world.get("gateway", "/a").await.json();
    assert!(!said.to_string().contains("forged"), "{said}");
    let cert = seen(&said, "x-forwarded-client-cert");
    assert!(
        cert[0].contains("URI=spiffe://ringwall.local/gateway"),
        "{cert:?}"
    );
    assert_eq!(cert.len(), 1);
    // What the gateway has said passes by: a plugin neither sees nor changes it.
    let request = "GET /a HTTP/1.1\r\nHost: orders\r\nX-Ringwall-User-Context: stated\r\nConnection: close\r\n\r\n";
    let said = world.send("gateway", HTTP, request).await.json();
    assert_eq!(seen(&said, "x-ringwall-user-context"), ["stated"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_a_plugin_does_not_see_the_statement_about_the_user() {
    let copy = format!(
        "(if (i32.eqz (call $get (i32.const 0) {} {GIVEN})) (then (drop (call $set (i32.const 0) {} {VALUE})))) (i32.const 0)",
        word("x-ringwall-user-context"),
        word("x-filter")
    );
    let (world, _modules) = world(on_request(&copy), HEADERS).await;
    let request = "GET /a HTTP/1.1\r\nHost: orders\r\nX-Ringwall-User-Context: stated\r\nConnection: close\r\n\r\n";
    let said = world.send("gateway", HTTP, request).await.json();
    assert_eq!(seen(&said, "x-filter"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r56_attack_a_plugin_cannot_leave_what_was_authorized() {
    let to =
        |name: &str, value: &str| on_request(&format!("{} (i32.const 0)", set(0, name, value)));
    let (within, _modules) = world(to(":path", "/elsewhere"), HEADERS).await;
    let answer = within.get("gateway", "/a").await;
    assert_eq!(answer.json()["uri"], "/elsewhere", "{answer:?}");
    for (name, value) in [
        (":path", "/forbidden/x"),
        (":method", "DELETE"),
        (":authority", "payments"),
        // A field that a policy reads is part of what was authorized.
        ("x-tenant", "evil"),
    ] {
        let (world, _modules) = world(to(name, value), HEADERS).await;
        let answer = world.get("gateway", "/a").await;
        assert_eq!(answer.status, 500, "{name}: {answer:?}");
        assert_eq!(world.app.seen(), 0, "{name}");
        let line = world.line(|line| line["path"] == "/a").await;
        assert_eq!(line["refusal"], "filter-left-the-policy", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_may_ask_who_calls() {
    for (property, expected) in [
        (
            "connection\\00uri_san_peer_certificate",
            "spiffe://ringwall.local/gateway",
        ),
        (
            "connection\\00uri_san_local_certificate",
            "spiffe://ringwall.local/orders",
        ),
        (
            "connection\\00subject_peer_certificate",
            "CN=workload gateway,O=Ringwall",
        ),
        (
            "connection\\00subject_local_certificate",
            "CN=workload orders,O=Ringwall",
        ),
        ("connection\\00tls_version", "TLSv1.3"),
        ("cluster_name", "orders"),
        ("route_name", "orders:7105"),
    ] {
        let length = property.replace("\\00", "\0").len();
        let guest = on_request(&format!(
            "(if (call $property (i32.const 50000) (i32.const {length}) {GIVEN}) (then (unreachable))) (drop (call $set (i32.const 0) {} {VALUE})) (i32.const 0)",
            word("x-filter")
        ));
        let guest = format!("{guest} (data (i32.const 50000) \"{property}\")");
        let (world, _modules) = world(guest, &format!("{HEADERS}, read_properties: [\"*\"]")).await;
        let answer = world.get("gateway", "/a").await;
        assert_eq!(answer.status, 200, "{property}: {answer:?}");
        assert_eq!(seen(&answer.json(), "x-filter"), [expected], "{property}");
        let source = world.running().workers[0].plugins.get();
        assert!(source.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_http_in_a_tunnel_passes_the_same_plugins() {
    let (world, _modules) = world(marker("7"), HEADERS).await;
    let mut outer = super::super::peers::http2(&world.source("gateway"), world.hbone()).await;
    let request = super::super::peers::connect_request(&format!("orders:{HTTP}"));
    let (response, mut send) = outer.sender.send_request(request, false).unwrap();
    let ask = "GET /a HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    send.send_data(Bytes::from_static(ask.as_bytes()), false)
        .unwrap();
    let answer = read2(response.await.unwrap()).await;
    let text = String::from_utf8_lossy(&answer.body).to_lowercase();
    assert!(text.contains("x-filter: 7"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_tunnel_leads_around_no_plugin_of_an_egress_gateway() {
    let modules = Modules::one(marker("7"));
    let [port, key] = before_http(&modules, HEADERS);
    let egress = (
        "loopback_token: loopback-token",
        "egress: { roots: ROOT_FOLDER/ringwall.local-orders/bundle.pem }",
    );
    for (edits, status, why) in [
        (vec![egress, port, key], 500, "filter-tunnel"),
        (vec![egress], 403, ""),
    ] {
        let world = World::start_with(&edits).await;
        let mut outer = world.http2("gateway", HTTP).await;
        let request = super::super::peers::connect_request("api.example.com:443");
        let (response, _send) = outer.sender.send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), status);
        let line = world.line(|line| line["method"] == "CONNECT").await;
        assert_eq!(line["refusal"].as_str().unwrap_or(""), why, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_plugin_that_hoards_ends_its_own_request() {
    let guest =
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 1))"#;
    let modules = Modules::one(guest.to_owned());
    let capabilities = r#"read_headers: ["*"], body: read }, limits: { buffered_body: 100"#;
    let world = World::start_with(&before_http(&modules, capabilities)).await;
    let post = format!(
        "POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 200\r\nConnection: close\r\n\r\n{}",
        "x".repeat(200)
    );
    let answer = world.send("gateway", HTTP, &post).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    let line = world.line(|line| line["path"] == "/a").await;
    assert_eq!(line["refusal"], "filter-body-too-large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_request_and_keep_alive_go_on_past_plugins() {
    let (world, _modules) = world(marker("7"), HEADERS).await;
    let source = world.source("gateway");
    let stream = tls(&source, world.at(HTTP)).await.unwrap();
    let head = b"HEAD /a HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    let answer = exchange(stream, head).await;
    assert_eq!((answer.status, answer.field("x-filter")), (200, Some("7")));
    let mut http2 = world.http2("gateway", HTTP).await;
    for _ in 0..3 {
        let answer = http2.send(get2("/a")).await;
        assert_eq!(answer.head.headers["x-filter"], "7");
    }
    drop(Arc::clone(&source));
}
