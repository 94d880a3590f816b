//! `cargo xtask bench NAME`: runs one measurement and prints its report.
//!
//! Each measurement is a module below that returns a [`report::Report`]; this file only parses,
//! dispatches and prints. Exit code 1 with `--check` where a target is missed.

mod awake;
mod containers;
mod ebpf;
mod filters;
mod gateway;
mod material;
mod mesh;
mod order;
mod plugins;
mod propagation;
pub(crate) mod report;
mod running;
mod shield;
mod wrk;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::build::{Profile, packages};
use crate::commands::Purpose;
use crate::config::Config;
use crate::process::{self, print, say};
use crate::setup;
use report::Report;

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// What to measure; an unknown name lists them
    name: String,
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Exit with 1 where a target is missed
    #[arg(long)]
    check: bool,
    /// Rounds per case; subjects take turns within each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What stands beside its peers, which are optimised across their parts, too.
const DATA_PATH: [&str; 4] = [
    "ringwall-agent",
    "ringwall-control-plane",
    "ringwall-gateway",
    "ringwall-proxy",
];

/// Builds these as images hold them: all in one go, so that their dependencies are built once.
fn build(config: &Config) -> Result<()> {
    say("building the data path, optimised across crates: the first build takes many minutes");
    process::run(&mut packages(config, Profile::Dist, DATA_PATH.into_iter()))
}

/// One measurement: runs so many rounds and reports.
type Measure = fn(&Config, u32) -> Result<Report>;

/// The measurements by name.
const MEASUREMENTS: &[(&str, Measure)] = &[
    ("containers", containers::measure),
    ("ebpf", ebpf::measure),
    ("filters", filters::measure),
    ("gateway", gateway::measure),
    ("layers", mesh::layers::measure),
    ("mesh", mesh::measure),
    ("order", order::measure),
    ("plugins", plugins::measure),
    ("propagation", propagation::measure),
    ("shield", shield::measure),
];

/// Measures, prints, and says by the exit code whether the targets are met.
pub(crate) fn run(config: &Config, args: &BenchArgs) -> Result<ExitCode> {
    let Some((_, measure)) = MEASUREMENTS.iter().find(|(name, _)| *name == args.name) else {
        let known: Vec<_> = MEASUREMENTS.iter().map(|(name, _)| *name).collect();
        bail!(
            "no measurement is called `{}`; there are: {}",
            args.name,
            known.join(", ")
        );
    };
    setup::run(config, Purpose::Bench)?;
    let report = measure(config, args.rounds)?;
    match args.output {
        Output::Table => print(&report.table())?,
        Output::Json => print(&report.json()?)?,
    }
    let missed = args.check && !report.targets_met();
    Ok(if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
