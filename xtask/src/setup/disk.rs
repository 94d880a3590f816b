//! Room for a build. Every checkout and every set of flags leaves its own generation of our crates in a shared target
//! directory, a few gigabytes each, and cargo never takes one away.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::config::Config;
use crate::process::{output, run, say};

/// Free bytes that everything in `cargo xtask test` needs: the dev build, the images and what containers write.
const WANTED: u64 = 15_000_000_000;
/// With less, a build ends in the middle.
const NEEDED: u64 = 6_000_000_000;

/// What is done about it.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Enough,
    Tight,
    TooLittle,
}

/// Where there is little left, takes away what our crates were built into; dependencies stay built.
pub(super) fn ensure(config: &Config) -> Result<()> {
    if room(free(config)?) == Room::Enough {
        return Ok(());
    }
    say(
        "setup: the disk is nearly full; taking away earlier builds of this workspace (cargo clean --workspace)",
    );
    let mut clean = Command::new(&config.cargo);
    clean
        .current_dir(&config.root)
        .env("CARGO_TARGET_DIR", &config.target)
        .args(["clean", "--quiet", "--workspace"]);
    if let Some(triple) = config
        .outputs
        .file_name()
        .filter(|_| config.outputs != config.target)
    {
        clean.arg("--target").arg(triple);
    }
    run(&mut clean)?;
    let left = free(config)?;
    if room(left) == Room::TooLittle {
        bail!(
            "{} GB are free where {} is, and a build needs {}: make room, or name another place in CARGO_TARGET_DIR",
            left / 1_000_000_000,
            config.target.display(),
            NEEDED / 1_000_000_000
        );
    }
    Ok(())
}

fn room(free: u64) -> Room {
    match free {
        WANTED.. => Room::Enough,
        NEEDED.. => Room::Tight,
        _ => Room::TooLittle,
    }
}

/// What the file system of the target directory has left for us.
fn free(config: &Config) -> Result<u64> {
    let place = config.target.ancestors().find(|place| place.exists());
    let place = place.context("the target directory has no parent")?;
    let mut df = Command::new("df");
    df.args(["--block-size=1", "--output=avail"]).arg(place);
    let said = output(&mut df)?;
    last_number(&said).with_context(|| format!("df said {said:?}, expected a number of bytes"))
}

fn last_number(said: &str) -> Option<u64> {
    said.lines().last()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{NEEDED, Room, WANTED, last_number, room};

    #[test]
    fn what_df_says_is_read() {
        assert_eq!(
            last_number("       Avail\n 44564480000"),
            Some(44_564_480_000)
        );
        assert_eq!(last_number("Avail\n-"), None);
    }

    #[test]
    fn little_room_is_made_more_and_too_little_is_refused() {
        assert_eq!(room(WANTED), Room::Enough);
        assert_eq!(room(WANTED - 1), Room::Tight);
        assert_eq!(room(NEEDED - 1), Room::TooLittle);
    }
}
