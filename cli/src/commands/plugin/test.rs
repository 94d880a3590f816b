//! `ringwall plugin test`: the cases in the real host, with what each has cost.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ringwall_plugin_host::Limits;
use ringwall_plugin_runner::CaseReport;
use serde_json::json;

use super::project::{self, ProjectArgs};
use super::shown::{bytes, time};
use crate::commands::{print_json, runtime};
use crate::error::CliError;
use crate::output::{Format, print, say};

#[derive(Args, Clone, Debug)]
pub(super) struct TestArgs {
    /// A module [default: the folder's, built now]
    #[arg(value_name = "FILE.wasm")]
    module: Option<PathBuf>,
    /// The cases [default: cases.yaml in the folder]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    project: ProjectArgs,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Exit code of cases that did not pass.
const FAILED: u8 = 1;

pub(super) fn run(args: &TestArgs) -> Result<ExitCode, CliError> {
    // First, as a build takes longer than to see that the cases are wrong.
    let (file, suite) = project::cases(args.cases.as_deref(), &args.project.path)?;
    let (name, module) = args.project.module(args.module.as_deref())?;
    let is_text = args.output == Format::Text;
    let mut closed = None;
    let limits = Limits::default();
    let run = ringwall_plugin_runner::run(&name, &suite, &module.bytes, &limits, |report| {
        if is_text && closed.is_none() {
            closed = print(&told(&file, report)).err();
        }
    });
    let reports = runtime()?.block_on(run);
    if let Some(error) = closed {
        return Err(error);
    }
    let reports = reports.map_err(|error| project::refused(&module.path, &error))?;
    let failed = reports.iter().filter(|report| !report.passed).count();
    let passed = reports.len() - failed;
    match args.output {
        Format::Text => print(&format!("{passed} passed, {failed} failed"))?,
        Format::Json => print_json(&json!({
            "module": module.path.display().to_string(),
            "size": module.bytes.len(),
            "sha256": module.sha256(),
            "cases_file": file.display().to_string(),
            "passed": passed,
            "failed": failed,
            "cases": reports,
        }))?,
    }
    if failed > 0 {
        say(&format!("{failed} of {} cases did not pass", reports.len()));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// A case as people read it.
fn told(file: &Path, report: &CaseReport) -> String {
    let CaseReport {
        name,
        line,
        measured,
        ..
    } = report;
    let calls: u64 = measured.host_calls.values().map(|calls| calls.count).sum();
    let verdict = if report.passed { "ok  " } else { "FAIL" };
    let mut text = format!(
        "{verdict}  {name}\n      {calls} host calls, {} processor time in {} callbacks (longest {}), {} in all, {} memory",
        time(measured.processor_time),
        measured.callbacks,
        time(measured.longest_callback),
        time(measured.wall),
        bytes(measured.memory),
    );
    let named: Vec<String> = measured
        .host_calls
        .iter()
        .map(|(name, calls)| match calls.refused {
            0 => format!("{name} {}", calls.count),
            refused => format!("{name} {} ({refused} refused)", calls.count),
        })
        .collect();
    // Writing to a string cannot fail.
    if !named.is_empty() {
        let _ = write!(text, "\n      {}", named.join(", "));
    }
    for (what, count) in &measured.refusals {
        let _ = write!(text, "\n      refused {count}: {what}");
    }
    for failure in &measured.failures {
        let _ = write!(text, "\n      failed: {failure}");
    }
    if !report.passed {
        let _ = write!(text, "\n      {}:{line}", file.display());
        for problem in &report.problems {
            let problem = problem.to_string().replace("\n    ", "\n        ");
            let _ = write!(text, "\n      {problem}");
        }
        for line in &report.log {
            let _ = write!(text, "\n      log: {}", line.escape_debug());
        }
    }
    text
}
