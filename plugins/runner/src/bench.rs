//! What an exchange of each case costs, many times over, beside the same exchange without the plugin.
//!
//! Owns: the rounds. Cases of several steps are left out: they wait on purpose. Must not: judge; `suite.rs` does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_plugin_cases::{Case, Kind, Step, Suite};
use ringwall_plugin_host::{
    Chain, Error, Module, Plugin, Runtime, RuntimeOptions, Verification, Worker,
};
use serde::Serialize;

use crate::clusters::Clusters;
use crate::convert;
use crate::exchange;

/// Turns of both; the median of them counts.
const ROUNDS: u32 = 5;
/// Until buffers have their size.
const WARM: u32 = 50;

/// What one case costs, in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct CaseCost {
    pub name: String,
    /// Where it stands in `cases.yaml`.
    pub line: u64,
    /// Of an exchange through the plugin, in memory: request, upstream and answer.
    pub with_us: f64,
    /// Of the same exchange without it.
    pub without_us: f64,
}

/// Measures every case of one step; each is exchanged `repeat` times, with the plugin and without.
///
/// # Errors
/// Where the module cannot run in this host, or does not take a configuration that its case says it takes.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn bench(
    name: &str,
    suite: &Suite,
    module: &[u8],
    repeat: u32,
    mut done: impl FnMut(&CaseCost),
) -> Result<Vec<CaseCost>, Error> {
    let runtime = Runtime::new(RuntimeOptions::default())?;
    let module = Module::load(&runtime, module, &Verification::none())?;
    let mut costs = Vec::new();
    for (index, case) in suite.cases.iter().enumerate() {
        let Some(step) = only_step(case) else {
            continue;
        };
        let clusters = Clusters::new(suite.clusters(), case.clusters.clone());
        let worker = Worker::new(&runtime, Arc::new(clusters) as _);
        let mut spec = convert::spec(name, &suite.capabilities, &case.configuration);
        spec.vm_id = format!("case-{index}").into();
        // A log that nobody reads.
        spec.limits.log_lines_per_second = 0;
        let chain = Chain::new([Plugin::new(&module, spec)?]);
        let none = Chain::default();
        let (mut with, mut without) = (Vec::new(), Vec::new());
        each(&worker, &chain, step, WARM).await;
        for _ in 0..ROUNDS {
            with.push(each(&worker, &chain, step, repeat.div_ceil(ROUNDS)).await);
            without.push(each(&worker, &none, step, repeat.div_ceil(ROUNDS)).await);
        }
        let cost = CaseCost {
            name: case.name.clone(),
            line: case.line,
            with_us: median_us(with),
            without_us: median_us(without),
        };
        done(&cost);
        costs.push(cost);
    }
    Ok(costs)
}

fn only_step(case: &Case) -> Option<&Step> {
    match &case.kind {
        Kind::Exchanges(steps) => match steps.as_slice() {
            [step] if step.after.is_zero() => Some(step),
            _ => None,
        },
        Kind::Refused(_) => None,
    }
}

/// The time of one exchange. One that fails has its cost as well; `ringwall plugin test` says that it fails.
async fn each(worker: &Worker, chain: &Chain, step: &Step, repeat: u32) -> Duration {
    let started = Instant::now();
    for _ in 0..repeat {
        let _ = exchange::run(worker, chain, step).await;
    }
    started.elapsed() / repeat.max(1)
}

fn median_us(mut rounds: Vec<Duration>) -> f64 {
    rounds.sort_unstable();
    let middle = rounds.get(rounds.len() / 2).copied();
    middle.unwrap_or_default().as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let rounds = [9, 1, 3].map(Duration::from_micros).to_vec();
        assert!((median_us(rounds) - 3.0).abs() < 1e-9);
        assert!(median_us(Vec::new()).abs() < 1e-9);
    }
}
