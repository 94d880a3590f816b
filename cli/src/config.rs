//! Where things are on this machine: the only reader of the environment.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::composition::Composition;
use crate::error::CliError;

/// Name of the composition that is looked for in the working directory.
pub(crate) const COMPOSITION_FILE: &str = "ringwall.yaml";
/// The composition that stands at the root of the sources.
const EMBEDDED: &str = include_str!("../../ringwall.yaml");
/// The policies beside it.
const EMBEDDED_POLICY: &str = include_str!("../../deploy/mesh/policy.yaml");
/// State directory of root: PostgreSQL drops its privileges and must still reach its data. Also of
/// a user whom it belongs to, such as the one in the provisioner's container.
const STATE_OF_ROOT: &str = "/var/lib/ringwall";

/// Where a checkout has the web application once it is built.
const BUILT_WEB: &str = "spa-proxy/web/dist";

/// The text of a composition or a policy, and where it came from.
#[derive(Clone, Debug)]
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

/// The policy file of a composition: beside its file, or built in with it.
pub(crate) fn policy(
    file: Option<&Path>,
    composition: &Composition,
) -> Result<Option<Source>, CliError> {
    let Some(mesh) = &composition.mesh else {
        return Ok(None);
    };
    let (named, at) = (&mesh.policy.value, mesh.policy.referenced);
    let here = Path::new(COMPOSITION_FILE);
    let Some(of) = file.or_else(|| here.is_file().then_some(here)) else {
        return Ok(Some(Source {
            name: format!("{} (built in)", named.display()),
            text: EMBEDDED_POLICY.to_owned(),
        }));
    };
    let path = of.parent().unwrap_or(Path::new("")).join(named);
    let text = std::fs::read_to_string(&path).map_err(|error| CliError::Composition {
        place: format!("{}:{}:{}", of.display(), at.line(), at.column()),
        what: format!("the policy file {} cannot be read: {error}", path.display()),
        fix: "name a file, from where the composition stands".into(),
    })?;
    Ok(Some(Source {
        name: path.display().to_string(),
        text,
    }))
}

/// The state directory: the given one, `RINGWALL_STATE`, that of root and its owner, or the user's
/// by XDG.
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
        None if Uid::effective().is_root() || is_ours(Path::new(STATE_OF_ROOT)) => {
            PathBuf::from(STATE_OF_ROOT)
        }
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

fn is_ours(directory: &Path) -> bool {
    let owner = std::fs::metadata(directory).map(|meta| meta.uid());
    owner.is_ok_and(|owner| owner == Uid::effective().as_raw())
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

/// Where the built web application is: the given folder, `web` beside the binaries, or where a
/// checkout has it: below the composition's folder, else below the working directory.
pub(crate) fn web(
    given: Option<&Path>,
    binaries: Option<&Path>,
    composition: Option<&Path>,
) -> Result<PathBuf, CliError> {
    let chosen = match given {
        Some(given) => given.to_path_buf(),
        None => {
            let beside = self::binaries(binaries)?.join("web");
            let checkout = composition.and_then(Path::parent);
            let built = checkout.map(|folder| folder.join(BUILT_WEB));
            let candidates = std::iter::once(beside).chain(built);
            candidates
                .into_iter()
                .find(|folder| folder.is_dir())
                .unwrap_or_else(|| BUILT_WEB.into())
        }
    };
    // The component that reads it refuses a folder that does not exist, by this name.
    let absolute = std::fs::canonicalize(&chosen).or_else(|_| std::path::absolute(&chosen));
    absolute.map_err(|source| CliError::io("finding", &chosen, source))
}

/// Where the built plugins are: the given folder, `plugins` beside the binaries, or where `cargo xtask wasm` puts them.
pub(crate) fn plugins(given: Option<&Path>, binaries: Option<&Path>) -> Result<PathBuf, CliError> {
    let chosen = match given {
        Some(given) => given.to_path_buf(),
        None => {
            let binaries = self::binaries(binaries)?;
            let beside = binaries.join("plugins");
            if beside.is_dir() {
                beside
            } else {
                binaries.join("../wasm")
            }
        }
    };
    // The component that reads a module refuses one that does not exist, by its name.
    let absolute = std::fs::canonicalize(&chosen).or_else(|_| std::path::absolute(&chosen));
    absolute.map_err(|source| CliError::io("finding", &chosen, source))
}

/// What builds plugins.
pub(crate) struct Cargo {
    /// The program, or its name.
    pub(crate) program: OsString,
    /// Where programs are looked for.
    pub(crate) search_path: OsString,
    /// Sources of what it has fetched.
    pub(crate) registry: PathBuf,
}

/// cargo: the one that has started us, else the one on the search path.
#[expect(
    clippy::disallowed_methods,
    reason = "config.rs is where the environment is read"
)]
pub(crate) fn cargo() -> Cargo {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = set("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    Cargo {
        program: set("CARGO").unwrap_or_else(|| "cargo".into()),
        search_path: set("PATH").unwrap_or_default(),
        registry: home.unwrap_or_default().join("registry/src"),
    }
}

/// The name of the user of this session.
pub(crate) fn user() -> Option<String> {
    let user = nix::unistd::User::from_uid(Uid::current()).ok().flatten();
    user.map(|user| user.name)
}

/// Our own executable, for `up --detach`.
pub(crate) fn own_binary() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|source| CliError::Io {
        what: "finding our own executable".into(),
        source,
    })
}
