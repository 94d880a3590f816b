//! How many packets of denied sources the edge shield drops in a second of CPU time (target: ≥ 5× an nftables set of the same
//! size, on a veth).
//!
//! Owns: the report. The measurement itself speaks to the kernel: it is a benchmark of `ringwall-ebpf-loader`, run as root.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::report::Report;
use crate::config::Config;
use crate::ebpf;
use crate::process::say;

const PACKAGE: &str = "ringwall-ebpf-loader";
/// The traffic that the target is about: what a network card's driver hands over. A socket's frames are a packet of the
/// kernel's already when they come to the veth, so that XDP has less to save.
const TRAFFIC: &str = "frames as from a card";
const SHIELD: &str = "shield, driver";
/// The first two can hold single addresses alone; the third networks too, as the shield can.
const SETS: [&str; 3] = [
    "nftables, hash set, prerouting",
    "nftables, hash set, ingress",
    "nftables, interval set, prerouting",
];
const METRIC: &str = "drops";
const UNIT: &str = "1/CPU s";
/// The target, as what the fastest set may reach of the shield: 5 times less.
const BOUND: f64 = 1.0 / 5.0;

#[derive(Deserialize)]
struct Measured {
    entries: u32,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    traffic: String,
    subject: String,
    rate: f64,
}

/// Builds the programs and the benchmark, runs it, reports.
pub(super) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    let object = ebpf::build(config)?;
    say("building and running the benchmark of the loader");
    let output = Command::new(&config.cargo)
        .args(["bench", "--quiet", "-p", PACKAGE, "--bench", "shield", "--"])
        .arg(object)
        .arg(rounds.to_string())
        .current_dir(&config.root)
        .stderr(Stdio::inherit())
        .output()
        .context("starting the benchmark of the shield")?;
    if !output.status.success() {
        bail!(
            "the benchmark of the shield ended with {}; it needs root, and its messages say what was missing",
            output.status
        );
    }
    let measured: Measured = serde_json::from_slice(&output.stdout)
        .context("the benchmark of the shield printed no report")?;
    Ok(report(&measured, rounds))
}

fn report(measured: &Measured, rounds: u32) -> Report {
    let mut report = Report::new("shield", rounds);
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for row in &measured.rows {
        let pair = (row.traffic.as_str(), row.subject.as_str());
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    for (traffic, subject) in pairs {
        let of_pair = |row: &&Row| row.traffic == traffic && row.subject == subject;
        let rates: Vec<f64> = measured
            .rows
            .iter()
            .filter(of_pair)
            .map(|row| row.rate)
            .collect();
        report.add(subject, traffic, METRIC, UNIT, &rates);
    }
    let shield = report.median(SHIELD, TRAFFIC, METRIC);
    for set in SETS {
        if let (Some(shield), Some(other)) = (shield, report.median(set, TRAFFIC, METRIC)) {
            let name = format!(
                "{set}, of {} entries: drops per CPU second, as a part of the shield's",
                measured.entries
            );
            report.at_most(&name, other / shield, BOUND);
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_held_against_the_shield() {
        let row = |subject: &str, rate: f64| Row {
            traffic: TRAFFIC.to_owned(),
            subject: subject.to_owned(),
            rate,
        };
        let [prerouting, ingress, interval] = SETS;
        let measured = Measured {
            entries: 100_000,
            rows: vec![
                row(SHIELD, 6e6),
                row(prerouting, 1.1e6),
                row(ingress, 1.3e6),
                row(interval, 0.5e6),
                row(SHIELD, 6e6),
                row(prerouting, 1.1e6),
                row(ingress, 1.3e6),
                row(interval, 0.5e6),
            ],
        };
        let report = report(&measured, 2);
        assert_eq!(report.cases.len(), 4);
        let met: Vec<bool> = report.targets.iter().map(|target| target.met).collect();
        assert_eq!(met, [true, false, true]);
    }
}
