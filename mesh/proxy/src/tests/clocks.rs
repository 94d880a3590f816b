//! Clocks that differ. Only differences count: a peer whose certificate was issued under a clock that is ahead is, to the
//! proxy, what it would be if the proxy's own clock were behind everybody else's.

use std::time::Duration;

use time::OffsetDateTime;

use super::peers::{exchange, is_let_in, tls};
use super::world::{HOUR, HTTP, World};

/// How far this proxy's clock is behind everybody else's, in seconds.
fn behind(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::seconds(seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_a_proxy_whose_clock_is_five_minutes_off_lets_in_whom_others_let_in() {
    let world = World::start().await;
    for seconds in [290, -300] {
        let gateway = world.source_issued("gateway", HOUR, behind(seconds));
        assert!(is_let_in(&gateway, world.at(HTTP)).await, "{seconds} s");
        // It is not ended by the next looks at live connections, either.
        let open = tls(&gateway, world.at(HTTP)).await.expect("TLS");
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let answer = exchange(open, b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        assert_eq!(answer.status, 200, "{seconds} s");
    }
    assert_eq!(world.failures(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_a_clock_that_is_further_behind_is_named_as_the_reason() {
    let world = World::start().await;
    let gateway = world.source_issued("gateway", HOUR, behind(400));
    assert!(!is_let_in(&gateway, world.at(HTTP)).await);
    let line = world.line(|line| line["refusal"] == "handshake").await;
    let reason = line["reason"].as_str().expect("reason");
    assert!(reason.contains("not valid yet"), "{reason}");
    assert_eq!(world.failures(), 1);
}
