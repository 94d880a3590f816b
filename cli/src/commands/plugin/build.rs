//! `ringwall plugin build`: compiles, and says what came of it.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::project::ProjectArgs;
use super::shown::bytes;
use crate::commands::print_json;
use crate::error::CliError;
use crate::output::{Format, print};

#[derive(Args, Clone, Debug)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &BuildArgs) -> Result<ExitCode, CliError> {
    let module = args.project.project()?.build()?;
    let (path, size, sha256) = (module.path.display(), module.bytes.len(), module.sha256());
    match args.output {
        Format::Json => {
            print_json(&json!({ "module": path.to_string(), "size": size, "sha256": sha256 }))?
        }
        Format::Text => print(&format!(
            "module  {path}\nsize    {}\nsha256  {sha256}",
            bytes(size as u64)
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
