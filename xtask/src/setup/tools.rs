//! Pinned cargo tools, installed into a folder of the user's cache at first use.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::config::Config;
use crate::process::{run, say};

/// A tool of cargo with the version that CI uses too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tool {
    Deny,
    Machete,
}

impl Tool {
    fn pin(self) -> (&'static str, &'static str) {
        match self {
            Self::Deny => ("cargo-deny", "0.20.2"),
            Self::Machete => ("cargo-machete", "0.9.2"),
        }
    }
}

/// The tool's path; builds it first when this version is not there.
pub(crate) fn ensure(config: &Config, tool: Tool) -> Result<PathBuf> {
    let (name, version) = tool.pin();
    // One folder per version: a changed pin never runs an old binary.
    let folder = config.tools.join(format!("{name}-{version}"));
    let binary = folder.join("bin").join(name);
    if binary.is_file() {
        return Ok(binary);
    }
    say(&format!(
        "setup: building {name} {version} (once, takes some minutes)"
    ));
    let mut install = Command::new(&config.cargo);
    install
        .args(["install", "--locked", "--version", version, "--root"])
        .arg(&folder)
        .arg(name)
        // Built apart, so that the workspace's output stays the workspace's.
        .env_remove("CARGO_TARGET_DIR");
    run(&mut install)?;
    Ok(binary)
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
