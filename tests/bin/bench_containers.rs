//! Starts the container stack as often as it is told and prints what a person waits for, and what the
//! stack takes when it rests, as one JSON object on stdout:
//! `{"rounds": [{"healthy_s": …, "signed_in_s": …, "ordered_s": …, "idle_mib": {"orders": …}, "stopped_s": …}]}`.
//!
//! `cargo xtask bench containers` runs it and makes the table.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::person::Person;
use e2e::stack::{Kind, Stack, engine};
use serde_json::{Value, json};

/// Everything that `docker compose up` starts without a profile.
const PLATFORM: &[&str] = &[
    "authz-server",
    "egress",
    "gateway",
    "inventory",
    "notifications",
    "orders",
    "payments",
    "postgres",
    "spa-proxy",
    "tokenizer",
];
/// Time after the order until the stack is taken to rest.
const REST: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    ringwall_tls::install_crypto_provider();
    match run() {
        Ok(report) => {
            // The one line that the caller reads.
            let _ =
                std::io::Write::write_all(&mut std::io::stdout(), format!("{report}\n").as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Value> {
    let rounds = std::env::args().nth(1).unwrap_or_else(|| "3".to_owned());
    let rounds: u32 = rounds
        .parse()
        .context("the number of rounds is no number")?;
    let rounds = (0..rounds).map(|_| round()).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "rounds": rounds }))
}

fn round() -> Result<Value> {
    let started = Instant::now();
    let stack = Stack::start(Kind::Containers, PLATFORM)?;
    let healthy = started.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (signed_in, ordered) = runtime.block_on(async {
        let alice = Person::signed_in(&stack.info, "alice").await?;
        let signed_in = started.elapsed();
        alice.place_order().await?;
        anyhow::Ok((signed_in, started.elapsed()))
    })?;
    std::thread::sleep(REST);
    let idle = memory(&stack.info.containers()?.project)?;
    let stopping = Instant::now();
    stack.stop()?;
    Ok(json!({
        "healthy_s": healthy.as_secs_f64(),
        "signed_in_s": signed_in.as_secs_f64(),
        "ordered_s": ordered.as_secs_f64(),
        "idle_mib": idle,
        "stopped_s": stopping.elapsed().as_secs_f64(),
    }))
}

/// What the engine counts for each container, page cache that can be given back left out.
fn memory(project: &str) -> Result<BTreeMap<String, f64>> {
    let filter = format!("label=com.docker.compose.project={project}");
    let ids = engine::lines(&["ps", "--quiet", "--filter", &filter])?;
    let mut words = vec![
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.MemUsage}}",
    ];
    words.extend(ids.iter().map(String::as_str));
    let mut all = BTreeMap::new();
    for line in engine::lines(&words)? {
        let mut words = line.split_whitespace();
        let (name, size) = words.next().zip(words.next()).context("an unknown line")?;
        let name = name.trim_start_matches(project).trim_matches('-');
        all.insert(name.trim_end_matches("-1").to_owned(), mib(size)?);
    }
    Ok(all)
}

fn mib(text: &str) -> Result<f64> {
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic());
    let (number, unit) = text.split_at(unit.context("a size without a unit")?);
    let number: f64 = number.parse().context("a size without a number")?;
    match unit {
        "B" => Ok(number / 1024.0 / 1024.0),
        "KiB" => Ok(number / 1024.0),
        "MiB" => Ok(number),
        "GiB" => Ok(number * 1024.0),
        other => anyhow::bail!("an unknown unit: {other}"),
    }
}
