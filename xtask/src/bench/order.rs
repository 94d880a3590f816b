//! What a placed order takes: latency, rate, and the share of each component.
//!
//! Owns: the report. The orders are placed by the e2e package's `bench-order` on a platform of its
//! own, in release mode and with every span exported, since the shares come from the traces.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::report::Report;
use crate::build::{Profile, deployables, packages};
use crate::config::Config;
use crate::process::{run, say};
use crate::wasm;

const PLATFORM: &str = "platform";
const ONE_CUSTOMER: &str = "one customer";
const EIGHT_CUSTOMERS: &str = "eight customers";
/// The order of a person who waits for it: what they notice as a pause.
const P99_BOUND_MS: f64 = 250.0;

#[derive(Deserialize)]
struct Measured {
    rounds: Vec<Round>,
}

#[derive(Deserialize)]
struct Round {
    latencies_us: Vec<f64>,
    rate_per_s: f64,
    shares_us: BTreeMap<String, Vec<f64>>,
}

/// Builds, places orders, reports.
pub(crate) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    say("building the platform (release)");
    wasm::build(config)?;
    run(&mut deployables(config, Profile::Release)?)?;
    // Apart from them: together, cargo would build the platform with the features of the clients.
    run(&mut packages(config, Profile::Release, ["e2e"].into_iter()))?;
    let output = Command::new(config.outputs.join("release/bench-order"))
        .arg(rounds.to_string())
        .current_dir(&config.root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("starting bench-order")?;
    if !output.status.success() {
        bail!("bench-order ended with {}", output.status);
    }
    let measured: Measured =
        serde_json::from_slice(&output.stdout).context("bench-order printed no report")?;
    Ok(report(&measured, rounds))
}

fn report(measured: &Measured, rounds: u32) -> Report {
    let mut report = Report::new("order", rounds);
    let over_rounds = |figure: &dyn Fn(&Round) -> f64| -> Vec<f64> {
        measured.rounds.iter().map(figure).collect()
    };
    let median = over_rounds(&|round| quantile(&round.latencies_us, 0.5) / 1e3);
    let p99 = over_rounds(&|round| quantile(&round.latencies_us, 0.99) / 1e3);
    report.add(PLATFORM, ONE_CUSTOMER, "latency p50", "ms", &median);
    report.add(PLATFORM, ONE_CUSTOMER, "latency p99", "ms", &p99);
    let rate = over_rounds(&|round| round.rate_per_s);
    report.add(PLATFORM, EIGHT_CUSTOMERS, "orders", "1/s", &rate);
    let mut services: Vec<&String> = measured
        .rounds
        .iter()
        .flat_map(|round| round.shares_us.keys())
        .collect();
    services.sort();
    services.dedup();
    for service in services {
        let own = over_rounds(&|round| {
            round
                .shares_us
                .get(service)
                .map_or(0.0, |own| quantile(own, 0.5) / 1e3)
        });
        report.add(service, ONE_CUSTOMER, "own time p50", "ms", &own);
    }
    if let Some(p99) = report.median(PLATFORM, ONE_CUSTOMER, "latency p99") {
        report.at_most("p99 of a placed order, ms", p99, P99_BOUND_MS);
    }
    report
}

/// The sample below which the given part of all samples lies; nothing of nothing is 0.
pub(super) fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list of some hundred samples"
    )]
    let index = (part * sorted.len() as f64) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_every_component_and_its_own_time() {
        let round = Round {
            latencies_us: (1..=100).map(|ms| f64::from(ms) * 1e3).collect(),
            rate_per_s: 90.0,
            shares_us: BTreeMap::from([("gateway".to_owned(), vec![500.0, 600.0, 700.0])]),
        };
        let report = report(
            &Measured {
                rounds: vec![round],
            },
            1,
        );
        assert_eq!(
            report.median(PLATFORM, ONE_CUSTOMER, "latency p50"),
            Some(51.0)
        );
        assert_eq!(
            report.median("gateway", ONE_CUSTOMER, "own time p50"),
            Some(0.6)
        );
        assert!(report.targets_met());
    }
}
