//! Where things are on this machine: the only reader of the environment.

use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::error::CliError;

/// Name of the composition that is looked for in the working directory.
pub(crate) const COMPOSITION_FILE: &str = "ringwall.yaml";
/// The composition that stands at the root of the sources.
const EMBEDDED: &str = include_str!("../../ringwall.yaml");
/// State directory of root: PostgreSQL drops its privileges and must still reach its data.
const STATE_OF_ROOT: &str = "/var/lib/ringwall";

/// The text of a composition and where it came from.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The composition: the given file, else `ringwall.yaml` here, else the one that is built in.
pub(crate) fn composition(file: Option<&Path>) -> Result<Source, CliError> {
    let here = Path::new(COMPOSITION_FILE);
    let path = match file {
        Some(path) => path,
        None if here.is_file() => here,
        None => {
            let name = format!("{COMPOSITION_FILE} (built in)");
            return Ok(Source {
                name,
                text: EMBEDDED.to_owned(),
            });
        }
    };
    let text =
        std::fs::read_to_string(path).map_err(|source| CliError::io("reading", path, source))?;
    Ok(Source {
        name: path.display().to_string(),
        text,
    })
}

/// The state directory: the given one, `RINGWALL_STATE`, root's own, or the user's by XDG.
#[expect(
    clippy::disallowed_methods,
    reason = "config.rs is where the environment is read"
)]
pub(crate) fn state_directory(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let chosen = match given
        .map(Path::to_path_buf)
        .or_else(|| set("RINGWALL_STATE"))
    {
        Some(path) => path,
        None if Uid::effective().is_root() => PathBuf::from(STATE_OF_ROOT),
        None => match (set("XDG_STATE_HOME"), set("HOME")) {
            (Some(xdg), _) => xdg.join("ringwall"),
            (None, Some(home)) => home.join(".local/state/ringwall"),
            (None, None) => {
                return Err(CliError::State {
                    what: "no state directory: neither HOME nor XDG_STATE_HOME is set".into(),
                    fix: "name one: --state-dir DIRECTORY".into(),
                });
            }
        },
    };
    std::path::absolute(&chosen).map_err(|source| CliError::io("finding", &chosen, source))
}

/// Where the components' binaries are: beside our own.
pub(crate) fn binaries(given: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(given) = given {
        return std::path::absolute(given).map_err(|source| CliError::io("finding", given, source));
    }
    let own = own_binary()?;
    Ok(own
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf))
}

/// Where the built web application is: the given folder, `web` beside the binaries, or where the
/// sources were when this was built.
pub(crate) fn web(given: Option<&Path>, binaries: Option<&Path>) -> Result<PathBuf, CliError> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../spa-proxy/web/dist");
    let chosen = match given {
        Some(given) => given.to_path_buf(),
        None => {
            let beside = self::binaries(binaries)?.join("web");
            if beside.is_dir() {
                beside
            } else {
                PathBuf::from(built)
            }
        }
    };
    // Without the `..`, where the folder exists; the component that reads it says so if it does not.
    Ok(std::fs::canonicalize(&chosen).unwrap_or(chosen))
}

/// Our own executable, for `up --detach`.
pub(crate) fn own_binary() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|source| CliError::Io {
        what: "finding our own executable".into(),
        source,
    })
}
