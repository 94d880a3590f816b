//! Plugins in the path of a request: guests written as text, in the real gateway between real sockets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::harness::{Answer, Edit, World, exchange};
use crate::reload::Reloader;

/// What every guest has.
const PRELUDE: &str = r#"
    (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_send_local_response" (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_buffer_bytes" (func $fill (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_http_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_grpc_call" (func $grpc (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_grpc_stream" (func $stream (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_grpc_send" (func $send (param i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_effective_context" (func $context (param i32) (result i32)))
    (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
    (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
    (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
    (data (i32.const 0) "x-filter")
    (data (i32.const 32) "x-ringwall-user-context")
    (data (i32.const 64) ":path")
    (data (i32.const 96) "/open/elsewhere")
    (data (i32.const 128) "/v1/orders/7")
    (data (i32.const 160) "changed on the way")
    (data (i32.const 192) "orders")
    (data (i32.const 224) "7")
    (data (i32.const 400) "pkg.Service")
    (data (i32.const 416) "Call")
    (data (i32.const 424) "Slow")
    (data (i32.const 432) "hello")
    (data (i32.const 232) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\0b\00\00\00\0a\00\00\00\0d\00\00\00:method\00GET\00:path\00/open/asked\00:authority\00api.localhost\00")
"#;

/// Runs `body` for each request's headers and answers what it leaves: 0 goes on, 1 pauses.
fn on_request(body: &str) -> String {
    format!(
        "(func (export \"proxy_on_request_headers\") (param $id i32) (param i32 i32) (result i32) {body})"
    )
}

/// `x-filter: 7` in the map: 0 for a request, 2 for a response.
fn mark(map: u8) -> String {
    format!(
        "(drop (call $set (i32.const {map}) (i32.const 0) (i32.const 8) (i32.const 224) (i32.const 1)))"
    )
}

/// Folders with modules, and what a configuration says of them.
struct Modules(TempDir);

impl Modules {
    fn new(guests: &[(&str, String)]) -> Self {
        let modules = Self(tempfile::tempdir().expect("folder"));
        for (name, body) in guests {
            modules.write(name, body);
        }
        modules
    }

    fn write(&self, name: &str, body: &str) {
        let module = wat::parse_str(format!("(module {PRELUDE} {body})")).expect("a module");
        let next = self.0.path().join("next");
        std::fs::write(&next, module).expect("module");
        std::fs::rename(&next, self.path(name)).expect("module");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(format!("{name}.wasm"))
    }

    /// A plugin with these capabilities, on the route `open`.
    fn on_open(&self, name: &str, capabilities: &str) -> [Edit; 2] {
        let plugin = format!(
            "plugins: [{{ name: {name}, module: {}, capabilities: {{ {capabilities} }} }}]\nclusters:",
            self.path(name).display()
        );
        let route = format!("id: open, filters: [{name}],");
        [("clusters:", plugin.leak()), ("id: open,", route.leak())]
    }
}

const HEADERS: &str = r#"read_headers: ["*"], write_headers: ["*"]"#;

async fn ask(world: &World, path: &str) -> Answer {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n");
    world.send_plain(request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_changes_request_and_response() {
    let response = format!(
        "(func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32) {} (i32.const 0))",
        mark(2)
    );
    let body = format!(
        "{}{response}",
        on_request(&format!("{} (i32.const 0)", mark(0)))
    );
    let modules = Modules::new(&[("marker", body)]);
    let mut world = World::start_with(&modules.on_open("marker", HEADERS)).await;
    let answer = ask(&world, "/open/a").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen("x-filter").as_deref(), Some("7"));
    assert_eq!(answer.field("x-filter"), Some("7"));
    // Another route has no filter.
    let other = ask(&world, "/special").await;
    assert_eq!(other.field("x-filter"), None);
    let log = world.finish().await;
    assert!(log.iter().all(|line| line["refusal"].is_null()), "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_what_is_not_declared_a_plugin_cannot_do() {
    let body = on_request(&format!("{} (i32.const 0)", mark(0)));
    let modules = Modules::new(&[("marker", body)]);
    let world = World::start_with(&modules.on_open("marker", r#"read_headers: ["*"]"#)).await;
    let answer = ask(&world, "/open/a").await;
    assert_eq!((answer.status, answer.seen("x-filter")), (200, None));
    let metrics = world.running().shared.plugins.metrics();
    let refused = r#"ringwall_plugin_refused_hostcalls_total{plugin="marker"} 1"#;
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_attack_a_plugin_cannot_forge_a_user_context() {
    let forge = "(drop (call $set (i32.const 0) (i32.const 32) (i32.const 23) (i32.const 224) (i32.const 1))) (i32.const 0)";
    let modules = Modules::new(&[("forger", on_request(forge))]);
    let world = World::start_with(&modules.on_open("forger", HEADERS)).await;
    let answer = ask(&world, "/open/a").await;
    assert_eq!(
        (answer.status, answer.seen("x-ringwall-user-context")),
        (200, None)
    );
}

/// Sets `:path` to what stands at `at`.
fn rewrite(at: u8, length: u8) -> String {
    on_request(&format!(
        "(drop (call $set (i32.const 0) (i32.const 64) (i32.const 5) (i32.const {at}) (i32.const {length}))) (i32.const 0)"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r56_attack_a_plugin_cannot_leave_the_route_that_was_authorized() {
    let modules = Modules::new(&[("within", rewrite(96, 15)), ("out", rewrite(128, 12))]);
    let world = World::start_with(&modules.on_open("within", HEADERS)).await;
    let answer = ask(&world, "/open/a").await;
    assert_eq!(answer.json()["uri"], "/open/elsewhere");
    let mut world = World::start_with(&modules.on_open("out", HEADERS)).await;
    assert_eq!(ask(&world, "/open/a").await.status, 500);
    assert_eq!(world.upstream_requests(), 0);
    let log = world.finish().await;
    assert_eq!(log[0]["refusal"], "filter-left-the-route");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_trap_fails_its_own_request_alone() {
    let modules = Modules::new(&[("trap", on_request("unreachable"))]);
    let mut world = World::start_with(&modules.on_open("trap", HEADERS)).await;
    for _ in 0..3 {
        let answer = ask(&world, "/open/a").await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(ask(&world, "/special").await.status, 200);
    }
    assert_eq!(world.upstream_requests(), 3);
    let log = world.finish().await;
    let failed = log.iter().filter(|line| line["refusal"] == "filter-failed");
    assert_eq!(failed.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_loop_is_ended_and_neighbours_go_on() {
    let modules = Modules::new(&[(
        "loop",
        on_request("(loop $again (br $again)) (i32.const 0)"),
    )]);
    let world = World::start_with(&modules.on_open("loop", HEADERS)).await;
    let (hung, other) = tokio::join!(ask(&world, "/open/a"), ask(&world, "/special"));
    assert_eq!((hung.status, other.status), (503, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_answers_in_the_place_of_the_upstream() {
    let answer = "(drop (call $answer (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 160) (i32.const 18) (i32.const 0) (i32.const 0) (i32.const -1))) (i32.const 1)";
    let modules = Modules::new(&[("answer", on_request(answer))]);
    let capabilities = "local_response: true";
    let mut world = World::start_with(&modules.on_open("answer", capabilities)).await;
    let answer = ask(&world, "/open/a").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "changed on the way")
    );
    assert_eq!(world.upstream_requests(), 0);
    let log = world.finish().await;
    assert_eq!(log[0]["refusal"], "filter-answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_changes_a_body_within_the_route_s_limit() {
    let body = "(func (export \"proxy_on_request_body\") (param i32 i32) (param $end i32) (result i32)
        (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
        (drop (call $fill (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 160) (i32.const 18)))
        (i32.const 0))";
    let modules = Modules::new(&[("body", body.to_owned())]);
    let [plugin, _] = modules.on_open("body", r#"read_headers: ["*"], body: write"#);
    let route = ("id: small,", "id: small, filters: [body],");
    let world = World::start_with(&[plugin, route]).await;
    let post = |length: usize| {
        format!(
            "POST /small HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{}",
            "x".repeat(length)
        )
    };
    let answer = world.send_plain(post(10).as_bytes()).await;
    assert_eq!(answer.json()["length"], 18, "{answer:?}");
    // The limit is about what the client sends.
    assert_eq!(world.send_plain(post(11).as_bytes()).await.status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_asks_a_declared_cluster_first() {
    let call = "(drop (call $call (i32.const 192) (i32.const 6) (i32.const 232) (i32.const 83) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2000) (i32.const 400))) (global.set $asked (local.get $id)) (i32.const 1)";
    let body = format!(
        "(global $asked (mut i32) (i32.const 0)) {} (func (export \"proxy_on_http_call_response\") (param i32 i32 i32 i32 i32)
            (drop (call $context (global.get $asked))) {} (drop (call $continue (i32.const 0))))",
        on_request(call),
        mark(0)
    );
    let modules = Modules::new(&[("asker", body)]);
    let capabilities = format!("{HEADERS}, clusters: [orders]").leak();
    let world = World::start_with(&modules.on_open("asker", capabilities)).await;
    let answer = ask(&world, "/open/a").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen("x-filter").as_deref(), Some("7"));
    assert_eq!(world.upstream_requests(), 2);
}

/// Calls `orders` by gRPC before the request goes on: with a message it is marked, with another end it is refused. `method` is
/// where four letters stand.
fn asks_by_grpc(call: &str) -> String {
    let refuse = "(drop (call $answer (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 160) (i32.const 18) (i32.const 0) (i32.const 0) (local.get $status)))";
    let begin = format!(
        "(if {call} (then (drop (call $answer (i32.const 404) (i32.const 0) (i32.const 0) (i32.const 160) (i32.const 18) (i32.const 0) (i32.const 0) (i32.const -1))) (return (i32.const 1)))) (global.set $asked (local.get $id)) (i32.const 1)"
    );
    format!(
        r#"(global $asked (mut i32) (i32.const 0)) {}
        (func (export "proxy_on_grpc_receive") (param i32 i32) (param $size i32)
            (drop (call $context (global.get $asked)))
            (if (i32.ne (local.get $size) (i32.const 5)) (then (unreachable)))
            {} (drop (call $continue (i32.const 0))))
        (func (export "proxy_on_grpc_close") (param i32 i32) (param $status i32)
            (if (local.get $status) (then (drop (call $context (global.get $asked))) {refuse})))"#,
        on_request(&begin),
        mark(0)
    )
}

fn unary(method: u16, time: u16) -> String {
    format!(
        "(call $grpc (i32.const 192) (i32.const 6) (i32.const 400) (i32.const 11) (i32.const {method}) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 432) (i32.const 5) (i32.const {time}) (i32.const 500))"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_a_plugin_calls_a_declared_cluster_by_grpc() {
    let stream = "(call $stream (i32.const 192) (i32.const 6) (i32.const 400) (i32.const 11) (i32.const 416) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 500))";
    let streaming = format!(
        "(i32.or {stream} (call $send (i32.load (i32.const 500)) (i32.const 432) (i32.const 5) (i32.const 1)))"
    );
    for call in [unary(416, 2000), streaming] {
        let modules = Modules::new(&[("asker", asks_by_grpc(&call))]);
        let capabilities = format!("{HEADERS}, local_response: true, clusters: [orders]").leak();
        let world = World::start_with(&modules.on_open("asker", capabilities)).await;
        for _ in 0..3 {
            let answer = ask(&world, "/open/a").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.seen("x-filter").as_deref(), Some("7"));
        }
        assert_eq!(world.upstream_requests(), 6);
        // Calls share the connection of their worker: one of HTTP/2 and one of HTTP/1.1 for each of the two at most.
        assert!(world.orders.connections.load(Ordering::SeqCst) <= 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_call_by_grpc_ends_at_its_deadline_and_none_is_made_beyond_the_capabilities() {
    let modules = Modules::new(&[("asker", asks_by_grpc(&unary(424, 100)))]);
    let capabilities = format!("{HEADERS}, local_response: true, clusters: [orders]").leak();
    let world = World::start_with(&modules.on_open("asker", capabilities)).await;
    assert_eq!(ask(&world, "/open/a").await.status, 403);
    // The call is cancelled, so that its place is free again.
    assert_eq!(ask(&world, "/open/a").await.status, 403);
    let modules = Modules::new(&[("asker", asks_by_grpc(&unary(416, 2000)))]);
    let capabilities = format!("{HEADERS}, local_response: true").leak();
    let world = World::start_with(&modules.on_open("asker", capabilities)).await;
    assert_eq!(ask(&world, "/open/a").await.status, 404);
    assert_eq!(world.upstream_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_attack_a_call_by_grpc_is_answered_by_nobody_but_the_declared_workload() {
    let modules = Modules::new(&[("asker", asks_by_grpc(&unary(416, 2000)))]);
    let capabilities = format!("{HEADERS}, local_response: true, clusters: [orders]").leak();
    let [plugin, route] = modules.on_open("asker", capabilities);
    // Whoever listens there is `orders` and not whom the cluster names.
    let other = ("identity: orders }", "identity: authz-server }");
    let world = World::start_with(&[plugin, route, other]).await;
    assert_eq!(ask(&world, "/open/a").await.status, 403);
    assert_eq!(world.upstream_requests(), 0);
}

fn reload(world: &World, path: &Path, edit: Edit) {
    let text = std::fs::read_to_string(path).expect("configuration");
    assert!(text.contains(edit.0));
    std::fs::write(path, text.replace(edit.0, edit.1)).expect("configuration");
    let text = std::fs::read_to_string(path).expect("configuration");
    let config = ringwall_service::config::parse_yaml(&text, path).expect("parse");
    let shared = Arc::clone(&world.running().shared);
    let mut reloader = Reloader::new(world.shell.clone(), shared, path.to_owned(), config);
    reloader.reload();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r92_a_module_is_replaced_without_a_failed_or_half_filtered_request() {
    let body = |value: u8| {
        let mark = |map: u8| {
            format!(
                "(drop (call $set (i32.const {map}) (i32.const 0) (i32.const 8) (i32.const {value}) (i32.const 1)))"
            )
        };
        format!(
            "{}(func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32) {} (i32.const 0)) (data (i32.const 225) \"8\")",
            on_request(&format!("{} (i32.const 0)", mark(0))),
            mark(2)
        )
    };
    let modules = Modules::new(&[("marker", body(224))]);
    let world = Arc::new(World::start_with(&modules.on_open("marker", HEADERS)).await);
    let done = Arc::new(AtomicBool::new(false));
    let clients = (0..4).map(|_| {
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        tokio::spawn(async move {
            let mut versions = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let request =
                    b"GET /open/a HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n";
                let stream = TcpStream::connect(world.plain_address())
                    .await
                    .expect("connect");
                let answer = exchange(stream, request).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let (out, back) = (answer.seen("x-filter"), answer.field("x-filter"));
                assert_eq!(out.as_deref(), back, "one version has seen both ways");
                versions.push(back.unwrap_or_default().to_owned());
            }
            versions
        })
    });
    let clients: Vec<_> = clients.collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    modules.write("marker", &body(225));
    reload(&world, &world.config_file, ("limits:", "limits:"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    // One that cannot be used changes nothing.
    std::fs::write(modules.path("marker"), b"no module").expect("module");
    reload(&world, &world.config_file, ("limits:", "limits:"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    done.store(true, Ordering::Relaxed);
    for client in clients {
        let versions = client.await.expect("client");
        assert_eq!(versions.first().map(String::as_str), Some("7"));
        assert_eq!(versions.last().map(String::as_str), Some("8"));
        assert!(versions.is_sorted(), "{versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_names_declared_plugins_alone() {
    let world = World::start().await;
    let text = std::fs::read_to_string(&world.config_file).expect("configuration");
    let text = text.replace("id: open,", "id: open, filters: [nobody],");
    let config = ringwall_service::config::parse_yaml(&text, &world.config_file).expect("parse");
    let fault = crate::snapshot::check(&config).expect_err("a fault");
    assert!(
        fault.to_string().contains("filters: saw \"nobody\""),
        "{fault}"
    );
}
