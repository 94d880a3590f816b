//! Where in a policy file something stands, and messages of the checker with these places.
//!
//! Owns: the way from an entry's number, or a line of a policy's text, to a line of the file. Must not: judge.

use std::collections::BTreeMap;

use ringwall_policy::mesh::FailedExample;
use ringwall_policy::{Fault, PolicyError};
use serde_saphyr::{Location, Spanned};

use crate::config::Source;

/// A line, and a column where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: Option<u64>,
}

/// Places of everything that the checker can find fault with.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    file: String,
    /// First line of each policy's text, and where its value begins.
    texts: BTreeMap<String, (Option<u64>, Place)>,
    dry_run: Vec<Place>,
    pub(super) edges: Vec<Place>,
    pub(super) examples: Vec<Place>,
}

impl From<Location> for Place {
    fn from(at: Location) -> Self {
        Self {
            line: at.line(),
            column: Some(at.column()),
        }
    }
}

impl Place {
    pub(crate) fn shown(self, file: &str) -> String {
        match self.column {
            Some(column) => format!("{file}:{}:{column}", self.line),
            None => format!("{file}:{}", self.line),
        }
    }
}

impl Places {
    pub(super) fn new(
        source: &Source,
        texts: &BTreeMap<String, Spanned<String>>,
        dry_run: &[Spanned<String>],
    ) -> Self {
        let lines: Vec<&str> = source.text.lines().collect();
        let texts = texts.iter().map(|(name, text)| {
            let at = Place::from(text.referenced);
            (name.clone(), (first_line(&lines, at, &text.value), at))
        });
        Self {
            file: source.name.clone(),
            texts: texts.collect(),
            dry_run: dry_run.iter().map(|id| id.referenced.into()).collect(),
            edges: Vec::new(),
            examples: Vec::new(),
        }
    }

    /// The place of a fault; none for what does not stand in the file.
    fn of(&self, fault: &Fault) -> Option<Place> {
        let index = fault.line.saturating_sub(1);
        match fault.file.as_str() {
            "edges" => self.edges.get(index).copied(),
            "examples" => self.examples.get(index).copied(),
            "dry_run" => self.dry_run.get(index).copied(),
            name => {
                let (first, value) = self.texts.get(name)?;
                let line = first.map(|first| first + u64::try_from(index).unwrap_or(0));
                Some(line.map_or(*value, |line| Place { line, column: None }))
            }
        }
    }

    /// One line: the place, and what is wrong there.
    pub(crate) fn fault(&self, fault: &Fault) -> String {
        let Some(place) = self.of(fault) else {
            return format!("{}: {fault}", self.file);
        };
        let place = place.shown(&self.file);
        if self.texts.contains_key(&fault.file) {
            return format!("{place}: {}: {}", fault.file, fault.message);
        }
        format!("{place}: {}", fault.message)
    }

    pub(crate) fn failed(&self, failed: &FailedExample) -> String {
        let place = self.examples.get(failed.number.saturating_sub(1));
        let place = place.map_or_else(|| self.file.clone(), |place| place.shown(&self.file));
        let (name, expected) = (&failed.name, failed.expected.as_str());
        format!(
            "{place}: {name:?} expects {expected}, but {}",
            failed.decided
        )
    }

    /// Everything that is wrong, a line each.
    pub(crate) fn lines(&self, faults: &[Fault], failed: &[FailedExample]) -> Vec<String> {
        let faults = faults.iter().map(|fault| self.fault(fault));
        let failed = failed.iter().map(|failed| self.failed(failed));
        faults.chain(failed).collect()
    }

    /// The same of an error.
    pub(crate) fn error(&self, error: &PolicyError) -> Vec<String> {
        match error {
            PolicyError::Policies(faults) => self.lines(faults, &[]),
            PolicyError::Examples(failed) => self.lines(&[], failed),
            other => vec![format!("{}: {other}", self.file)],
        }
    }
}

/// The line of the file on which the first line of a literal text stands. None for texts whose lines the file breaks in
/// another way (folded or quoted ones of several lines).
fn first_line(lines: &[&str], at: Place, text: &str) -> Option<u64> {
    let first = text.lines().next().unwrap_or_default();
    let ends_so = |line: u64| {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        Some(lines.get(index)?.trim_end().ends_with(first.trim_end()))
    };
    let single = text.trim_end().lines().count() < 2;
    let literal = [at.line, at.line + 1].into_iter().find(|line| {
        let second = text.lines().nth(1).unwrap_or_default();
        let next = usize::try_from(*line).ok().and_then(|next| lines.get(next));
        ends_so(*line) == Some(true)
            && (single || next.is_some_and(|next| next.trim_end().ends_with(second.trim_end())))
    });
    literal.or(single.then_some(at.line))
}
