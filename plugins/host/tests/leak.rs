//! What is left of a hundred thousand requests: nothing. Alone in its process, whose memory it looks at.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail where anything does"
)]

#[allow(dead_code, reason = "the other tests use more of it")]
#[path = "host/support.rs"]
mod support;

use http_body_util::BodyExt as _;

use support::*;

const REQUESTS: u32 = 100_000;
/// Until here, caches fill and buffers grow.
const WARM: u32 = 20_000;
/// Each so manyth request loses its instance, another waits for a call that nobody answers, a third is dropped half way.
const EVERY: u32 = 2000;
/// 50 bytes for each request.
const MOST_KIB: u64 = 4096;

/// Changes headers and bodies, and traps, calls or pauses as the path says.
fn filter() -> Vec<u8> {
    guest(
        r#"(data (i32.const 100) ":path") (data (i32.const 110) "x-added") (data (i32.const 120) "value")
        (func $letter (result i32)
            (drop (call $get_header (i32.const 0) (i32.const 100) (i32.const 5) (global.get $p) (global.get $n)))
            (i32.load8_u (i32.add (i32.load (global.get $p)) (i32.const 1))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (local $letter i32)
            (local.set $letter (call $letter))
            (if (i32.eq (local.get $letter) (i32.const 116)) (then (unreachable)))
            (if (i32.eq (local.get $letter) (i32.const 119)) (then (return (i32.const 1))))
            (drop (call $set_header (i32.const 0) (i32.const 110) (i32.const 7) (i32.const 120) (i32.const 5)))
            (i32.const 0))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
            (drop (call $set_buffer (i32.const 1) (i32.const 0) (i32.const 1000) (i32.const 120) (i32.const 5)))
            (i32.const 0))
        (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))"#,
    )
}

/// Resident memory (`VmRSS` of proc(5)).
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.trim().parse().unwrap()
}

/// One exchange; whether it was served.
async fn exchange(bed: &Bed, number: u32) -> bool {
    let path = match number % EVERY {
        1 => "/trap",
        2 => "/wait",
        _ => "/path",
    };
    let mut sent = request("a request's body");
    *sent.uri_mut() = path.parse().unwrap();
    let stream = bed.open();
    if path == "/wait" {
        // Its client goes away while it is paused.
        let waiting = std::pin::pin!(stream.request(sent));
        let now = std::time::Duration::ZERO;
        return tokio::time::timeout(now, waiting).await.is_ok();
    }
    let Ok(passed) = stream.request(sent).await else {
        return false;
    };
    if number % EVERY == 3 {
        return true; // dropped before its answer
    }
    passed.into_body().collect().await.unwrap();
    let answer = stream.response(response("an answer's body")).await;
    text(answer.unwrap().into_body()).await == "value"
}

#[tokio::test]
async fn r91_a_hundred_thousand_requests_leave_nothing_behind() {
    let bed = Bed::new(&filter());
    let mut served = 0_u32;
    let mut warm = 0;
    for number in 0..REQUESTS {
        if number == WARM {
            warm = resident_kib();
        }
        served += u32::from(exchange(&bed, number).await);
    }
    let grown = resident_kib().saturating_sub(warm);
    assert!(grown <= MOST_KIB, "{grown} KiB more than after {WARM}");
    assert!(served > REQUESTS / 2, "{served}");
    assert!(bed.metric("traps_total") > 0);
    assert_eq!(bed.metric("streams_total"), u64::from(REQUESTS));
    assert_eq!(bed.metric("instances"), 1);
    assert_eq!(bed.metric("memory_bytes"), 131_072);
}
