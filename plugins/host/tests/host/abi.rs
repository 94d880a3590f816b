//! Each host function with good and bad arguments, as status codes.

use std::sync::Arc;

use http::HeaderValue;
use ringwall_plugin_host::{HeadersPause, PluginSpec};

use crate::support::*;

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const PARSE_FAILURE: u32 = 4;
const INVALID_MEMORY_ACCESS: u32 = 6;
const EMPTY: u32 = 7;
const CAS_MISMATCH: u32 = 8;

/// Texts of the guests below, by place: a name at 100, a value at 120, a malformed map at 200, a whole one at 240.
const DATA: &str = r#"
    (data (i32.const 100) "x-a")
    (data (i32.const 120) "value")
    (data (i32.const 200) "\01\00\00\00\ff\00\00\00\00\00\00\00a\00\00")
    (data (i32.const 240) "\01\00\00\00\03\00\00\00\01\00\00\00x-a\001\00")
    (data (i32.const 300) "request\00path")
    (data (i32.const 320) "ringwall.sha256")
    (data (i32.const 340) "bad\0aname")
    (data (i32.const 380) "host")
    (data (i32.const 360) "bad\0d\0avalue")
"#;

async fn expect(cases: &[(&str, u32)]) {
    for (call, expected) in cases {
        assert_eq!(status_of(DATA, call).await, *expected, "{call}");
    }
}

/// Arguments as `i32.const`s.
fn call(name: &str, arguments: &[i64]) -> String {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|number| format!("(i32.const {number})"))
        .collect();
    format!("(call ${name} {})", arguments.join(" "))
}

async fn statuses(cases: &[(&str, &[i64], u32)]) {
    for (name, arguments, expected) in cases {
        let call = call(name, arguments);
        assert_eq!(status_of(DATA, &call).await, *expected, "{call}");
    }
}

/// A pointer that is outside, one that hangs over the end, one that wraps around.
const OUTSIDE: i64 = 0x7fff_ffff;
const EDGE: i64 = 131_071;
const NEGATIVE: i64 = -1;

#[tokio::test]
async fn r90_a_header_is_read_and_set() {
    let guest = guest(&format!(
        r#"(data (i32.const 100) "hostx-copy") {}"#,
        on_request(
            r#"(call $say (call $get_header (i32.const 0) (i32.const 100) (i32.const 4) (global.get $p) (global.get $n)))
               (drop (call $add_header (i32.const 0) (i32.const 104) (i32.const 6) (i32.load (global.get $p)) (i32.load (global.get $n))))"#
        )
    ));
    let request = Bed::new(&guest).get().await.unwrap();
    assert_eq!(request.headers()["x-status"], "00");
    assert_eq!(request.headers()["x-copy"], "a.example");
}

#[tokio::test]
async fn r90_header_maps_answer_as_specified() {
    statuses(&[
        ("get_header", &[0, 100, 3, 48, 52], NOT_FOUND),
        ("get_header", &[2, 100, 3, 48, 52], BAD_ARGUMENT), // not open
        ("get_header", &[8, 100, 3, 48, 52], BAD_ARGUMENT),
        ("get_header", &[NEGATIVE, 100, 3, 48, 52], BAD_ARGUMENT),
        ("add_header", &[0, 100, 3, 120, 5], OK),
        ("add_header", &[2, 100, 3, 120, 5], BAD_ARGUMENT),
        ("add_header", &[6, 100, 3, 120, 5], BAD_ARGUMENT),
        ("add_header", &[0, 340, 8, 120, 5], BAD_ARGUMENT),
        ("add_header", &[0, 100, 3, 360, 10], BAD_ARGUMENT),
        ("add_header", &[0, 100, 0, 120, 5], BAD_ARGUMENT),
        ("set_header", &[0, 100, 3, 120, 5], OK),
        ("set_header", &[1, 100, 3, 120, 5], BAD_ARGUMENT),
        ("remove_header", &[0, 100, 3], OK), // it was not there
        ("remove_header", &[9, 100, 3], BAD_ARGUMENT),
        ("get_map", &[0, 48, 52], OK),
        ("get_map", &[2, 48, 52], OK), // as Envoy: nothing
        ("get_map", &[99, 48, 52], BAD_ARGUMENT),
        ("get_map_size", &[0, 48], OK),
        ("get_map_size", &[2, 48], BAD_ARGUMENT),
        ("set_map", &[0, 200, 15], PARSE_FAILURE),
        ("set_map", &[2, 240, 18], BAD_ARGUMENT),
        ("set_map", &[0, 240, 18], OK),
        ("set_map", &[0, 0, 0], OK),
    ])
    .await;
}

