//! `cargo xtask`: sets up, builds, tests and measures Ringwall.
//!
//! Owns the developer's commands, each of them idempotent and with progress on stderr. It must not
//! know how the platform runs: `up` and `down` build and call the `ringwall` binary. Read next:
//! `commands.rs` for the list, then the module named like the command.

mod bench;
mod build;
mod commands;
mod config;
mod digest;
mod ebpf;
mod engine;
mod fuzz;
mod images;
mod layers;
mod lint;
mod plan;
mod process;
mod setup;
mod soak;
mod test;
mod wasm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(commands::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            process::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
