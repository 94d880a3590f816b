//! How a privileged step runs: as root, or through sudo; always named before it runs.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::process::{run, say};

/// What stands between us and root.
#[derive(Clone, Debug)]
pub(crate) enum Privilege {
    Root,
    Sudo(PathBuf),
}

impl Privilege {
    /// Nothing where there is neither root nor sudo.
    pub(crate) fn find(config: &Config) -> Option<Self> {
        if is_root() {
            return Some(Self::Root);
        }
        config.tool("sudo").map(Self::Sudo)
    }

    /// The program, to be run as root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo(sudo) => {
                let mut command = Command::new(sudo);
                command.arg(program);
                command
            }
        }
    }

    /// Runs one named privileged step.
    pub(crate) fn run(&self, what: &str, words: &[&str]) -> Result<()> {
        let Some((program, arguments)) = words.split_first() else {
            return Ok(());
        };
        say(&format!(
            "setup: privileged step, {what}:\n  {}",
            words.join(" ")
        ));
        let mut command = self.command(program);
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command).with_context(|| format!("{what}: run this as root: {}", words.join(" ")))
    }
}

/// The effective uid, without a crate: /proc knows it.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}
