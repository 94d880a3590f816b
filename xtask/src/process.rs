//! Running commands: shown live, captured with a progress line, or handed the whole process.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a captured command that is silent on a log says that it still runs.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Lines that may wait between the readers and the collector.
const LINES_IN_FLIGHT: usize = 1024;

/// One line on stderr. Progress is best effort: a closed stderr is no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// One line on stdout, which carries results only.
pub(crate) fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("writing to stdout")
}

/// Runs a command with our own stdout redirected to stderr, and fails when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a command silently and gives what it printed; fails with its complaint when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{}`", show(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}", show(command), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What a captured command left behind.
pub(crate) struct Captured {
    pub(crate) success: bool,
    pub(crate) lines: Vec<String>,
    pub(crate) took: Duration,
}

/// Runs a command, collects both of its streams and shows its last line as progress.
pub(crate) fn capture(name: &str, command: &mut Command) -> Result<Captured> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{}`", show(command)))?;
    let (sender, receiver) = mpsc::sync_channel(LINES_IN_FLIGHT);
    let readers = [
        child
            .stdout
            .take()
            .map(|stream| read_lines(stream, sender.clone())),
        child.stderr.take().map(|stream| read_lines(stream, sender)),
    ];
    let mut progress = Progress::new(name);
    let mut lines = Vec::new();
    loop {
        match receiver.recv_timeout(HEARTBEAT) {
            Ok(line) => {
                progress.line(&line);
                lines.push(line);
            }
            Err(RecvTimeoutError::Timeout) => progress.beat(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    let status = child
        .wait()
        .with_context(|| format!("waiting for `{}`", show(command)))?;
    progress.clear();
    Ok(Captured {
        success: status.success(),
        lines,
        took: started.elapsed(),
    })
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            if word.contains(' ') {
                format!("'{word}'")
            } else {
                word.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// `1.2 s`, `3 min 04 s`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

fn read_lines(
    stream: impl Read + Send + 'static,
    lines: SyncSender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut buffer = Vec::new();
        while reader
            .read_until(b'\n', &mut buffer)
            .is_ok_and(|read| read > 0)
        {
            let line = String::from_utf8_lossy(&buffer).trim_end().to_owned();
            buffer.clear();
            if lines.send(line).is_err() {
                return;
            }
        }
    })
}

/// The last line of a running command: rewritten in place on a terminal, every half minute on a log.
struct Progress {
    name: String,
    started: Instant,
    said: Instant,
    last: String,
    terminal: bool,
}

impl Progress {
    fn new(name: &str) -> Self {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Self {
            name: name.to_owned(),
            started: now,
            said: now,
            last: String::new(),
            terminal,
        }
    }

    fn line(&mut self, line: &str) {
        line.trim().clone_into(&mut self.last);
        if self.terminal {
            let took = human(self.started.elapsed());
            let short: String = self.last.chars().take(90).collect();
            let _ = write!(
                std::io::stderr().lock(),
                "\r\x1b[2K  {} · {took} · {short}",
                self.name
            );
        } else if self.said.elapsed() >= HEARTBEAT {
            self.beat();
        }
    }

    fn beat(&mut self) {
        self.said = Instant::now();
        if self.terminal {
            return;
        }
        say(&format!(
            "  … {} for {}: {}",
            self.name,
            human(self.started.elapsed()),
            self.last
        ));
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_are_captured_and_the_exit_code_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let captured = capture("probe", &mut command).unwrap();
        assert!(!captured.success);
        let mut lines = captured.lines;
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("ringwall-no-such-program")).unwrap_err();
        assert!(format!("{error:#}").contains("ringwall-no-such-program"));
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(human(Duration::from_secs(184)), "3 min 04 s");
    }
}
