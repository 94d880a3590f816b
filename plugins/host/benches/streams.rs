//! What a stream costs: `cargo bench -p ringwall-plugin-host`. It asserts nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement ends where anything fails, and prints"
)]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/host/support.rs"]
mod support;

use std::time::{Duration, Instant};

use ringwall_plugin_host::{Chain, Worker};

use support::*;

/// Reads one header and sets another on the request's way, and sets one on the response's.
const FILTER: &str = r#"(data (i32.const 100) "host") (data (i32.const 104) "x-out") (data (i32.const 110) "yes")
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $get_header (i32.const 0) (i32.const 100) (i32.const 4) (global.get $p) (global.get $n)))
        (drop (call $set_header (i32.const 0) (i32.const 104) (i32.const 5) (i32.const 110) (i32.const 3)))
        (i32.const 0))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
        (drop (call $set_header (i32.const 2) (i32.const 104) (i32.const 5) (i32.const 110) (i32.const 3)))
        (i32.const 0))
    (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
    (func (export "proxy_on_log") (param i32))
    (func (export "proxy_on_delete") (param i32))"#;

async fn exchanges(worker: &Worker, chain: &Chain, count: u32) -> Duration {
    let started = Instant::now();
    for _ in 0..count {
        let stream = worker.open(chain, info());
        let mut sent = request("");
        for name in [
            "accept",
            "accept-encoding",
            "user-agent",
            "x-one",
            "x-two",
            "x-three",
        ] {
            sent.headers_mut()
                .insert(name, http::HeaderValue::from_static("some value"));
        }
        let passed = stream.request(sent).await.unwrap();
        let answer = stream.response(response("x")).await.unwrap();
        std::hint::black_box((passed, answer));
    }
    started.elapsed() / count
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let bed = Bed::new(&guest(FILTER));
    let empty = Chain::default();
    for _ in 0..3 {
        let without = exchanges(&bed.worker, &empty, 20_000).await;
        let with = exchanges(&bed.worker, &bed.chain(), 20_000).await;
        println!("a stream: {without:?} without a plugin, {with:?} with one");
    }
    let module = load(&bed.runtime, &guest(FILTER));
    let started = Instant::now();
    for _ in 0..1000 {
        bed.plugin.replace(&module, spec()).unwrap();
    }
    println!("an instance, configured: {:?}", started.elapsed() / 1000);
}
