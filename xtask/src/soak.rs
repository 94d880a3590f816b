//! `cargo xtask soak`: R33 as it is written: certificates of a minute, ten minutes of load, no error.
//!
//! Owns: building, and the table for people. The load is the e2e package's `soak`, on a native platform of its own; CI
//! plays a short one as `r24_certificates_rotate_under_load_without_an_error`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::build::{self, Profile};
use crate::commands::Purpose;
use crate::config::Config;
use crate::process::{print, run, say};
use crate::{setup, wasm};

/// How long, with how many.
#[derive(Args)]
pub(crate) struct SoakArgs {
    /// Length of the load, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(60..))]
    length: u32,
    /// Life of the certificates of workloads, in seconds (the public one lives for 60 at least)
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(20..=3600))]
    life: u32,
    /// Customers who order at the same time
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    customers: u32,
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// The part of the load's report that the table shows.
#[derive(Deserialize)]
struct Report {
    workload_life_s: u64,
    edge_life_s: u64,
    took_s: f64,
    customers: usize,
    requests: u64,
    orders: u64,
    errors: u64,
    failures: Vec<Failure>,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    stream: Stream,
    database_answers: u64,
    rotations: BTreeMap<String, usize>,
    memory: BTreeMap<String, Memory>,
}

#[derive(Deserialize)]
struct Failure {
    at_s: f64,
    what: String,
}

#[derive(Deserialize)]
struct Stream {
    events: u64,
    ended: u64,
    cut: u64,
}

#[derive(Deserialize)]
struct Memory {
    warm_kib: i64,
    end_kib: i64,
    growth_kib: i64,
}

/// Builds, runs, prints; exit code 1 when there was any error.
pub(crate) fn command(config: &Config, args: &SoakArgs) -> Result<ExitCode> {
    setup::run(config, Purpose::Test)?;
    say("building the platform and the load");
    wasm::build(config)?;
    run(&mut build::workspace(config))?;
    let program = build::outputs(config, Profile::Dev).join("soak");
    let output = Command::new(&program)
        .args([args.life, args.length, args.customers].map(|number| number.to_string()))
        .current_dir(&config.root)
        .stderr(Stdio::inherit())
        .output()
        .context("starting the load")?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let Ok(report) = serde_json::from_str::<Report>(&text) else {
        bail!("the load ended with {} and no report", output.status);
    };
    match args.output {
        Output::Table => print(table(&report).trim_end())?,
        Output::Json => print(&text)?,
    }
    let well = output.status.success() && report.errors == 0;
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "certificates of {} s (public {} s), {:.0} s of load, {} customers\n\
         requests   {:>8}\norders     {:>8}\nerrors     {:>8}\n\
         latency    p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms\n\
         stream     {} events, ended {} times in order and {} times with a certificate\n\
         database   {} answers over one connection\n",
        report.workload_life_s,
        report.edge_life_s,
        report.took_s,
        report.customers,
        report.requests,
        report.orders,
        report.errors,
        report.p50_ms,
        report.p99_ms,
        report.max_ms,
        report.stream.events,
        report.stream.ended,
        report.stream.cut,
        report.database_answers,
    );
    for failure in &report.failures {
        let _ = writeln!(text, "  after {:.1} s: {}", failure.at_s, failure.what);
    }
    let _ = writeln!(
        text,
        "\n{:<22} {:>9} {:>10} {:>10} {:>10}",
        "", "rotations", "warm KiB", "end KiB", "growth"
    );
    let mut names: Vec<&String> = report.rotations.keys().collect();
    names.extend(report.memory.keys());
    names.sort();
    names.dedup();
    for name in names {
        let times = report.rotations.get(name);
        let times = times.map_or_else(|| "-".to_owned(), usize::to_string);
        let memory = report.memory.get(name).map(|memory| {
            [memory.warm_kib, memory.end_kib, memory.growth_kib].map(|kib| kib.to_string())
        });
        let [warm, end, growth] = memory.unwrap_or_else(|| ["-"; 3].map(str::to_owned));
        let _ = writeln!(
            text,
            "{name:<22} {times:>9} {warm:>10} {end:>10} {growth:>10}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_workload_and_every_error() {
        let report: Report = serde_json::from_str(
            r#"{ "workload_life_s": 60, "edge_life_s": 60, "took_s": 600.4, "customers": 8, "requests": 12000,
                "orders": 9000, "errors": 1, "failures": [{ "at_s": 31.26, "what": "an order: 503" }], "p50_ms": 21.5,
                "p99_ms": 80.04, "max_ms": 120.0, "stream": { "events": 4500, "ended": 2, "cut": 9 },
                "database_answers": 598, "rotations": { "orders": 19, "public hosts": 19 },
                "memory": { "orders": { "warm_kib": 20000, "end_kib": 20512, "growth_kib": 512 } } }"#,
        )
        .unwrap();
        let table = table(&report);
        for line in [
            "errors            1",
            "  after 31.3 s: an order: 503",
            "latency    p50 21.5 ms, p99 80.0 ms, longest 120.0 ms",
            "orders                        19      20000      20512        512",
            "public hosts                  19          -          -          -",
        ] {
            assert!(table.lines().any(|known| known == line), "{line}: {table}");
        }
    }
}
