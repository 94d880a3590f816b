//! Pinned cargo tools, installed into a folder of the user's cache at first use.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::config::Config;
use crate::process::{run, say};

/// A tool of cargo with the version that CI uses too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tool {
    BpfLinker,
    Deny,
    Machete,
}

/// Where Debian's LLVM 22 is.
const LLVM_22: &str = "/usr/lib/llvm-22";

/// True when a linker can be built with LLVM 22. Debian's clang makes the folder too, without what is linked.
pub(crate) fn has_llvm() -> bool {
    Path::new(LLVM_22).join("lib/libLLVM.so").exists()
}

impl Tool {
    fn pin(self) -> (&'static str, &'static str) {
        match self {
            Self::BpfLinker => ("bpf-linker", "0.13.0"),
            Self::Deny => ("cargo-deny", "0.20.2"),
            Self::Machete => ("cargo-machete", "0.9.2"),
        }
    }
}

/// The tool's path; builds it first when this version is not there.
pub(crate) fn ensure(config: &Config, tool: Tool) -> Result<PathBuf> {
    let (name, version) = tool.pin();
    let binary = config.tools.join("bin").join(name);
    if is_there(config, tool) {
        return Ok(binary);
    }
    say(&format!(
        "setup: building {name} {version} (once, takes some minutes)"
    ));
    let mut install = Command::new(&config.cargo);
    install
        .args(["install", "--locked", "--version", version, "--root"])
        .arg(&config.tools)
        .arg(name)
        // Built apart, so that the workspace's output stays the workspace's.
        .env_remove("CARGO_TARGET_DIR");
    if matches!(tool, Tool::BpfLinker) {
        install.args(["--no-default-features", "--features", "llvm-22"]);
        install.env("LLVM_SYS_221_PREFIX", LLVM_22);
        install.env("LLVM_PREFIX", LLVM_22);
        // Static as this checkout's binaries it could not load LLVM.
        install.current_dir("/");
    }
    run(&mut install)?;
    Ok(binary)
}

/// True when this version is there.
pub(crate) fn is_there(config: &Config, tool: Tool) -> bool {
    let (name, version) = tool.pin();
    // cargo's own record: a changed pin never runs an old binary.
    let record = fs::read_to_string(config.tools.join(".crates.toml")).unwrap_or_default();
    config.tools.join("bin").join(name).is_file() && is_installed(&record, name, version)
}

/// `"cargo-deny 0.20.2 (registry+…)" = ["cargo-deny"]`
fn is_installed(record: &str, name: &str, version: &str) -> bool {
    let start = format!("\"{name} {version} (");
    record.lines().any(|line| line.starts_with(&start))
}

/// True when a TCP connection to the host can be made.
pub(crate) fn reachable(host: &str, port: u16) -> bool {
    let Ok(addresses) = (host, port).to_socket_addrs() else {
        return false;
    };
    addresses
        .take(2)
        .any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_version_counts() {
        let record = "[v1]\n\"cargo-deny 0.20.2 (registry+https://x)\" = [\"cargo-deny\"]\n";
        assert!(is_installed(record, "cargo-deny", "0.20.2"));
        assert!(!is_installed(record, "cargo-deny", "0.20.20"));
        assert!(!is_installed(record, "cargo-machete", "0.9.2"));
    }
}
