//! The loads: requests by wrk, connections by threads of our own, a bulk stream by iperf3. Each is bounded and ends by
//! itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bench::running::LOAD_CORE;
use crate::bench::wrk::{Load, Requests, Wrk};

/// Each request has a path of its own, so that no decision is remembered.
const EACH_ITS_PATH: &str = "local n = 0\nrequest = function()\n  n = n + 1\n  \
                             return wrk.format('GET', '/v1/orders/' .. n)\nend\n";

/// Requests over keep-alive connections; an answer that is not a success is a failed measurement.
pub(super) fn requests(wrk: &Wrk, port: u16, connections: u32, seconds: u32) -> Result<Requests> {
    measured(wrk, port, connections, seconds, None)
}

/// The same, each for another path; `folder` gets the script.
pub(super) fn requests_for_many(
    wrk: &Wrk,
    port: u16,
    connections: u32,
    seconds: u32,
    folder: &Path,
) -> Result<Requests> {
    let script = folder.join("paths.lua");
    fs::write(&script, EACH_ITS_PATH).context("writing a script")?;
    measured(wrk, port, connections, seconds, Some(&script))
}

fn measured(
    wrk: &Wrk,
    port: u16,
    connections: u32,
    seconds: u32,
    script: Option<&Path>,
) -> Result<Requests> {
    wrk.run(&Load {
        url: &format!("http://127.0.0.1:{port}/v1/orders"),
        headers: &["Host: back".to_owned()],
        connections,
        seconds,
        script,
    })
}

/// Opens `per_second` connections every second for `length`: on each one request and its answer. Gives how many were
/// made.
pub(super) fn storm(port: u16, per_second: u32, length: Duration) -> Result<u32> {
    let began = Instant::now();
    let pause = Duration::from_secs(1) / per_second;
    let mut made = 0;
    while began.elapsed() < length {
        let mut stream = connect(port)?;
        let answer = exchange(&mut stream, "close")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "port {port}: {answer}");
        made += 1;
        // Behind the plan, nothing is waited for: the rate is an average.
        if let Some(rest) = (pause * made).checked_sub(began.elapsed()) {
            thread::sleep(rest);
        }
    }
    Ok(made)
}

/// Opens connections that have each exchanged a request, and stay.
pub(super) fn idle(port: u16, count: u32) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let mut stream = connect(port)?;
            let answer = exchange(&mut stream, "keep-alive")?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "port {port}: {answer}");
            Ok(stream)
        })
        .collect()
}

/// Whether one request passes.
pub(super) fn answers(port: u16) -> bool {
    let answer = connect(port).and_then(|mut stream| exchange(&mut stream, "close"));
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .context("setting a time limit")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    Ok(stream)
}

/// One request; reads until the end of the small answer.
fn exchange(stream: &mut TcpStream, connection: &str) -> Result<String> {
    let request =
        format!("GET /v1/orders HTTP/1.1\r\nhost: back\r\nconnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).context("sending")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !answer.ends_with(super::ANSWER.as_bytes()) {
        let length = stream.read(&mut chunk).context("waiting for an answer")?;
        ensure!(length > 0, "closed: {}", String::from_utf8_lossy(&answer));
        answer.extend(chunk.iter().take(length));
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Gigabits per second of one TCP stream.
pub(super) fn bulk(iperf3: &Path, port: u16, seconds: u32) -> Result<f64> {
    let output = Command::new("taskset")
        .args(["-c", LOAD_CORE])
        .arg(iperf3)
        .args(["-c", "127.0.0.1", "-J", "-p", &port.to_string()])
        .args(["-t", &seconds.to_string()])
        .output()
        .context("starting iperf3")?;
    let report: Value =
        serde_json::from_slice(&output.stdout).context("iperf3 printed no report")?;
    let rate = report.pointer("/end/sum_received/bits_per_second");
    rate.and_then(Value::as_f64)
        .map(|rate| rate / 1e9)
        .with_context(|| format!("iperf3 through port {port}: {report}"))
}