#[tokio::test]
async fn r91_bad_pointers_are_invalid_memory_accesses_everywhere() {
    for (name, good) in [
        ("log", &[2, 100, 3][..]),
        ("get_header", &[0, 8, 8, 48, 52]),
        ("add_header", &[0, 100, 3, 120, 5]),
        ("set_header", &[0, 100, 3, 120, 5]),
        ("remove_header", &[0, 100, 3]),
        ("set_map", &[0, 240, 18]),
        ("set_data", &[100, 3, 120, 5, 0]),
        ("enqueue", &[1, 120, 5]), // the memory is looked at before the queue
        ("resolve_queue", &[100, 3, 100, 3, 48]),
        ("register_queue", &[100, 3, 48]),
        ("get_property", &[300, 12, 48, 52]),
        ("set_property", &[300, 12, 120, 5]),
        ("define_metric", &[0, 100, 3, 48]),
        ("call_foreign", &[320, 15, 100, 3, 48, 52]),
        ("respond", &[200, 100, 3, 120, 5, 240, 18, -1]),
    ] {
        // Every pointer in turn; the length behind it makes the last byte fall outside.
        for place in 0..good.len() {
            let is_status = name == "respond" && place == 0;
            if is_status || !(100..1000).contains(&good[place]) {
                continue;
            }
            for bad in [OUTSIDE, EDGE, NEGATIVE] {
                let mut arguments = good.to_vec();
                arguments[place] = bad;
                if place + 1 < arguments.len() && arguments[place + 1] < 2 {
                    continue;
                }
                let call = call(name, &arguments);
                let seen = status_of(DATA, &call).await;
                assert_eq!(seen, INVALID_MEMORY_ACCESS, "{call}");
            }
            let mut arguments = good.to_vec();
            arguments[place + 1] = NEGATIVE;
            let call = call(name, &arguments);
            let seen = status_of(DATA, &call).await;
            assert_eq!(seen, INVALID_MEMORY_ACCESS, "{call}");
        }
    }
}

#[tokio::test]
async fn r91_bad_places_for_results_are_invalid_memory_accesses() {
    for bad in [OUTSIDE, EDGE, NEGATIVE, 131_069] {
        statuses(&[
            ("get_log_level", &[bad], INVALID_MEMORY_ACCESS),
            ("get_time", &[bad], INVALID_MEMORY_ACCESS),
            ("get_header", &[0, 100, 3, 48, 52], NOT_FOUND),
            ("get_map", &[0, bad, 52], INVALID_MEMORY_ACCESS),
            ("get_map", &[0, 48, bad], INVALID_MEMORY_ACCESS),
            ("get_map_size", &[0, bad], INVALID_MEMORY_ACCESS),
            ("get_property", &[300, 12, bad, 52], INVALID_MEMORY_ACCESS),
            ("get_property", &[300, 12, 48, bad], INVALID_MEMORY_ACCESS),
            ("register_queue", &[100, 3, bad], INVALID_MEMORY_ACCESS),
            ("define_metric", &[0, 100, 3, bad], INVALID_MEMORY_ACCESS),
            ("get_buffer", &[6, 0, 10, bad, 52], INVALID_MEMORY_ACCESS),
            ("get_buffer_status", &[6, bad, 52], INVALID_MEMORY_ACCESS),
            ("get_buffer_status", &[6, 48, bad], INVALID_MEMORY_ACCESS),
            ("get_status", &[bad, 48, 52], INVALID_MEMORY_ACCESS),
            (
                "call_foreign",
                &[320, 15, 0, 0, bad, 52],
                INVALID_MEMORY_ACCESS,
            ),
        ])
        .await;
    }
}

#[tokio::test]
async fn r90_buffers_answer_as_specified() {
    statuses(&[
        ("get_buffer", &[0, 0, 10, 48, 52], NOT_FOUND), // no body here
        ("get_buffer", &[7, 0, 10, 48, 52], NOT_FOUND), // nothing is configured now
        ("get_buffer", &[8, 0, 10, 48, 52], NOT_FOUND),
        ("get_buffer", &[9, 0, 10, 48, 52], BAD_ARGUMENT),
        ("get_buffer", &[6, 0, NEGATIVE, 48, 52], OK),
        ("get_buffer", &[6, 1, 1, 48, 52], BAD_ARGUMENT), // behind the end of nothing
        ("get_buffer_status", &[6, 48, 52], OK),
        ("get_buffer_status", &[0, 48, 52], NOT_FOUND),
        ("get_buffer_status", &[99, 48, 52], BAD_ARGUMENT),
        ("set_buffer", &[0, 0, 0, 120, 5], NOT_FOUND),
        ("set_buffer", &[6, 0, 0, 120, 5], BAD_ARGUMENT), // not to be written to
        ("set_buffer", &[77, 0, 0, 120, 5], BAD_ARGUMENT),
    ])
    .await;
}

