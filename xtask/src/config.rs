//! Where the checkout, the build output and the tools are: the only reader of the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The places that every command needs.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Root of the checkout.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// Where pinned cargo tools are installed: `${XDG_CACHE_HOME:-~/.cache}/ringwall/tools`.
    pub(crate) tools: PathBuf,
    /// The cargo that runs us.
    pub(crate) cargo: OsString,
    /// The search path, for `tool()`.
    path: OsString,
}

impl Config {
    /// Reads the environment once.
    #[expect(
        clippy::disallowed_methods,
        reason = "config.rs is where the environment is read"
    )]
    pub(crate) fn from_environment() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        // As cargo says it at run time: a shared target directory may hold the xtask that another
        // checkout has built, with that one's paths compiled in.
        let package = set("CARGO_MANIFEST_DIR").context("start it as `cargo xtask`")?;
        let root = Path::new(&package)
            .parent()
            .context("xtask stands in a folder of the checkout")?
            .to_path_buf();
        let target = set("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let cache = match set("XDG_CACHE_HOME") {
            Some(cache) => PathBuf::from(cache),
            None => PathBuf::from(set("HOME").context("HOME is not set")?).join(".cache"),
        };
        Ok(Self {
            target: std::path::absolute(target).context("finding the target directory")?,
            tools: cache.join("ringwall").join("tools"),
            cargo: set("CARGO").unwrap_or_else(|| "cargo".into()),
            path: set("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            root,
        })
    }

    /// The web application's sources.
    pub(crate) fn web(&self) -> PathBuf {
        self.root.join("spa-proxy").join("web")
    }

    /// The first executable called `name` on the search path; sbin folders are looked at as well,
    /// because an ordinary user's path on Debian does not have them.
    pub(crate) fn tool(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .map(|folder| folder.join(name))
            .find(|candidate| candidate.is_file())
    }
}
