//! What a person waits for after `docker compose up` with images present, and what the stack takes when it rests.
//!
//! Owns: the report. The e2e package's `bench-containers` starts, orders and stops; the images are release builds.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::report::Report;
use crate::build::{self, Profile};
use crate::config::Config;
use crate::engine::Engine;
use crate::images::{self, Component};
use crate::process::{run, say};

const STACK: &str = "containers";
const FROM_IMAGES: &str = "from images";
const RESTING: &str = "resting";
const TAG: &str = "bench";
/// From `up` to a person who is signed in.
const SIGN_IN_BOUND_S: f64 = 60.0;
/// All containers together, without an overlay: 500 MB.
const IDLE_BOUND_MIB: f64 = 500e6 / 1024.0 / 1024.0;

#[derive(Deserialize)]
struct Measured {
    rounds: Vec<Round>,
}

#[derive(Deserialize)]
struct Round {
    healthy_s: f64,
    signed_in_s: f64,
    ordered_s: f64,
    stopped_s: f64,
    idle_mib: BTreeMap<String, f64>,
}

/// Makes the images, starts the stack again and again, reports.
pub(crate) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    say("building the client");
    run(&mut build::workspace(config))?;
    let engine = Engine::ensure(config)?;
    let measured = on(config, &engine, rounds);
    engine.end()?;
    Ok(report(&measured?, rounds))
}

fn on(config: &Config, engine: &Engine, rounds: u32) -> Result<Measured> {
    images::base::ensure(config, engine)?;
    images::make(config, engine, &Component::all(config)?, Profile::Dist, TAG)?;
    let output = Command::new(config.outputs.join("debug/bench-containers"))
        .arg(rounds.to_string())
        .current_dir(&config.root)
        .envs(engine.environment())
        .env("RINGWALL_TAG", TAG)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("starting bench-containers")?;
    if !output.status.success() {
        bail!("bench-containers ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("bench-containers printed no report")
}

fn report(measured: &Measured, rounds: u32) -> Report {
    let mut report = Report::new("containers", rounds);
    let over_rounds = |figure: &dyn Fn(&Round) -> f64| -> Vec<f64> {
        measured.rounds.iter().map(figure).collect()
    };
    let mut add = |case: &str, metric: &str, unit: &str, figure: &dyn Fn(&Round) -> f64| {
        report.add(STACK, case, metric, unit, &over_rounds(figure));
    };
    add(FROM_IMAGES, "all healthy", "s", &|round| round.healthy_s);
    add(FROM_IMAGES, "signed in", "s", &|round| round.signed_in_s);
    add(FROM_IMAGES, "order placed", "s", &|round| round.ordered_s);
    add(FROM_IMAGES, "stopped", "s", &|round| round.stopped_s);
    add(RESTING, "memory", "MiB", &|round| {
        round.idle_mib.values().sum()
    });
    let names = measured.rounds.first().map(|round| round.idle_mib.keys());
    for name in names.into_iter().flatten() {
        let own = over_rounds(&|round| round.idle_mib.get(name).copied().unwrap_or_default());
        report.add(name, RESTING, "memory", "MiB", &own);
    }
    let median = |report: &Report, case, metric| report.median(STACK, case, metric);
    if let Some(signed_in) = median(&report, FROM_IMAGES, "signed in") {
        report.at_most("seconds to the first sign-in", signed_in, SIGN_IN_BOUND_S);
    }
    if let Some(memory) = median(&report, RESTING, "memory") {
        report.at_most("MiB at rest", memory, IDLE_BOUND_MIB);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(signed_in: f64, each: f64) -> Measured {
        let text = format!(
            r#"{{"rounds":[{{"healthy_s":1,"signed_in_s":{signed_in},"ordered_s":3,"stopped_s":1,
                "idle_mib":{{"orders":{each},"gateway":{each}}}}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn both_bounds_are_judged() {
        assert!(report(&measured(20.0, 50.0), 1).targets_met());
        assert!(!report(&measured(61.0, 50.0), 1).targets_met());
        assert!(!report(&measured(20.0, 250.0), 1).targets_met());
    }
}
