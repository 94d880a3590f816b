//! `cargo xtask fuzz TARGET`: looks for inputs that panic, guided by what code they reach (libFuzzer).
//!
//! Owns: the instrumentation, which cargo's own profiles do not know, and where inputs are kept. It works with the stable
//! compiler; sanitizers would need another. Tests with the same properties and random inputs run in `cargo xtask test`.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::config::Config;
use crate::process::say;

/// What to look into, and for how long.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    #[arg(value_enum)]
    target: Target,
    /// Length of the search, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    length: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// Every host function with any arguments, in every callback of a plugin
    Hostcalls,
    /// Any bytes as a plugin's module
    Module,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Hostcalls => "hostcalls",
            Self::Module => "module",
        }
    }

    /// Longer inputs say nothing new.
    fn most_bytes(self) -> u32 {
        match self {
            Self::Hostcalls => 1040,
            Self::Module => 4096,
        }
    }
}

/// As cargo-fuzz has them, without a sanitizer.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Exit code of the fuzzer: 0 where nothing was found.
pub(crate) fn command(config: &Config, args: &FuzzArgs) -> Result<ExitCode> {
    let name = args.target.name();
    let corpus = config.target.join("fuzz-corpus").join(name);
    fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
    say(&format!(
        "fuzzing {name} for {} s; what it learns is kept in {}",
        args.length,
        corpus.display()
    ));
    let status = Command::new(&config.cargo)
        .current_dir(config.root.join("plugins/host/fuzz"))
        .env("CARGO_TARGET_DIR", config.target.join("fuzz"))
        .env("RUSTFLAGS", INSTRUMENTATION)
        .args(["run", "--release", "--locked", "--bin", name, "--"])
        .arg(&corpus)
        .arg(format!("-max_total_time={}", args.length))
        .arg(format!("-max_len={}", args.target.most_bytes()))
        .arg(format!("-artifact_prefix={}/", corpus.display()))
        .args(["-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1"])
        .status()
        .context("starting cargo")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