#[tokio::test]
async fn r90_the_rest_answers_as_specified() {
    statuses(&[
        ("log", &[5, 100, 3], OK),
        ("log", &[6, 100, 3], BAD_ARGUMENT),
        ("log", &[0, 100, 0], OK),
        ("continue", &[0], OK),
        ("continue", &[3], OK), // not such a stream: nothing happens
        ("continue", &[4], BAD_ARGUMENT),
        ("close", &[4], BAD_ARGUMENT),
        ("done", &[], NOT_FOUND),
        ("set_context", &[777], BAD_ARGUMENT),
        ("set_tick", &[0], OK),
        ("call_foreign", &[320, 15, 0, 0, 48, 52], OK),
        ("call_foreign", &[320, 14, 0, 0, 48, 52], NOT_FOUND),
        ("call_foreign", &[320, 15, 0, 0, 0, 0], OK), // no result wanted
        ("define_metric", &[3, 100, 3, 48], BAD_ARGUMENT),
        ("get_metric", &[77, 48], NOT_FOUND),
        ("get_property", &[100, 3, 48, 52], NOT_FOUND),
        ("get_property", &[100, 0, 48, 52], NOT_FOUND),
        ("get_property", &[300, 12, 48, 52], OK),
        ("get_data", &[100, 3, 48, 52, 56], NOT_FOUND),
        ("resolve_queue", &[0, 0, 100, 3, 48], NOT_FOUND),
        ("enqueue", &[9999, 120, 5], NOT_FOUND),
        ("dequeue", &[9999, 48, 52], NOT_FOUND),
        (
            "http_call",
            &[100, 3, 240, 18, 0, 0, 0, 0, 0, 48],
            BAD_ARGUMENT,
        ), // no such cluster
        (
            "grpc_call",
            &[100, 3, 100, 3, 100, 3, 0, 0, 0, 0, 0, 48],
            PARSE_FAILURE,
        ),
        (
            "grpc_stream",
            &[100, 3, 100, 3, 100, 3, 0, 0, 48],
            PARSE_FAILURE,
        ),
        ("grpc_send", &[5, 120, 5, 0], NOT_FOUND),
        ("grpc_cancel", &[5], NOT_FOUND),
        ("grpc_close", &[5], NOT_FOUND),
        ("respond", &[99, 0, 0, 0, 0, 0, 0, -1], BAD_ARGUMENT),
        ("respond", &[100, 0, 0, 0, 0, 0, 0, -1], BAD_ARGUMENT),
        ("respond", &[70000, 0, 0, 0, 0, 0, 0, -1], BAD_ARGUMENT),
        ("respond", &[200, 0, 0, 0, 0, 200, 15, -1], PARSE_FAILURE),
    ])
    .await;
}

#[tokio::test]
async fn r90_shared_data_and_queues_work_from_a_guest() {
    let swap = |cas: &str| {
        format!(
            "(call $set_data (i32.const 100) (i32.const 3) (i32.const 120) (i32.const 5) {cas})"
        )
    };
    let get = "(drop (call $get_data (i32.const 100) (i32.const 3) (global.get $p) (global.get $n) (i32.const 56)))";
    let stale = format!(
        "(block (result i32) (drop {}) {get} (drop {}) {})",
        swap("(i32.const 0)"),
        swap("(i32.load (i32.const 56))"),
        swap("(i32.load (i32.const 56))")
    );
    let empty = "(block (result i32)
        (drop (call $register_queue (i32.const 100) (i32.const 3) (i32.const 60)))
        (drop (call $enqueue (i32.load (i32.const 60)) (i32.const 120) (i32.const 5)))
        (drop (call $dequeue (i32.load (i32.const 60)) (global.get $p) (global.get $n)))
        (if (i32.ne (i32.load (global.get $n)) (i32.const 5)) (then (unreachable)))
        (call $dequeue (i32.load (i32.const 60)) (global.get $p) (global.get $n)))";
    expect(&[(&*stale, CAS_MISMATCH), (empty, EMPTY)]).await;
}

