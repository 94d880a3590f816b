//! How long a change takes until 1,000 proxies have it (target: p99 ≤ 100 ms).
//!
//! Owns: the report. The proxies are simulated by the e2e package's `bench-propagation` on one core; the control plane, as
//! released, has the other one to itself.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::order::quantile;
use super::report::Report;
use crate::build::{Profile, packages};
use crate::config::Config;
use crate::process::{run, say};

/// The package of the control plane, and its binary.
const PLANE: &str = "ringwall-control-plane";
const PLANE_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const CASE: &str = "endpoint change";
const STANDING: &str = "connected";
const P99_BOUND_MS: f64 = 100.0;

#[derive(Deserialize)]
struct Measured {
    proxies: usize,
    receivers: usize,
    connected_ms: f64,
    memory_kib: f64,
    rounds: Vec<Round>,
}

#[derive(Deserialize)]
struct Round {
    all_us: Vec<f64>,
    each_us: [f64; 2],
    cpu_us: f64,
}

/// Builds, connects, changes, reports.
pub(super) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    say("building the control plane (release)");
    run(&mut packages(config, Profile::Release, [PLANE].into_iter()))?;
    // Apart from it: together, cargo would build the control plane with the features of the clients.
    run(&mut packages(config, Profile::Release, ["e2e"].into_iter()))?;
    let release = config.outputs.join("release");
    let output = Command::new("taskset")
        .args(["-c", LOAD_CORE])
        .arg(release.join("bench-propagation"))
        .arg(release.join(PLANE))
        .args([PLANE_CORE, &rounds.to_string()])
        .current_dir(&config.root)
        .stderr(Stdio::inherit())
        .output()
        .context("starting bench-propagation")?;
    if !output.status.success() {
        bail!("bench-propagation ended with {}", output.status);
    }
    let measured: Measured =
        serde_json::from_slice(&output.stdout).context("bench-propagation printed no report")?;
    Ok(report(&measured, rounds))
}

fn report(measured: &Measured, rounds: u32) -> Report {
    let mut report = Report::new("propagation", rounds);
    let subject = format!("{} proxies", measured.proxies);
    let over_rounds = |figure: &dyn Fn(&Round) -> f64| -> Vec<f64> {
        measured.rounds.iter().map(figure).collect()
    };
    let all = |part: f64| over_rounds(&|round| quantile(&round.all_us, part) / 1e3);
    report.add(&subject, CASE, "all have it p50", "ms", &all(0.5));
    report.add(&subject, CASE, "all have it p99", "ms", &all(0.99));
    let each = over_rounds(&|round| round.each_us[0] / 1e3);
    report.add(&subject, CASE, "one has it p50", "ms", &each);
    let each = over_rounds(&|round| round.each_us[1] / 1e3);
    report.add(&subject, CASE, "one has it p99", "ms", &each);
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let receivers = measured.receivers.max(1) as f64;
    let cpu = over_rounds(&|round| round.cpu_us / receivers);
    report.add("control plane", CASE, "cpu for one proxy", "µs", &cpu);
    let connected = [measured.connected_ms];
    report.add(
        &subject,
        STANDING,
        "until all are registered",
        "ms",
        &connected,
    );
    let memory = [measured.memory_kib / 1024.0];
    report.add("control plane", STANDING, "memory", "MiB", &memory);
    if let Some(p99) = report.median(&subject, CASE, "all have it p99") {
        report.at_most("p99 until all proxies have a change, ms", p99, P99_BOUND_MS);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_about_the_last_proxy_of_each_change() {
        let round = |slow: f64| Round {
            all_us: (0..100).map(|n| if n < 98 { 20e3 } else { slow }).collect(),
            each_us: [10e3, 19e3],
            cpu_us: 30e3,
        };
        let measured = |slow: f64| Measured {
            proxies: 1000,
            receivers: 1000,
            connected_ms: 900.0,
            memory_kib: 20480.0,
            rounds: vec![round(slow)],
        };
        let good = report(&measured(99e3), 1);
        assert!(good.targets_met());
        assert_eq!(
            good.median("1000 proxies", CASE, "all have it p50"),
            Some(20.0)
        );
        assert_eq!(
            good.median("control plane", CASE, "cpu for one proxy"),
            Some(30.0)
        );
        assert_eq!(good.median("control plane", STANDING, "memory"), Some(20.0));
        assert!(!report(&measured(101e3), 1).targets_met());
    }
}
