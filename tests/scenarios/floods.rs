//! Clients that cost much: half-open requests and headers without end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::edge;
use e2e::stack::StackInfo;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Requests whose head never ends.
const HALF_OPEN: usize = 200;
/// How long anybody else may wait meanwhile.
const UNHINDERED: Duration = Duration::from_secs(1);
/// When the last half-open request must be gone: the gateway gives a head ten seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// ATTACKS: two hundred half-open requests slow nobody down, and do not stay.
pub(super) async fn attack_slow_loris_does_not_hinder_others(stack: Arc<StackInfo>) -> Result<()> {
    let mut half_open = Vec::new();
    for _ in 0..HALF_OPEN {
        let mut stream = edge::raw_tls(&stack, &stack.app_host()).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await?;
        half_open.push(stream);
    }
    let opened = Instant::now();
    for _ in 0..5 {
        let started = Instant::now();
        let status = edge::client(&stack)?
            .get(stack.app_url())
            .send()
            .await?
            .status();
        ensure!(status == StatusCode::OK, "meanwhile: {status}");
        ensure!(
            started.elapsed() < UNHINDERED,
            "meanwhile a request takes {:?}",
            started.elapsed()
        );
    }
    for mut stream in half_open {
        let left = PATIENCE.saturating_sub(opened.elapsed());
        let mut answer = Vec::new();
        // An answer, a close and a reset are all an end.
        let ended = tokio::time::timeout(left, stream.read_to_end(&mut answer)).await;
        ended.context("a half-open request stays open")?.ok();
        ensure!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "a half-open request was served: {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}

/// ATTACKS: a head beyond the limits is refused, in bytes and in number of fields, and the next
/// client is served.
pub(super) async fn attack_header_flood_is_refused(stack: Arc<StackInfo>) -> Result<()> {
    // A route that the gateway itself answers: no service behind it has a limit of its own.
    let host = stack.api_host();
    let many = "x-a: b\r\n".repeat(5_000);
    let long = format!("x-a: {}\r\n", "b".repeat(200_000));
    for (name, fields) in [("many fields", many), ("a long field", long)] {
        let request = format!("GET /v1/catalogue HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n");
        let answer = edge::raw_exchange(&stack, &host, request.as_bytes()).await;
        // The gateway may close while the flood is still being written.
        let answer = answer.unwrap_or_default();
        let status = answer.split(' ').nth(1).unwrap_or("closed");
        ensure!(
            matches!(status, "400" | "431" | "closed"),
            "{name}: {answer}"
        );
        let next = edge::client(&stack)?.get(stack.app_url()).send().await?;
        ensure!(
            next.status() == StatusCode::OK,
            "after {name}: {}",
            next.status()
        );
    }
    Ok(())
}
