//! All cases of a suite, each with an instance of the plugin of its own and nothing shared.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_plugin_cases::{Case, Kind, Observed, Step, Suite};
use ringwall_plugin_host::{
    Chain, Error, Limits, Module, Plugin, Runtime, RuntimeOptions, Verification, Worker,
};

use crate::clusters::Clusters;
use crate::convert;
use crate::exchange;
use crate::report::{CaseReport, Problem};
use crate::watch::Watch;

/// Longer than any limit of a plugin: whoever waits longer waits for nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Turns that a call in memory takes, and some more.
const YIELDS: usize = 32;

/// Runs every case in order, and hands each report to `done` as it comes. `name` is what the plugin is called.
///
/// # Errors
/// Where the module cannot run in this host at all; what a case meets is in its report.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn run(
    name: &str,
    suite: &Suite,
    module: &[u8],
    limits: &Limits,
    mut done: impl FnMut(&CaseReport),
) -> Result<Vec<CaseReport>, Error> {
    let runtime = Runtime::new(RuntimeOptions::default())?;
    let bed = Bed {
        module: Module::load(&runtime, module, &Verification::none())?,
        runtime,
        name,
        suite,
        limits,
        clusters: suite.clusters(),
    };
    let mut reports = Vec::new();
    for (index, case) in suite.cases.iter().enumerate() {
        let report = bed.case(index, case).await;
        done(&report);
        reports.push(report);
    }
    Ok(reports)
}

struct Bed<'a> {
    runtime: Runtime,
    module: Module,
    name: &'a str,
    suite: &'a Suite,
    limits: &'a Limits,
    clusters: BTreeSet<&'a str>,
}

impl Bed<'_> {
    async fn case(&self, index: usize, case: &Case) -> CaseReport {
        let watch = Arc::new(Watch::default());
        let clusters = Clusters::new(self.clusters.clone(), case.clusters.clone());
        let clusters = Arc::new(clusters);
        // The only worker that lives: the plugin is configured in it, and watched from its first callback on.
        let worker = Worker::observed(
            &self.runtime,
            Arc::clone(&clusters) as _,
            Some(Arc::clone(&watch) as _),
        );
        let mut spec = convert::spec(self.name, &self.suite.capabilities, &case.configuration);
        spec.limits = self.limits.clone();
        spec.vm_id = format!("case-{index}").into();
        let plugin = Plugin::new(&self.module, spec);
        let mut wall = Duration::ZERO;
        let problems = match (&case.kind, plugin) {
            (Kind::Refused(reason), Err(Error::Configuration { .. })) => {
                unless_logged(&watch, reason)
            }
            (Kind::Refused(_), Ok(_)) => vec![Problem::new("configuration", "refused", "taken")],
            (Kind::Refused(_), Err(error)) => {
                vec![Problem::new("configuration", "refused", error.to_string())]
            }
            (Kind::Exchanges(_), Err(error)) => {
                let seen = format!("{error}: {:?}", watch.log());
                vec![Problem::new("configuration", "taken", seen)]
            }
            (Kind::Exchanges(steps), Ok(plugin)) => {
                let stand = Stand {
                    worker: &worker,
                    chain: Chain::new([plugin]),
                    clusters: &clusters,
                    watch: &watch,
                };
                stand.steps(steps, &mut wall).await
            }
        };
        let mut measured = watch.measured();
        measured.wall = wall;
        CaseReport {
            name: case.name.clone(),
            line: case.line,
            passed: problems.is_empty(),
            problems,
            measured,
            log: watch.log(),
        }
    }
}

fn unless_logged(watch: &Watch, reason: &str) -> Vec<Problem> {
    let log = watch.log();
    if log.iter().any(|line| line.contains(reason)) {
        return Vec::new();
    }
    let expected = format!("a line with {reason:?}");
    vec![Problem::new("log", expected, format!("{log:?}"))]
}

/// A case's plugin with what stands around it.
struct Stand<'a> {
    worker: &'a Worker,
    chain: Chain,
    clusters: &'a Clusters,
    watch: &'a Watch,
}

impl Stand<'_> {
    async fn steps(&self, steps: &[Step], wall: &mut Duration) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let number = index + 1;
            // Timers of a plugin go by the machine's clock, as they do where it serves.
            tokio::time::sleep(step.after).await;
            let started = Instant::now();
            let exchange = exchange::run(self.worker, &self.chain, step);
            let exchange = tokio::time::timeout(PATIENCE, exchange).await;
            *wall += started.elapsed();
            let outcome = exchange.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            // What the plugin has begun and not waited for.
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
            }
            match outcome {
                Ok(outcome) => {
                    self.watch.failed(outcome.failure);
                    let observed = Observed {
                        client: outcome.client,
                        upstream: outcome.upstream,
                        callouts: self.clusters.take_called(),
                        log: self.watch.log(),
                    };
                    let differences = step.expect.differences(&observed);
                    let found = differences.into_iter();
                    problems.extend(found.map(|difference| Problem::of(number, difference)));
                }
                Err(error) => {
                    let mut problem = Problem::new("exchange", "an answer", error);
                    problem.step = Some(number);
                    problems.push(problem);
                }
            }
        }
        problems
    }
}
