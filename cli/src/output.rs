//! What people see: progress on stderr, results on stdout.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::error::CliError;

/// How a command prints its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object
    Json,
}

/// One line on stderr. Best effort: a closed stderr is no reason to stop a platform.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Text on stdout.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|source| CliError::Io {
            what: "writing to stdout".into(),
            source,
        })
}

/// A table with left-aligned columns, two spaces apart.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// `3 s`, `12 min`, `5 h`, `2 d`.
pub(crate) fn ago(seconds: i64) -> String {
    match seconds.max(0) {
        short @ 0..120 => format!("{short} s"),
        minutes @ 120..7200 => format!("{} min", minutes / 60),
        hours @ 7200..172_800 => format!("{} h", hours / 3600),
        days => format!("{} d", days / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["orders".to_owned(), "127.0.0.1:7105".to_owned()]];
        assert_eq!(
            table(["component", "address"], &rows),
            "component  address\norders     127.0.0.1:7105"
        );
    }

    #[test]
    fn times_are_short() {
        assert_eq!(
            [ago(3), ago(130), ago(7300), ago(200_000)],
            ["3 s", "2 min", "2 h", "2 d"]
        );
    }
}
