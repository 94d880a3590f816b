//! `ringwall plugin`: from an empty folder to a module that the gateway can be given.
//!
//! Owns: the author's commands, one file each. Must not: know the ABI (`plugins/host` does), how cases run
//! (`plugins/runner`), or how a guest is compiled (`plugins/toolchain`).
//! Read next: `plugin/project.rs`, what the commands take for a plugin; then a command's own file.

mod bench;
mod build;
mod inspect;
mod new;
mod project;
mod push;
mod reload;
mod run;
mod shown;
mod sign;
mod store;
mod template;
mod test;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::error::CliError;

#[derive(Args, Clone, Debug)]
pub(super) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PluginCommand {
    /// Make a folder with a plugin that builds and passes its cases
    New(new::NewArgs),
    /// Compile the plugin of a folder into a module
    Build(build::BuildArgs),
    /// Run the cases of a plugin in the host that the gateway has
    Test(test::TestArgs),
    /// Measure what each case costs, with the plugin and without
    Bench(bench::BenchArgs),
    /// Serve requests on loopback with the plugin before an upstream, and take every save into use
    Run(run::RunArgs),
    /// Show what is in a module and what it needs
    Inspect(inspect::InspectArgs),
    /// Sign a module, make a pair of keys, or verify a signature
    Sign(sign::SignArgs),
    /// Put a module where the gateway finds it, by its content
    Push(push::PushArgs),
}

pub(super) fn run(args: &PluginArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        PluginCommand::New(args) => new::run(args),
        PluginCommand::Build(args) => build::run(args),
        PluginCommand::Test(args) => test::run(args),
        PluginCommand::Bench(args) => bench::run(args),
        PluginCommand::Run(args) => run::run(args),
        PluginCommand::Inspect(args) => inspect::run(args),
        PluginCommand::Sign(args) => sign::run(args),
        PluginCommand::Push(args) => push::run(args),
    }
}
