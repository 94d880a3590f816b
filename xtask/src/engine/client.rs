//! Which docker client can build with BuildKit.
//!
//! A client before 23 has BuildKit inside; a newer one needs the buildx plugin and refuses to build without it. A
//! machine may have both kinds, and the first on the path need not be the one that can.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::config::Config;
use crate::process::output;

/// The first client with BuildKit from which buildx is a plugin.
const BUILDX_SINCE: u32 = 23;

/// The first client on the search path that can build.
pub(super) fn that_builds(config: &Config) -> Result<PathBuf> {
    let mut seen = Vec::new();
    for client in config.tools_called("docker") {
        match can_build(config, &client) {
            Ok(()) => return Ok(client),
            Err(why) => seen.push(format!("{}: {why:#}", client.display())),
        }
    }
    bail!(
        "no docker client here can build with BuildKit\n  seen: {}\n  \
         expected: a client before {BUILDX_SINCE}, or a newer one with the buildx plugin\n  \
         fix: apt-get install docker.io (Debian 12), or docker-buildx-plugin where Docker's packages are used",
        seen.join("; ")
    )
}

fn can_build(config: &Config, client: &Path) -> Result<()> {
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(client);
        command
            .env("DOCKER_CONFIG", &config.docker.config)
            .args(arguments);
        output(&mut command)
    };
    // `docker version` would ask the engine too, and fail where that one is away.
    let version = ask(&["--version"])?;
    if major(&version).is_some_and(|major| major < BUILDX_SINCE)
        || ask(&["buildx", "version"]).is_ok()
    {
        return Ok(());
    }
    bail!("{version}, without buildx")
}

/// `Docker version 20.10.24+dfsg1, build 297e128` → 20.
fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    number.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_clients_are_read() {
        assert_eq!(
            major("Docker version 20.10.24+dfsg1, build 297e128"),
            Some(20)
        );
        assert_eq!(major("Docker version 28.2.2, build e6534b4"), Some(28));
        assert_eq!(major("podman 5"), None);
    }
}