#[tokio::test]
async fn r90_a_metric_counts_from_a_guest_and_is_shown() {
    let body = format!(
        "{DATA}{}",
        on_request(
            "(drop (call $define_metric (i32.const 0) (i32.const 100) (i32.const 3) (i32.const 60)))
             (drop (call $increment_metric (i32.load (i32.const 60)) (i64.const 2)))
             (drop (call $record_metric (i32.load (i32.const 60)) (i64.const 3)))
             (call $say (call $increment_metric (i32.load (i32.const 60)) (i64.const -1)))"
        )
    );
    let bed = Bed::new(&guest(&body));
    let request = bed.get().await.unwrap();
    assert_eq!(request.headers()["x-status"], "02");
    let expected = "ringwall_plugin_counter_total{plugin=\"p\",metric=\"x-a\"} 5\n";
    assert!(bed.runtime.metrics().contains(expected));
}

#[tokio::test]
async fn r90_the_time_is_the_host_s() {
    let body = on_request(
        "(drop (call $get_time (i32.const 64)))
         (call $say (i32.wrap_i64 (i64.rem_u (i64.load (i32.const 64)) (i64.const 100))))",
    );
    let request = Bed::new(&guest(&body)).get().await.unwrap();
    assert_eq!(request.headers()["x-status"], "89");
}

#[tokio::test]
async fn r90_the_whole_map_is_given_and_taken() {
    // Reads the map, writes it back: nothing changes, and no framing field is lost.
    let body = on_request(
        "(drop (call $get_map (i32.const 0) (global.get $p) (global.get $n)))
         (call $say (call $set_map (i32.const 0) (i32.load (global.get $p)) (i32.load (global.get $n))))",
    );
    let bed = Bed::new(&guest(&body));
    let mut sent = request("abc");
    sent.headers_mut()
        .insert("connection", HeaderValue::from_static("close"));
    let (head, _) = bed.open().request(sent).await.unwrap().into_parts();
    assert_eq!(head.headers["x-status"], "00");
    assert_eq!(head.headers["connection"], "close");
    assert_eq!(head.headers["host"], "a.example");
    assert_eq!(head.uri, "/path?query");
}

#[tokio::test]
async fn r90_an_allocator_that_fails_is_an_invalid_memory_access() {
    for (name, allocator) in [
        ("none", ""),
        (
            "null",
            "(func (export \"malloc\") (param i32) (result i32) (i32.const 0))",
        ),
        (
            "outside",
            "(func (export \"malloc\") (param i32) (result i32) (i32.const -8))",
        ),
        (
            "edge",
            "(func (export \"malloc\") (param i32) (result i32) (i32.const 131071))",
        ),
    ] {
        let text = format!(
            "{allocator}{}",
            on_request("(call $say (call $get_map (i32.const 0) (global.get $p) (global.get $n)))")
        );
        let request = Bed::new(&bare(&text)).get().await.unwrap();
        assert_eq!(request.headers()["x-status"], "06", "{name}");
    }
}

