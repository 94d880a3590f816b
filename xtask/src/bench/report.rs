//! What a measurement reports: the machine, cases as median and spread, and the targets.
//!
//! The JSON form is one object `{name, machine, rounds, cases, targets}` and is stable: charts and
//! `--check` read it.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// One finished measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) cases: Vec<Case>,
    pub(crate) targets: Vec<Target>,
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) os: String,
}

/// One subject in one case by one metric, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Case {
    pub(crate) subject: String,
    pub(crate) case: String,
    pub(crate) metric: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A figure that the project promises.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) bound: f64,
    pub(crate) met: bool,
}

impl Report {
    /// An empty report of this machine.
    pub(crate) fn new(name: &str, rounds: u32) -> Self {
        Self {
            name: name.to_owned(),
            machine: Machine::here(),
            rounds,
            cases: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Adds the samples of one subject in one case; no samples, no case.
    pub(crate) fn add(
        &mut self,
        subject: &str,
        case: &str,
        metric: &str,
        unit: &str,
        samples: &[f64],
    ) {
        self.cases
            .extend(Case::of(subject, case, metric, unit, samples));
    }

    /// The median of a case that was added before.
    pub(crate) fn median(&self, subject: &str, case: &str, metric: &str) -> Option<f64> {
        self.cases
            .iter()
            .find(|known| known.subject == subject && known.case == case && known.metric == metric)
            .map(|known| known.median)
    }

    /// Adds a target that is met when `value` is not above `bound`.
    pub(crate) fn at_most(&mut self, name: &str, value: f64, bound: f64) {
        self.targets.push(Target {
            name: name.to_owned(),
            value,
            bound,
            met: value <= bound,
        });
    }

    /// True when no target is missed.
    pub(crate) fn targets_met(&self) -> bool {
        self.targets.iter().all(|target| target.met)
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("writing the report as JSON")
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut rows =
            vec![["subject", "case", "metric", "median", "min", "max"].map(str::to_owned)];
        for case in &self.cases {
            rows.push([
                case.subject.clone(),
                case.case.clone(),
                format!("{} ({})", case.metric, case.unit),
                figure(case.median),
                figure(case.min),
                figure(case.max),
            ]);
        }
        let machine = &self.machine;
        let mut text = format!(
            "{} · {} rounds · {} cores of {} · {} · Linux {}\n\n",
            self.name, self.rounds, machine.cores, machine.cpu, machine.os, machine.kernel
        );
        text.push_str(&columns(&rows));
        for target in &self.targets {
            let verdict = if target.met { "met   " } else { "MISSED" };
            let (value, bound) = (figure(target.value), figure(target.bound));
            let _ = write!(
                text,
                "\n{verdict}  {}: {value} (bound {bound})",
                target.name
            );
        }
        text
    }
}

impl Case {
    /// Median and spread of the samples, or nothing when there are none.
    pub(crate) fn of(
        subject: &str,
        case: &str,
        metric: &str,
        unit: &str,
        samples: &[f64],
    ) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            subject: subject.to_owned(),
            case: case.to_owned(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            median: median(&sorted)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

impl Machine {
    /// Describes this machine from /proc; what cannot be read is called unknown.
    pub(crate) fn here() -> Self {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|rest| rest.trim_matches([':', '\t', ' ', '"', '=']).to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            os: field("/etc/os-release", "PRETTY_NAME").unwrap_or_else(unknown),
        }
    }
}

/// Middle of sorted samples; the mean of the two middle ones when their number is even.
fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(half.checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Left-aligned columns, two spaces apart; the last three are figures and stand to the right.
fn columns(rows: &[[String; 6]]) -> String {
    let widths: Vec<usize> = (0..6)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column < 3 {
                write!(text, "{cell:<width$}  ")
            } else {
                write!(text, "{cell:>width$}  ")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("probe", 3);
        report.add(
            "ringwall",
            "plain",
            "cpu",
            "µs/request",
            &[13.0, 12.0, 20.0],
        );
        report.add("nginx", "plain", "cpu", "µs/request", &[10.0, 12.0]);
        report.add("empty", "plain", "cpu", "µs/request", &[]);
        report
    }

    #[test]
    fn a_case_has_median_and_spread() {
        let report = report();
        assert_eq!(report.median("ringwall", "plain", "cpu"), Some(13.0));
        assert_eq!(report.median("nginx", "plain", "cpu"), Some(11.0));
        assert_eq!(report.cases.len(), 2, "no samples, no case");
        assert_eq!((report.cases[0].min, report.cases[0].max), (12.0, 20.0));
    }

    #[test]
    fn a_missed_target_is_told() {
        let mut report = report();
        report.at_most("plain ≤ 1.4× nginx", 1.18, 1.4);
        assert!(report.targets_met());
        report.at_most("with policy ≤ 1.6× nginx", 1.7, 1.6);
        assert!(!report.targets_met());
        assert!(
            report
                .table()
                .contains("MISSED  with policy ≤ 1.6× nginx: 1.70 (bound 1.60)")
        );
    }

    #[test]
    fn json_has_the_promised_fields() {
        let mut report = report();
        report.at_most("t", 1.0, 2.0);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        for key in ["machine", "rounds", "cases", "targets"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for key in ["subject", "case", "metric", "unit", "median", "min", "max"] {
            assert!(json["cases"][0].get(key).is_some(), "{key}");
        }
        assert_eq!(json["targets"][0]["met"], true);
    }
}
