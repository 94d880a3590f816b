//! What was asked, what came of it, and the report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::Plan;
use super::watch::{Memory, Watched};

/// Errors beyond these are counted, and not described.
const DESCRIBED: usize = 50;

/// Counted while it runs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) latencies: Vec<Duration>,
    /// Orders of the user whose stream is followed, and those that were announced there.
    pub(super) placed: BTreeSet<String>,
    pub(super) announced: BTreeSet<String>,
    pub(super) orders: u64,
    pub(super) stream: StreamReport,
    /// Answers over the one connection to the database.
    pub(super) database: u64,
    errors: u64,
    failures: Vec<Failure>,
}

/// One thing that should not have been.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    pub at_s: f64,
    pub what: String,
}

/// The stream of server-sent events: it may end, and goes on after what was seen last.
#[derive(Debug, Default, Clone, Serialize)]
pub struct StreamReport {
    pub events: u64,
    /// In order, or with its connection's certificate.
    pub ended: u64,
    pub cut: u64,
}

/// What a run has seen. Times of requests in milliseconds, memory in KiB.
#[derive(Debug, Serialize)]
pub struct Report {
    pub workload_life_s: u64,
    pub edge_life_s: u64,
    pub took_s: f64,
    pub customers: usize,
    pub requests: u64,
    pub orders: u64,
    pub errors: u64,
    /// The first of them.
    pub failures: Vec<Failure>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub stream: StreamReport,
    pub database_answers: u64,
    /// Certificates after the first, by who serves them or by the file.
    pub rotations: BTreeMap<String, usize>,
    pub memory: BTreeMap<String, Memory>,
}

impl Tally {
    pub(super) fn error(&mut self, at: Duration, what: impl Into<String>) {
        self.errors += 1;
        let failure = Failure {
            at_s: at.as_secs_f64(),
            what: what.into(),
        };
        eprintln!("error after {:.1} s: {}", failure.at_s, failure.what);
        if self.failures.len() < DESCRIBED {
            self.failures.push(failure);
        }
    }

    pub(super) fn progress(&self) -> String {
        format!(
            "{} requests, {} orders, {} errors; p99 {:.0} ms; {} events",
            self.requests,
            self.orders,
            self.errors,
            quantile_ms(&self.latencies, 0.99),
            self.stream.events
        )
    }

    pub(super) fn report(self, plan: &Plan, took: Duration, watched: Watched) -> Report {
        Report {
            workload_life_s: plan.life.as_secs(),
            edge_life_s: plan.edge.as_secs(),
            took_s: took.as_secs_f64(),
            customers: plan.customers,
            requests: self.requests,
            orders: self.orders,
            errors: self.errors,
            failures: self.failures,
            p50_ms: quantile_ms(&self.latencies, 0.5),
            p99_ms: quantile_ms(&self.latencies, 0.99),
            max_ms: quantile_ms(&self.latencies, 1.0),
            stream: self.stream,
            database_answers: self.database,
            rotations: watched.rotations(),
            memory: watched.memory,
        }
    }
}

/// The latency below which the given part of all lies, in milliseconds.
fn quantile_ms(latencies: &[Duration], part: f64) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list of some ten thousand"
    )]
    let index = (part * sorted.len() as f64) as usize;
    let last = sorted.len().saturating_sub(1);
    let latency = sorted.get(index.min(last)).copied().unwrap_or_default();
    latency.as_secs_f64() * 1e3
}
