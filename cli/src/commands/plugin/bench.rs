//! `ringwall plugin bench`: what an exchange of each case costs, with the plugin and without.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::project::{self, ProjectArgs};
use crate::commands::{print_json, runtime};
use crate::error::CliError;
use crate::output::{Format, print};

#[derive(Args, Clone, Debug)]
pub(super) struct BenchArgs {
    /// A module [default: the folder's, built now]
    #[arg(value_name = "FILE.wasm")]
    module: Option<PathBuf>,
    /// The cases [default: cases.yaml in the folder]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// How often each case is exchanged, with the plugin and without
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(5..=10_000_000))]
    repeat: u32,
    #[command(flatten)]
    project: ProjectArgs,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &BenchArgs) -> Result<ExitCode, CliError> {
    let (file, suite) = project::cases(args.cases.as_deref(), &args.project.path)?;
    let (name, module) = args.project.module(args.module.as_deref())?;
    let is_text = args.output == Format::Text;
    let mut closed = None;
    let measured =
        ringwall_plugin_runner::bench(&name, &suite, &module.bytes, args.repeat, |cost| {
            if is_text && closed.is_none() {
                let line = format!(
                    "{:8.1} µs with it, {:6.1} µs without: {}",
                    cost.with_us, cost.without_us, cost.name
                );
                closed = print(&line).err();
            }
        });
    let costs = runtime()?.block_on(measured);
    if let Some(error) = closed {
        return Err(error);
    }
    let costs = costs.map_err(|error| project::refused(&module.path, &error))?;
    if !is_text {
        print_json(&json!({
            "module": module.path.display().to_string(),
            "sha256": module.sha256(),
            "cases_file": file.display().to_string(),
            "repeat": args.repeat,
            "cases": costs,
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}
