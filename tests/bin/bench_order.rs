//! Places orders on a platform of its own and prints what each of them took, as one JSON object on
//! stdout: `{"rounds": [{"latencies_us": [...], "rate_per_s": ..., "shares_us": {"gateway": [...]}}]}`.
//! The one argument is the number of rounds.
//!
//! `cargo xtask bench order` runs it and makes the table. The shares come from the traces of the
//! orders: the time in which a component's own span was open and none of its children's was.

#![allow(
    clippy::indexing_slicing,
    reason = "serde_json answers null to an unknown key; it does not panic"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::composition::{self, NO_LIMITS};
use e2e::person::Person;
use e2e::stack::{Stack, StackInfo};
use reqwest::Method;
use serde_json::{Value, json};

/// Orders placed one after the other, for the latency.
const SEQUENTIAL: usize = 60;
/// People who order at the same time, for the rate, and for how long.
const PEOPLE: usize = 8;
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Spans are exported in batches: how long the last one may take to arrive.
const EXPORT: Duration = Duration::from_secs(8);

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
    let rounds = std::env::args().nth(1).unwrap_or_else(|| "5".to_owned());
    let rounds: u32 = rounds
        .parse()
        .context("the number of rounds is no number")?;
    let stack = Stack::start_as(Some(&composition::changed(&NO_LIMITS)?))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(measure(&stack.info, rounds));
    stack.stop()?;
    report
}

async fn measure(stack: &StackInfo, rounds: u32) -> Result<Value> {
    let alice = Person::signed_in(stack, "alice").await?;
    let order = best_stocked_order(&alice).await?;
    for _ in 0..5 {
        place(&alice, &order).await?;
    }
    let mut measured = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        measured.push(measure_round(stack, &alice, &order).await?);
    }
    Ok(json!({ "rounds": measured }))
}

async fn measure_round(stack: &StackInfo, alice: &Person, order: &Value) -> Result<Value> {
    let mut latencies = Vec::new();
    let mut traces = Vec::new();
    for _ in 0..SEQUENTIAL {
        let started = Instant::now();
        let placed = place(alice, order).await?;
        latencies.push(started.elapsed().as_micros());
        let trace = placed.get("trace_id").and_then(Value::as_str);
        traces.extend(trace.map(str::to_owned));
    }
    tokio::time::sleep(EXPORT).await;
    let mut shares: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for trace in &traces {
        let trace = alice
            .api_json(Method::GET, &format!("/api/traces/{trace}"), None)
            .await?;
        for (service, own_us) in own_time(&trace) {
            shares.entry(service).or_default().push(own_us);
        }
    }
    // Last, since its many traces would push the measured ones out of the store.
    let rate = rate(stack, order).await?;
    Ok(json!({ "latencies_us": latencies, "rate_per_s": rate, "shares_us": shares }))
}

/// One unit of the article with the largest stock.
async fn best_stocked_order(person: &Person) -> Result<Value> {
    let catalogue = person.api_json(Method::GET, "/api/catalogue", None).await?;
    let items = catalogue
        .as_array()
        .or_else(|| catalogue.get("items")?.as_array());
    let item = items
        .context("the catalogue is no list")?
        .iter()
        .max_by_key(|item| item["available"].as_u64())
        .context("the catalogue is empty")?;
    Ok(json!({ "lines": [{ "sku": item["sku"], "quantity": 1 }] }))
}

/// Places one order, which must succeed.
async fn place(person: &Person, order: &Value) -> Result<Value> {
    let answer = person.api(Method::POST, "/api/orders", Some(order)).await?;
    let status = answer.status();
    let body = answer.text().await?;
    ensure!(
        status.is_success(),
        "an order was answered {status}: {body}"
    );
    Ok(serde_json::from_str(&body)?)
}

async fn rate(stack: &StackInfo, order: &Value) -> Result<f64> {
    let mut people = Vec::new();
    for index in 0..PEOPLE {
        let user = if index % 2 == 0 { "alice" } else { "bob" };
        people.push(Person::signed_in(stack, user).await?);
    }
    let started = Instant::now();
    let ordering = people.iter().map(|person| async move {
        let mut placed = 0_u32;
        while started.elapsed() < RATE_WINDOW {
            place(person, order).await?;
            placed += 1;
        }
        Ok::<u32, anyhow::Error>(placed)
    });
    let counts = futures_util::future::try_join_all(ordering).await?;
    Ok(f64::from(counts.iter().sum::<u32>()) / started.elapsed().as_secs_f64())
}

/// For each service the time of its spans less that of their children.
fn own_time(trace: &Value) -> BTreeMap<String, u64> {
    let spans = trace["spans"].as_array().cloned().unwrap_or_default();
    let mut children: BTreeMap<String, u64> = BTreeMap::new();
    for span in &spans {
        if let Some(parent) = span["parent"].as_str() {
            *children.entry(parent.to_owned()).or_default() +=
                span["duration_us"].as_u64().unwrap_or(0);
        }
    }
    let mut own = BTreeMap::new();
    for span in &spans {
        let (Some(id), Some(service)) = (span["id"].as_str(), span["service"].as_str()) else {
            continue;
        };
        let whole = span["duration_us"].as_u64().unwrap_or(0);
        let inside = children.get(id).copied().unwrap_or(0);
        *own.entry(service.to_owned()).or_default() += whole.saturating_sub(inside);
    }
    own
}
