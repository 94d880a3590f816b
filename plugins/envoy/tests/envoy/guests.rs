//! Which plugins there are, with their cases and modules. The tests of `plugins/runner` use this file as well, so that both
//! hosts run the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where plugins stand, and what their modules' names have before the folder's.
const FOLDERS: [(&str, &str); 2] = [("plugins/filters", ""), ("plugins/samples", "sample-")];
const TEMPLATE: &str = "plugins/template";
/// Does harm, in every host: it is for `cargo xtask bench plugins`.
const HOSTILE: &str = "hostile";

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
        .filter(|name| name != HOSTILE && !with_cases.contains(name))
        .collect();
    without.sort();
    if without.is_empty() {
        return Ok(());
    }
    Err(format!("modules without cases: {}", without.join(", ")))
}

fn checkout() -> PathBuf {
    // Tests run in their package's folder. Compiled in, it would be that of another checkout with the same outputs.
    PathBuf::from("../..")
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
