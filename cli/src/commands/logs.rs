//! `ringwall logs`: the end of every component's log, or of one, and what follows.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::StateArgs;
use crate::error::CliError;
use crate::files;
use crate::output::print;
use crate::state::StateDir;

/// Time between two looks at growing files.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Args, Clone, Debug)]
pub(super) struct LogsArgs {
    /// Only this component's
    component: Option<String>,
    #[command(flatten)]
    state: StateArgs,
    /// Go on with what is printed from now on
    #[arg(long, short)]
    follow: bool,
    /// Lines from the end
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    lines: usize,
}

/// Prints the logs.
pub(super) fn run(args: &LogsArgs) -> Result<ExitCode, CliError> {
    let state = args.state.open()?;
    let files = files_of(&state, args.component.as_deref())?;
    let many = files.len() > 1;
    let mut offsets = BTreeMap::new();
    for (name, path) in &files {
        offsets.insert(name.clone(), length(path));
        for line in files::last_lines(path, args.lines) {
            show(name, &line, many)?;
        }
    }
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        std::thread::sleep(PAUSE);
        for (name, path) in &files {
            let offset = offsets.entry(name.clone()).or_insert(0);
            for line in grown(path, offset) {
                show(name, &line, many)?;
            }
        }
    }
}

/// The log files by component.
fn files_of(
    state: &StateDir,
    component: Option<&str>,
) -> Result<BTreeMap<String, PathBuf>, CliError> {
    let entries = fs::read_dir(state.logs()).into_iter().flatten().flatten();
    let all: BTreeMap<String, PathBuf> = entries
        .filter_map(|entry| {
            let name = entry
                .file_name()
                .to_string_lossy()
                .strip_suffix(".log")?
                .to_owned();
            Some((name, entry.path()))
        })
        .collect();
    if all.is_empty() {
        return Err(CliError::NotRunning(state.root().to_path_buf()));
    }
    let Some(wanted) = component else {
        return Ok(all);
    };
    let names = all.keys().cloned().collect::<Vec<_>>().join(", ");
    let found = all
        .into_iter()
        .filter(|(name, _)| name == wanted)
        .collect::<BTreeMap<_, _>>();
    if found.is_empty() {
        return Err(CliError::State {
            what: format!("there is no log of `{wanted}`"),
            fix: format!("name one of {names}"),
        });
    }
    Ok(found)
}

fn show(name: &str, line: &str, many: bool) -> Result<(), CliError> {
    if many {
        print(&format!("{name:<13} │ {line}"))
    } else {
        print(line)
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Whole lines that were added after `offset`, which moves on. A file that was turned begins anew.
fn grown(path: &Path, offset: &mut u64) -> Vec<String> {
    let length = length(path);
    if length < *offset {
        *offset = 0;
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(*offset))?;
        file.take(length - *offset).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    bytes.truncate(whole);
    *offset += bytes.len() as u64;
    String::from_utf8_lossy(&bytes)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_new_lines_are_shown_and_a_turned_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut offset = 0;
        fs::write(&path, "one\ntwo\nthr").unwrap();
        assert_eq!(grown(&path, &mut offset), ["one", "two"]);
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(grown(&path, &mut offset), ["three"]);
        fs::write(&path, "new\n").unwrap();
        assert_eq!(grown(&path, &mut offset), ["new"]);
    }
}
