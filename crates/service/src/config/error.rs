//! A configuration error as its reader needs it: where, what was seen, what was expected, the fix.

use std::{fmt, io, path::PathBuf};

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}\n  fix: check the path after --config and the file's permissions", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file breaks YAML or the schema, or a value is impossible.
    #[error("{0}")]
    Wrong(Box<Wrong>),
}

/// One wrong place of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// File, line and column (both from 1), when known.
    pub file: Option<PathBuf>,
    pub line: Option<(u64, u64)>,
    /// Dotted path of the key, when known.
    pub key: Option<String>,
    pub seen: String,
    pub expected: String,
    pub fix: String,
}

impl ConfigError {
    /// A value that the schema allows but the component cannot use. `key` is its dotted path from
    /// the top of the file; the loader adds file and line.
    pub fn invalid(key: &str, seen: &str, expected: &str, fix: &str) -> Self {
        Self::Wrong(Box::new(Wrong {
            file: None,
            line: None,
            key: Some(key.to_owned()),
            seen: seen.to_owned(),
            expected: expected.to_owned(),
            fix: fix.to_owned(),
        }))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if let Some((line, column)) = self.line {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() || self.line.is_some() {
            f.write_str(" ")?;
        }
        f.write_str("the configuration is not valid")?;
        if let Some(key) = &self.key {
            write!(f, "\n  key:      {key}")?;
        }
        write!(f, "\n  seen:     {}", self.seen)?;
        write!(f, "\n  expected: {}", self.expected)?;
        write!(f, "\n  fix:      {}", self.fix)
    }
}
