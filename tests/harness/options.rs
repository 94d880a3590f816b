//! What a run is told from outside: its arguments and the environment, read here and nowhere else.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::stack::Kind;

/// The tag of the images when nobody says another.
const USUAL_TAG: &str = "test";

/// Takes `--stack native|containers` out of the process's arguments and returns the others as they
/// stand, the program's name first.
pub fn stack_and_rest(arguments: impl Iterator<Item = String>) -> Result<(Kind, Vec<String>)> {
    let mut kind = Kind::Native;
    let mut rest = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--stack") {
            Some("") => arguments.next(),
            Some(value) => value.strip_prefix('=').map(str::to_owned),
            None => {
                rest.push(argument);
                continue;
            }
        };
        kind = match value.as_deref() {
            Some("native") => Kind::Native,
            Some("containers") => Kind::Containers,
            other => bail!("--stack is native or containers, not {other:?}"),
        };
    }
    Ok((kind, rest))
}

/// RINGWALL_TAG: which images are tested.
pub fn image_tag() -> String {
    variable("RINGWALL_TAG").unwrap_or_else(|| USUAL_TAG.to_owned())
}

/// RINGWALL_E2E_SEED: repeats the random choices of a run that failed.
pub fn seed() -> Option<u64> {
    variable("RINGWALL_E2E_SEED")?.parse().ok()
}

/// Where screenshots are kept: in the target directory of this build.
pub fn screenshots() -> Option<PathBuf> {
    let executable = std::env::current_exe().ok()?;
    let profile = executable.ancestors().nth(3)?;
    Some(profile.join("e2e-screenshots"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the end-to-end suite that reads the environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
