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
    /// Where cargo puts what it builds for this machine: the folder that holds `debug/` and
    /// `release/`, thus `<target>/<triple>` where the target is named in `.cargo/config.toml`.
    pub(crate) outputs: PathBuf,
    /// What outlives a target directory: `${XDG_CACHE_HOME:-~/.cache}/ringwall`.
    pub(crate) cache: PathBuf,
    /// Where pinned tools are installed, in the cache.
    pub(crate) tools: PathBuf,
    /// What the user has set for the docker client.
    pub(crate) docker: DockerSettings,
    /// The cargo that runs us.
    pub(crate) cargo: OsString,
    /// Cargo's own folder, whose path must not get into binaries.
    pub(crate) cargo_home: PathBuf,
    /// The search path, for `tool()`.
    path: OsString,
}

/// The environment of the docker client.
#[derive(Clone, Debug, Default)]
pub(crate) struct DockerSettings {
    /// `DOCKER_HOST`.
    pub(crate) host: Option<String>,
    /// `DOCKER_CONFIG`, else `~/.docker`.
    pub(crate) config: PathBuf,
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
        let home = PathBuf::from(set("HOME").context("HOME is not set")?);
        let cache = set("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let cache = cache.join("ringwall");
        let own = std::env::current_exe().context("finding xtask's own executable")?;
        Ok(Self {
            target: std::path::absolute(target).context("finding the target directory")?,
            outputs: outputs(&own)?,
            tools: cache.join("tools"),
            cache,
            docker: DockerSettings {
                host: set("DOCKER_HOST").map(|host| host.to_string_lossy().into_owned()),
                config: set("DOCKER_CONFIG").map_or_else(|| home.join(".docker"), PathBuf::from),
            },
            cargo_home: set("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from),
            cargo: set("CARGO").unwrap_or_else(|| "cargo".into()),
            path: set("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            root,
        })
    }

    /// The same for another checkout, which is built into a target directory of its own.
    pub(crate) fn of_checkout(&self, root: PathBuf, target: PathBuf) -> Self {
        let triple = self.outputs.strip_prefix(&self.target);
        Self {
            root,
            outputs: target.join(triple.unwrap_or(Path::new(""))),
            target,
            ..self.clone()
        }
    }

    /// The web application's sources.
    pub(crate) fn web(&self) -> PathBuf {
        self.root.join("spa-proxy").join("web")
    }

    /// The first executable called `name` on the search path; sbin folders are looked at as well,
    /// because an ordinary user's path on Debian does not have them.
    pub(crate) fn tool(&self, name: &str) -> Option<PathBuf> {
        self.tools_called(name).next()
    }

    /// Where executables are looked for, as `PATH` has it.
    pub(crate) fn search_path(&self) -> &std::ffi::OsStr {
        &self.path
    }

    /// Every executable of that name on the search path, in its order.
    pub(crate) fn tools_called(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        std::env::split_paths(&self.path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .map(move |folder| folder.join(name))
            .filter(|candidate| candidate.is_file())
    }
}

/// Cargo has built us as `<outputs>/debug/xtask`: what it builds beside us lies there too.
fn outputs(own: &Path) -> Result<PathBuf> {
    let folder = own.parent().and_then(Path::parent);
    let folder = folder.with_context(|| format!("{} is not in cargo's output", own.display()))?;
    Ok(folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outputs_are_where_xtask_itself_was_put() {
        let with_triple = Path::new("/t/x86_64-unknown-linux-gnu/debug/xtask");
        assert_eq!(
            outputs(with_triple).unwrap(),
            Path::new("/t/x86_64-unknown-linux-gnu")
        );
        assert_eq!(
            outputs(Path::new("/t/debug/xtask")).unwrap(),
            Path::new("/t")
        );
        assert!(outputs(Path::new("xtask")).is_err());
    }
}
