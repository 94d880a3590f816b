//! What neighbours of a hostile plugin notice.
//!
//! Owns: requests at a fixed rate, on a schedule: an answer that comes late is late for all that was to be sent meanwhile,
//! so its time counts from when it should have been sent. Beside them somebody asks for every harm in turn.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const THREADS: u32 = 4;
/// Of each thread.
const EVERY: Duration = Duration::from_millis(2);
const LENGTH: Duration = Duration::from_secs(10);
/// The harms of `plugins/hostile`.
const HARMS: [&str; 7] = [
    "loop", "trap", "hoard", "recurse", "flood", "swell", "storm",
];
const HARM_EVERY: Duration = Duration::from_millis(50);
/// What a failed plugin may cost at once is used up in this time.
const UNTIL_STEADY: Duration = Duration::from_secs(3);

/// 99th percentiles.
pub(super) struct Seen {
    /// Before and afterwards.
    pub(super) in_peace_us: [f64; 2],
    pub(super) beside_hostile_us: f64,
}

/// The same load three times.
pub(super) fn measure(port: u16) -> Result<Seen> {
    let before = p99_us(port)?;
    let done = AtomicBool::new(false);
    let beside_hostile_us = thread::scope(|scope| {
        let harm = scope.spawn(|| do_harm(port, &done));
        thread::sleep(UNTIL_STEADY);
        let seen = p99_us(port);
        done.store(true, Ordering::Relaxed);
        let harm = harm.join().ok().context("the harm panicked")?;
        harm.and(seen)
    })?;
    let in_peace_us = [before, p99_us(port)?];
    Ok(Seen {
        in_peace_us,
        beside_hostile_us,
    })
}

fn p99_us(port: u16) -> Result<f64> {
    let begun = Instant::now();
    let mut times = thread::scope(|scope| -> Result<Vec<Duration>> {
        let customers: Vec<_> = (0..THREADS)
            .map(|one| scope.spawn(move || on_schedule(port, begun + EVERY * one / THREADS)))
            .collect();
        let mut all = Vec::new();
        for customer in customers {
            all.extend(customer.join().ok().context("a customer panicked")??);
        }
        Ok(all)
    })?;
    times.sort_unstable();
    let place = times.len() * 99 / 100;
    let p99 = times.get(place).context("nothing was measured")?;
    Ok(p99.as_secs_f64() * 1e6)
}

/// Each request's time from when it was to be sent.
fn on_schedule(port: u16, begun: Instant) -> Result<Vec<Duration>> {
    let mut stream = connect(port)?;
    let mut times = Vec::new();
    let mut due = begun;
    while due < begun + LENGTH {
        if let Some(rest) = due.checked_duration_since(Instant::now()) {
            thread::sleep(rest);
        }
        let status = exchange(&mut stream, "/v1/orders")?;
        ensure!(status == 200, "a neighbour was answered with {status}");
        times.push(due.elapsed());
        due += EVERY;
    }
    Ok(times)
}

/// Every harm in turn; that none of them gets through is looked at as well.
fn do_harm(port: u16, done: &AtomicBool) -> Result<()> {
    let mut stream = connect(port)?;
    for harm in HARMS.iter().cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let status = exchange(&mut stream, &format!("/v1/hostile/{harm}"))?;
        ensure!(status == 503, "{harm} was answered with {status}");
        thread::sleep(HARM_EVERY);
    }
    Ok(())
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).context("setting a limit")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    Ok(stream)
}

/// One request and its answer's status; the connection is used again.
fn exchange(stream: &mut TcpStream, path: &str) -> Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).context("sending")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = stream.read(&mut chunk).context("waiting for an answer")?;
        ensure!(length > 0, "the connection was closed");
        answer.extend(chunk.iter().take(length));
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        if body.len() >= content_length(head)? {
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
            return status.with_context(|| format!("no status: {head}"));
        }
    }
}

fn content_length(head: &str) -> Result<usize> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, value)| value.parse().ok());
    length.with_context(|| format!("an answer without a length: {head}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_is_read() {
        let head = "HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 32";
        assert_eq!(content_length(head).unwrap(), 32);
        assert!(content_length("HTTP/1.1 200 OK").is_err());
    }
}
