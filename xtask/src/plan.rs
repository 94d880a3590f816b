//! A plan of steps: each runs, whatever came of the ones before it, and is counted.
//!
//! Owns: how steps run, are shown and are summed. The steps themselves stand in `test.rs` and `lint.rs`.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::{capture, human, say, show};

/// One step of a plan.
pub(crate) struct Step<'a> {
    name: &'static str,
    work: Work<'a>,
}

enum Work<'a> {
    /// A command that counts as one.
    Command(Box<dyn FnOnce() -> Result<Command> + 'a>),
    /// A command whose tests are counted.
    Tests(Box<dyn FnOnce() -> Result<Command> + 'a>),
    /// Our own code, which gives its complaints.
    Check(Box<dyn FnOnce() -> Result<Vec<String>> + 'a>),
}

impl<'a> Step<'a> {
    /// A command that counts as one passed or failed.
    pub(crate) fn command(name: &'static str, make: impl FnOnce() -> Result<Command> + 'a) -> Self {
        Self {
            name,
            work: Work::Command(Box::new(make)),
        }
    }

    /// A check in our own code; complaints fail it.
    pub(crate) fn check(
        name: &'static str,
        check: impl FnOnce() -> Result<Vec<String>> + 'a,
    ) -> Self {
        Self {
            name,
            work: Work::Check(Box::new(check)),
        }
    }

    /// A command whose tests are counted.
    pub(crate) fn tests(name: &'static str, make: impl FnOnce() -> Result<Command> + 'a) -> Self {
        Self {
            name,
            work: Work::Tests(Box::new(make)),
        }
    }
}

/// Steps that ran, with what came of them.
#[derive(Default)]
pub(crate) struct Plan {
    done: Vec<Done>,
}

struct Done {
    name: &'static str,
    passed: u64,
    failed: u64,
    took: Duration,
}

impl Plan {
    /// Runs a step now, shows its output when it fails, and says whether it passed.
    pub(crate) fn step(&mut self, step: Step<'_>) -> bool {
        let started = Instant::now();
        say(&format!("▸ {}", step.name));
        let (passed, failed) = match step.work {
            Work::Check(check) => outcome_of_check(check()),
            Work::Command(make) => outcome_of_command(step.name, make(), false),
            Work::Tests(make) => outcome_of_command(step.name, make(), true),
        };
        let took = started.elapsed();
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        say(&format!("  {} {verdict} in {}", step.name, human(took)));
        self.done.push(Done {
            name: step.name,
            passed,
            failed,
            took,
        });
        failed == 0
    }

    /// Counts a step that could not run as failed.
    pub(crate) fn failed_without_running(&mut self, name: &'static str) {
        say(&format!(
            "▸ {name}\n  {name} FAILED: what it needs did not build"
        ));
        self.done.push(Done {
            name,
            passed: 0,
            failed: 1,
            took: Duration::ZERO,
        });
    }

    /// Prints the table of steps to stderr and gives the exit code.
    pub(crate) fn summary(&self) -> ExitCode {
        let width = self
            .done
            .iter()
            .map(|done| done.name.len())
            .max()
            .unwrap_or(0);
        say(&format!(
            "\n{:<width$}  {:>8}  {:>8}  time",
            "step", "passed", "failed"
        ));
        for done in &self.done {
            let Done {
                name,
                passed,
                failed,
                took,
            } = done;
            say(&format!(
                "{name:<width$}  {passed:>8}  {failed:>8}  {}",
                human(*took)
            ));
        }
        say(&format!("\nslowest: {}", self.slowest(5)));
        if self.totals().1 == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// The steps that took the longest, with their times.
    fn slowest(&self, count: usize) -> String {
        let mut steps: Vec<&Done> = self.done.iter().collect();
        steps.sort_by_key(|done| std::cmp::Reverse(done.took));
        let named = steps.iter().take(count);
        let named: Vec<_> = named
            .map(|done| format!("{} {}", done.name, human(done.took)))
            .collect();
        named.join(", ")
    }

    /// How many have passed and how many have failed.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let sum = |(passed, failed), done: &Done| (passed + done.passed, failed + done.failed);
        self.done.iter().fold((0, 0), sum)
    }
}

fn outcome_of_check(complaints: Result<Vec<String>>) -> (u64, u64) {
    let complaints = complaints.unwrap_or_else(|error| vec![format!("{error:#}")]);
    for complaint in &complaints {
        say(&format!("  {complaint}"));
    }
    if complaints.is_empty() {
        (1, 0)
    } else {
        (0, 1)
    }
}

fn outcome_of_command(name: &str, command: Result<Command>, tests: bool) -> (u64, u64) {
    let captured =
        command.and_then(|mut command| Ok((show(&command), capture(name, &mut command)?)));
    let (shown, captured) = match captured {
        Ok(pair) => pair,
        Err(error) => {
            say(&format!("  {error:#}"));
            return (0, 1);
        }
    };
    if !captured.success {
        for line in &captured.lines {
            say(&format!("  │ {line}"));
        }
        say(&format!(
            "  `{shown}` failed after {}",
            human(captured.took)
        ));
    }
    match (tests, captured.success) {
        (false, true) => (1, 0),
        (false, false) => (0, 1),
        (true, success) => {
            let (passed, failed) = count(&captured.lines);
            // A suite that did not build has no result line, and must not count as nothing.
            (passed, if success { failed } else { failed.max(1) })
        }
    }
}

/// Sums `test result: ok. 3 passed; 0 failed; …` over all lines.
fn count(lines: &[String]) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in lines.iter().filter(|line| line.starts_with("test result:")) {
        sums.0 += number_before(line, " passed");
        sums.1 += number_before(line, " failed");
    }
    sums
}

fn number_before(line: &str, word: &str) -> u64 {
    line.split(word)
        .next()
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_summed() {
        let lines = [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured",
        ]
        .map(str::to_owned);
        assert_eq!(count(&lines), (13, 2));
    }

    #[test]
    fn a_failed_step_does_not_stop_the_next_one() {
        let mut plan = Plan::default();
        assert!(!plan.step(Step::command("no", || Ok(Command::new("false")))));
        assert!(plan.step(Step::command("yes", || Ok(Command::new("true")))));
        assert_eq!(plan.totals(), (1, 1));
    }

    #[test]
    fn a_suite_that_does_not_build_counts_as_failed() {
        let mut plan = Plan::default();
        plan.step(Step::tests("suite", || Ok(Command::new("false"))));
        assert_eq!(plan.totals(), (0, 1));
    }

    #[test]
    fn the_slowest_steps_are_named_the_slowest_first() {
        let done = |name, seconds| Done {
            name,
            passed: 1,
            failed: 0,
            took: Duration::from_secs(seconds),
        };
        let plan = Plan {
            done: vec![done("a", 1), done("b", 3), done("c", 2)],
        };
        assert_eq!(plan.slowest(2), "b 3.0 s, c 2.0 s");
    }

    #[test]
    fn complaints_fail_a_check() {
        let mut plan = Plan::default();
        plan.step(Step::check("layers", || {
            Ok(vec!["gateway depends on orders".into()])
        }));
        assert_eq!(plan.totals(), (0, 1));
    }
}
