//! `ringwall`: starts, watches and stops the whole platform on one machine.
//!
//! Owns: the supervisor, first-start provisioning (authority, certificates, secrets, PostgreSQL)
//! and the operator's view. Must not: serve requests, or know what a component's own configuration
//! means; that stands in `ringwall.yaml` and is handed over as it is.
//! Read next: `composition.rs` for the model, `commands/up.rs` for the order of a start,
//! `supervisor.rs` for what happens afterwards.

mod cgroups;
mod commands;
mod composition;
mod config;
mod confine;
mod engine;
mod error;
mod files;
mod interception;
mod output;
mod plane;
mod policy_file;
mod ports;
mod postgres;
mod probe;
mod processes;
mod provision;
mod record;
mod render;
mod signals;
mod site;
mod state;
mod supervisor;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(commands::Cli::parse()) {
        Ok(code) => code,
        // Whoever read us has seen enough (`ringwall logs | head`).
        Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("error: {error}"));
            error.exit_code()
        }
    }
}
