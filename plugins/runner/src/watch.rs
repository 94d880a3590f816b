//! What a plugin does while a case runs: its host calls, its time, its memory, its log.

use parking_lot::Mutex;
use ringwall_plugin_host::{Callback, LogLevel, Observer};

use crate::report::Measured;

/// Lines of a log that are kept; a plugin that says more has said enough.
const MAX_LINES: usize = 10_000;

#[derive(Default)]
pub(crate) struct Watch(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    measured: Measured,
    log: Vec<String>,
    /// A refusal within the host call that runs.
    is_refused: bool,
}

impl Watch {
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.lock().log.clone()
    }

    pub(crate) fn failed(&self, failure: Option<String>) {
        self.0.lock().measured.failures.extend(failure);
    }

    pub(crate) fn measured(&self) -> Measured {
        self.0.lock().measured.clone()
    }
}

impl Observer for Watch {
    fn hostcall(&self, _: &str, name: &'static str, _: Option<u32>) {
        let mut seen = self.0.lock();
        let is_refused = std::mem::take(&mut seen.is_refused);
        let calls = seen.measured.host_calls.entry(name).or_default();
        calls.count += 1;
        calls.refused += u64::from(is_refused);
    }

    fn refused(&self, _: &str, what: &str) {
        let mut seen = self.0.lock();
        seen.is_refused = true;
        *seen.measured.refusals.entry(what.to_owned()).or_default() += 1;
    }

    fn callback(&self, _: &str, callback: &Callback) {
        let mut seen = self.0.lock();
        let measured = &mut seen.measured;
        measured.callbacks += 1;
        measured.processor_time += callback.used;
        measured.longest_callback = measured.longest_callback.max(callback.used);
        measured.memory = measured.memory.max(callback.memory);
    }

    fn log(&self, _: &str, _: LogLevel, line: &str) {
        let mut seen = self.0.lock();
        if seen.log.len() < MAX_LINES {
            seen.log.push(line.to_owned());
        }
    }
}