#[tokio::test]
async fn r91_the_allocator_may_not_call_back() {
    // Its own host call is refused (10), and the outer one succeeds: no recursion.
    let text = format!(
        "(global $seen (mut i32) (i32.const 99))
         (func (export \"malloc\") (param i32) (result i32)
            (global.set $seen (call $get_map (i32.const 0) (global.get $p) (global.get $n))) (i32.const 70000))
         {}",
        on_request(
            "(drop (call $get_map (i32.const 0) (global.get $p) (global.get $n)))
             (call $say (global.get $seen))"
        )
    );
    let bed = Bed::new(&bare(&text));
    let request = bed.get().await.unwrap();
    assert_eq!(request.headers()["x-status"], "10");
    assert_eq!(bed.metric("refused_hostcalls_total"), 1);
}

#[tokio::test]
async fn r91_nothing_is_allowed_that_is_not_declared() {
    const REFUSED: u32 = 10;
    for (name, arguments, expected) in [
        ("get_header", &[0, 380, 4, 48, 52][..], NOT_FOUND),
        ("add_header", &[0, 100, 3, 120, 5], REFUSED),
        ("set_header", &[0, 100, 3, 120, 5], REFUSED),
        ("remove_header", &[0, 100, 3], REFUSED),
        ("set_map", &[0, 240, 18], REFUSED),
        ("close", &[0], REFUSED),
        ("respond", &[200, 0, 0, 0, 0, 0, 0, -1], REFUSED),
        ("get_property", &[300, 12, 48, 52], NOT_FOUND),
        ("set_property", &[300, 12, 120, 5], REFUSED),
        ("get_data", &[100, 3, 48, 52, 56], NOT_FOUND),
        ("set_data", &[100, 3, 120, 5, 0], REFUSED),
        ("register_queue", &[100, 3, 48], REFUSED),
        ("resolve_queue", &[0, 0, 100, 3, 48], NOT_FOUND),
        ("enqueue", &[1, 120, 5], NOT_FOUND),
        ("dequeue", &[1, 48, 52], NOT_FOUND),
        ("call_foreign", &[320, 15, 0, 0, 48, 52], NOT_FOUND),
        (
            "http_call",
            &[100, 3, 240, 18, 0, 0, 0, 0, 0, 48],
            BAD_ARGUMENT,
        ),
        (
            "grpc_call",
            &[100, 3, 100, 3, 100, 3, 0, 0, 0, 0, 0, 48],
            PARSE_FAILURE,
        ),
    ] {
        let mut spec = PluginSpec::new("p");
        spec.capabilities.write_headers = ringwall_plugin_host::Names::new(["x-status"]);
        spec.limits.callback_time = std::time::Duration::from_millis(20);
        let call = call(name, arguments);
        let body = format!("{DATA}{}", on_request(&format!("(call $say {call})")));
        let bed = Bed::with(&guest(&body), spec);
        let request = bed.get().await.unwrap();
        let seen = request.headers()["x-status"].to_str().unwrap();
        assert_eq!(seen.parse::<u32>().unwrap(), expected, "{call}");
        assert_eq!(bed.metric("refused_hostcalls_total"), 1, "{call}");
    }
}

#[tokio::test]
async fn r91_a_map_shows_only_what_may_be_read_and_keeps_the_rest() {
    let mut spec = PluginSpec::new("p");
    spec.capabilities.read_headers = ringwall_plugin_host::Names::new(["x-*"]);
    spec.capabilities.write_headers = ringwall_plugin_host::Names::new(["x-*"]);
    let body = on_request(
        "(drop (call $get_map (i32.const 0) (global.get $p) (global.get $n)))
         (drop (call $set_map (i32.const 0) (i32.const 0) (i32.const 0)))
         (call $say (i32.load (i32.load (global.get $p))))",
    );
    let bed = Bed::with(&guest(&body), spec);
    let mut sent = request("");
    for name in ["x-one", "x-two", "authorization"] {
        sent.headers_mut()
            .insert(name, HeaderValue::from_static("v"));
    }
    let request = bed.open().request(sent).await.unwrap();
    assert_eq!(request.headers()["x-status"], "02");
    assert!(request.headers().contains_key("authorization"));
    assert!(!request.headers().contains_key("x-one"));
}

#[tokio::test]
async fn r90_guests_of_0_1_0_are_served() {
    // Two parameters in the headers callback, and a missing header is an empty one.
    let text = r#"(module
        (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_configuration" (func $configuration (param i32 i32) (result i32)))
        (import "env" "proxy_clear_route_cache" (func $clear (result i32)))
        (import "env" "proxy_continue_request" (func $continue (result i32)))
        (memory (export "memory") 2)
        (data (i32.const 8) "x-status")
        (func (export "proxy_abi_version_0_1_0"))
        (func (export "malloc") (param i32) (result i32) (i32.const 1000))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (drop (call $configuration (i32.const 64) (i32.const 68)))
            (i32.eq (i32.load (i32.const 68)) (i32.const 3)))
        (func (export "proxy_on_request_headers") (param i32 i32) (result i32)
            (drop (call $clear))
            (i32.store8 (i32.const 32) (i32.add (i32.const 48)
                (call $get (i32.const 0) (i32.const 8) (i32.const 8) (i32.const 48) (i32.const 52))))
            (drop (call $set (i32.const 0) (i32.const 8) (i32.const 8) (i32.const 32) (i32.const 1)))
            (drop (call $continue))
            (i32.const 1)))"#;
    let mut spec = spec();
    spec.configuration = "abc".into();
    spec.headers_pause = HeadersPause::Stream;
    let bed = Bed::with(&wat::parse_str(text).unwrap(), spec);
    let stream = bed.open();
    let request = stream.request(request("")).await.unwrap();
    assert_eq!(request.headers()["x-status"], "0");
    assert!(stream.is_rewritten());
    assert_eq!(Arc::strong_count(&bed.plugin), 1);
}
