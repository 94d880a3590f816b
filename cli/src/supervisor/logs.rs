//! Log files are turned by size. The writers keep the file open in append mode, so the content is
//! copied and the file emptied: lines written in between may be lost, a component is never blocked.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::unit::Unit;
use crate::composition::Logs;
use crate::output::say;

/// Turns every file that is too large.
pub(super) fn turn(units: &[Unit], rules: &Logs) {
    let limit = rules.turn_at_mib.saturating_mul(1024 * 1024);
    for unit in units {
        let large = fs::metadata(&unit.log).is_ok_and(|meta| meta.len() > limit);
        if large && let Err(error) = turn_one(&unit.log, rules.keep) {
            say(&format!("warning: turning {}: {error}", unit.log.display()));
        }
    }
}

/// `x.log` → `x.log.1` → `x.log.2` …; the oldest goes.
fn turn_one(log: &Path, keep: u32) -> io::Result<()> {
    for number in (1..keep).rev() {
        match fs::rename(numbered(log, number), numbered(log, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if keep > 0 {
        fs::copy(log, numbered(log, 1))?;
    }
    OpenOptions::new().write(true).open(log)?.set_len(0)
}

fn numbered(log: &Path, number: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_the_file_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        for content in ["one", "two", "three", "four"] {
            fs::write(&log, content).unwrap();
            turn_one(&log, 2).unwrap();
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "");
        assert_eq!(fs::read_to_string(numbered(&log, 1)).unwrap(), "four");
        assert_eq!(fs::read_to_string(numbered(&log, 2)).unwrap(), "three");
        assert!(!numbered(&log, 3).exists());
    }
}
