//! What interception costs: a connection through capture beside one through an nftables REDIRECT, and enforcement on streams,
//! and what acceleration gains.
//!
//! Owns: the report and the targets. `ebpf/loader/benches/cost` measures: subjects take turns in network namespaces of their
//! own, client and server on a core each.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::report::Report;
use crate::config::Config;
use crate::ebpf;
use crate::process::say;

const PLAIN: &str = "plain";
const REDIRECT: &str = "redirect";
const CAPTURE: &str = "capture";
const FULL: &str = "full";
const ACCELERATED: &str = "accelerated";

const CONNECT: &str = "connect";
const EXCHANGE: &str = "64 bytes there and back";
const BULK: &str = "bulk stream";

/// Added to a connect, as a part of what a REDIRECT adds.
const CONNECT_BOUND: f64 = 0.6;
/// Part of a bulk stream's throughput.
const BULK_BOUND: f64 = 0.03;
const EXCHANGE_BOUND_US: f64 = 2.0;
/// Part of the time that is left of a message there and back; where a machine gains less, the agent's trial keeps it off.
const ACCELERATED_BOUND: f64 = 1.0 / 1.5;

/// Subject → figure → one sample a round.
type Samples = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

/// Builds the programs, measures, reports.
pub(super) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    let object = ebpf::build(config)?;
    say("building and running the measurement (release)");
    let output = Command::new(&config.cargo)
        .args(["bench", "--locked", "--package", "ringwall-ebpf-loader"])
        .args(["--bench", "cost", "--"])
        .arg(object)
        .arg(rounds.to_string())
        .env("CARGO_TARGET_DIR", &config.target)
        .current_dir(&config.root)
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo bench")?;
    if !output.status.success() {
        bail!("the measurement ended with {}", output.status);
    }
    let samples: Samples =
        serde_json::from_slice(&output.stdout).context("the measurement printed no report")?;
    report(&samples, rounds)
}

fn report(samples: &Samples, rounds: u32) -> Result<Report> {
    let mut report = Report::new("ebpf", rounds);
    for subject in [PLAIN, REDIRECT, CAPTURE, FULL, ACCELERATED] {
        let scaled = |figure: &str, by: f64| -> Result<Vec<f64>> {
            let of_subject = samples.get(subject);
            let list = of_subject.and_then(|figures| figures.get(figure));
            let list = list.with_context(|| format!("no {figure} of {subject}"))?;
            Ok(list.iter().map(|sample| sample * by).collect())
        };
        report.add(subject, CONNECT, "time", "µs", &scaled("connect_ns", 1e-3)?);
        let exchange = scaled("exchange_p50_ns", 1e-3)?;
        report.add(subject, EXCHANGE, "p50", "µs", &exchange);
        let bulk = scaled("bulk_bytes_per_s", 1e-9)?;
        report.add(subject, BULK, "throughput", "GB/s", &bulk);
    }
    let median = |subject: &str, case: &str, metric: &str| {
        report.median(subject, case, metric).unwrap_or(f64::NAN)
    };
    let added = |subject: &str| median(subject, CONNECT, "time") - median(PLAIN, CONNECT, "time");
    let exchange = median(FULL, EXCHANGE, "p50") - median(PLAIN, EXCHANGE, "p50");
    let bulk = 1.0 - median(FULL, BULK, "throughput") / median(PLAIN, BULK, "throughput");
    let accelerated = median(ACCELERATED, EXCHANGE, "p50") / median(FULL, EXCHANGE, "p50");
    let capture = added(CAPTURE) / added(REDIRECT);
    let full = added(FULL) / added(REDIRECT);
    report.at_most(
        "added to a connect by capture, of REDIRECT's",
        capture,
        CONNECT_BOUND,
    );
    report.at_most(
        "the same with enforcement, of REDIRECT's",
        full,
        CONNECT_BOUND,
    );
    report.at_most(
        "added to a message there and back, µs",
        exchange,
        EXCHANGE_BOUND_US,
    );
    report.at_most(
        "left of a message there and back by acceleration, part",
        accelerated,
        ACCELERATED_BOUND,
    );
    report.at_most("taken from a bulk stream, part", bulk, BULK_BOUND);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(full: [f64; 3]) -> Samples {
        let of = |[connect, exchange, bulk]: [f64; 3]| -> BTreeMap<String, Vec<f64>> {
            [
                ("connect_ns", connect),
                ("exchange_p50_ns", exchange),
                ("bulk_bytes_per_s", bulk),
            ]
            .map(|(name, sample)| (name.to_owned(), vec![sample]))
            .into()
        };
        let subjects = [
            (PLAIN, [20e3, 12e3, 5e9]),
            (REDIRECT, [25e3, 13e3, 4.8e9]),
            (CAPTURE, [21e3, 12e3, 5e9]),
            (FULL, full),
            (ACCELERATED, [full[0], full[1] * 0.6, full[2]]),
        ];
        subjects
            .map(|(name, figures)| (name.to_owned(), of(figures)))
            .into()
    }

    #[test]
    fn targets_are_about_what_is_added() {
        assert!(
            report(&samples([23e3, 14e3, 4.85e9]), 1)
                .unwrap()
                .targets_met()
        );
        for missed in [
            [23.1e3, 12e3, 5e9],
            [21e3, 14.1e3, 5e9],
            [21e3, 12e3, 4.84e9],
        ] {
            assert!(
                !report(&samples(missed), 1).unwrap().targets_met(),
                "{missed:?}"
            );
        }
        assert!(report(&Samples::new(), 1).is_err());
    }
}
