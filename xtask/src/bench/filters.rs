//! What each filter of `plugins/filters` costs for each of its cases, in our host: `ringwall plugin bench`, for all of them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::report::Report;
use super::running::PROXY_CORE;
use crate::build::{Profile, deployables};
use crate::config::Config;
use crate::process::{output, run, say};
use crate::wasm;

/// Exchanges of each case for each round that was asked for.
const REPEAT: u32 = 1000;

/// The part of the command's answer that is reported.
#[derive(Deserialize)]
struct Measured {
    cases: Vec<Cost>,
}

#[derive(Deserialize)]
struct Cost {
    name: String,
    with_us: f64,
    without_us: f64,
}

pub(crate) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    let modules = wasm::build(config)?;
    say("building the platform (release)");
    run(&mut deployables(config, Profile::Release)?)?;
    let program = config.outputs.join("release/ringwall");
    let folder = config.root.join("plugins/filters");
    let mut report = Report::new("filters", rounds);
    let entries = fs::read_dir(&folder).context("listing the filters")?;
    let mut filters: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|filter| filter.join("cases.yaml").is_file())
        .collect();
    filters.sort();
    for filter in filters {
        let name = filter.file_name().unwrap_or_default().to_string_lossy();
        say(&name);
        let mut command = Command::new("taskset");
        command
            .args(["-c", PROXY_CORE])
            .arg(&program)
            .args(["plugin", "bench", "-o", "json"])
            .arg(modules.join(format!("{name}.wasm")))
            .arg("--cases")
            .arg(filter.join("cases.yaml"))
            .args(["--repeat", &(REPEAT * rounds).to_string()]);
        let measured: Measured =
            serde_json::from_str(&output(&mut command)?).context("reading a measurement")?;
        for case in measured.cases {
            report.add(&name, &case.name, "with it", "µs", &[case.with_us]);
            report.add(&name, &case.name, "without", "µs", &[case.without_us]);
        }
    }
    Ok(report)
}
