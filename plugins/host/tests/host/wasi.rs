//! The WASI functions that guests import.

use crate::support::*;

const IMPORTS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
    (import "wasi_unstable" "proc_exit" (func $exit (param i32)))
    (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 8) "x-status")
    (data (i32.const 100) "\80\00\00\00\03\00\00\00\83\00\00\00\02\00\00\00") ;; two parts at 128
    (data (i32.const 128) "abcd\0a")
    (data (i32.const 200) "\80\00\00\00\ff\ff\ff\ff")                         ;; a part that is too long
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 1000))
    (func $say (param $number i32)
        (i32.store8 (i32.const 32) (i32.add (i32.const 48) (i32.div_u (local.get $number) (i32.const 10))))
        (i32.store8 (i32.const 33) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
        (drop (call $set (i32.const 0) (i32.const 8) (i32.const 8) (i32.const 32) (i32.const 2))))
"#;

fn guest(call: &str) -> Vec<u8> {
    let body = on_request(&format!("(call $say {call})"));
    wat::parse_str(format!("{IMPORTS}{body})")).unwrap()
}

async fn said(call: &str) -> String {
    let mut spec = spec();
    spec.environment = vec![("KEY".into(), "value".into())];
    let request = Bed::with(&guest(call), spec).get().await.unwrap();
    request.headers()["x-status"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn r90_wasi_answers_as_specified() {
    for (call, expected) in [
        (
            "(call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 48))",
            "00",
        ),
        (
            "(call $fd_write (i32.const 2) (i32.const 100) (i32.const 0) (i32.const 48))",
            "00",
        ),
        (
            "(call $fd_write (i32.const 3) (i32.const 100) (i32.const 2) (i32.const 48))",
            "08",
        ),
        (
            "(call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 48))",
            "21",
        ),
        (
            "(call $fd_write (i32.const 1) (i32.const -4) (i32.const 2) (i32.const 48))",
            "21",
        ),
        (
            "(call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const -1))",
            "21",
        ),
        (
            "(call $fd_write (i32.const 1) (i32.const 100) (i32.const -1) (i32.const 48))",
            "28",
        ),
        (
            "(call $clock (i32.const 0) (i64.const 0) (i32.const 48))",
            "00",
        ),
        (
            "(call $clock (i32.const 1) (i64.const 0) (i32.const 48))",
            "00",
        ),
        (
            "(call $clock (i32.const 2) (i64.const 0) (i32.const 48))",
            "58",
        ),
        (
            "(call $clock (i32.const 0) (i64.const 0) (i32.const 65533))",
            "21",
        ),
        ("(call $random (i32.const 48) (i32.const 32))", "00"),
        ("(call $random (i32.const 65535) (i32.const 2))", "21"),
        ("(call $random (i32.const 0) (i32.const 70000))", "28"),
        ("(call $environ_sizes (i32.const 48) (i32.const -3))", "21"),
        ("(call $environ (i32.const 48) (i32.const 65530))", "21"),
        ("(call $args_sizes (i32.const 48) (i32.const 52))", "00"),
        ("(call $fd_close (i32.const 1))", "08"),
        ("(call $fdstat (i32.const 1) (i32.const 48))", "00"),
        ("(call $fdstat (i32.const 0) (i32.const 48))", "08"),
        (
            "(call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0))",
            "52",
        ),
        (
            "(call $poll (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))",
            "52",
        ),
        ("(call $yield)", "00"),
    ] {
        assert_eq!(said(call).await, expected, "{call}");
    }
}

#[tokio::test]
async fn r90_the_environment_is_the_specification_s_if_allowed() {
    let length = "(block (result i32) (drop (call $environ_sizes (i32.const 48) (i32.const 52))) (i32.load (i32.const 52)))";
    assert_eq!(said(length).await, "10"); // KEY=value and its end
    let mut spec = spec();
    spec.environment = vec![("KEY".into(), "value".into())];
    spec.capabilities.environment = false;
    let request = Bed::with(&guest(length), spec).get().await.unwrap();
    assert_eq!(request.headers()["x-status"], "00");
}

#[tokio::test]
async fn r91_a_guest_that_exits_loses_its_stream_only() {
    let bed = Bed::new(&guest(
        "(block (result i32) (call $exit (i32.const 3)) (i32.const 0))",
    ));
    let refused = bed.get().await.err().unwrap();
    assert_eq!(refused.response.unwrap().status(), 503);
    assert_eq!(bed.metric("exits_total"), 1);
    assert_eq!(bed.metric("recreations_total"), 1);
}
