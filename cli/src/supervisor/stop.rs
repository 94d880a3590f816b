//! The way down: a component is asked to end when nobody who needs it runs any more. The collector
//! of spans goes after the senders, so that the last ones arrive.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::unit::Kind;
use super::{Event, Supervisor};
use crate::output::say;
use crate::record::Condition;
use crate::signals::{Signals, Wish};

/// Time beyond the drain before a component is killed.
const GRACE: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Ends everything in reverse order of need. A second signal kills at once.
    pub(super) async fn stop_all(&mut self, signals: &mut Signals) {
        if !self.running.is_empty() {
            say("stopping");
        }
        let mut deadlines: BTreeMap<String, Instant> = BTreeMap::new();
        for running in self.upgrades.processes() {
            let _ = running.process.signal(Signal::SIGTERM);
        }
        while !self.running.is_empty() || !self.upgrades.is_empty() {
            for name in self.stoppable() {
                if let Entry::Vacant(entry) = deadlines.entry(name) {
                    self.ask_to_end(entry.key());
                    entry.insert(Instant::now() + self.composition.drain + GRACE);
                }
            }
            let longest = self.composition.drain + GRACE;
            let next = deadlines
                .values()
                .min()
                .copied()
                .unwrap_or_else(|| Instant::now() + longest);
            tokio::select! {
                Some(event) = self.events.recv() => {
                    if let Event::Exited { name, generation, .. } = event
                        && !self.upgrades.ended(&name, generation)
                        && self.is_current(&name, generation)
                    {
                        self.running.remove(&name);
                        deadlines.remove(&name);
                        self.note(&name, Condition::Stopped, None);
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {
                    self.kill_overdue(&mut deadlines);
                }
                wish = signals.next() => {
                    if wish == Wish::Stop {
                        say("stopping at once");
                        self.kill_all();
                    }
                }
            }
        }
        // What is not written down cannot be mistaken for a running platform.
        if let Err(error) = std::fs::remove_file(self.state.record()) {
            say(&format!(
                "warning: removing {}: {error}",
                self.state.record().display()
            ));
        }
    }

    /// Running components that no other running one needs.
    fn stoppable(&self) -> Vec<String> {
        let running = || {
            self.units
                .iter()
                .filter(|unit| self.running.contains_key(&unit.name))
        };
        let collector = self
            .composition
            .telemetry
            .as_ref()
            .map(|sink| sink.collector.value.as_str());
        let spared = collector
            .map(|name| self.closure_of_needs(name))
            .unwrap_or_default();
        let needed = |name: &String| {
            let takes_spans = collector == Some(name.as_str());
            running().any(|unit| {
                let sends_spans = takes_spans && !spared.contains(unit.name.as_str());
                unit.needs.contains(name) || sends_spans
            })
        };
        self.running
            .keys()
            .filter(|name| !needed(name))
            .cloned()
            .collect()
    }

    /// The component and everything that it needs: these must not be waited for by it.
    fn closure_of_needs<'a>(&'a self, name: &'a str) -> BTreeSet<&'a str> {
        let mut closure = BTreeSet::from([name]);
        loop {
            let before = closure.len();
            for unit in &self.units {
                if closure.contains(unit.name.as_str()) {
                    closure.extend(unit.needs.iter().map(String::as_str));
                }
            }
            if closure.len() == before {
                return closure;
            }
        }
    }

    fn ask_to_end(&self, name: &str) {
        let database = self
            .units
            .iter()
            .any(|unit| unit.name == name && matches!(unit.kind, Kind::Postgres { .. }));
        // For PostgreSQL, SIGTERM waits for clients for ever and SIGINT is the fast shutdown.
        self.send(
            name,
            if database {
                Signal::SIGINT
            } else {
                Signal::SIGTERM
            },
        );
    }

    fn kill_overdue(&self, deadlines: &mut BTreeMap<String, Instant>) {
        let now = Instant::now();
        for (name, deadline) in deadlines
            .iter_mut()
            .filter(|(_, deadline)| **deadline <= now)
        {
            say(&format!("warning: {name} does not end by itself: killed"));
            self.send(name, Signal::SIGKILL);
            *deadline = now + GRACE;
        }
    }

    fn kill_all(&self) {
        for running in self.upgrades.processes() {
            let _ = running.process.signal(Signal::SIGKILL);
        }
        for name in self.running.keys() {
            self.send(name, Signal::SIGKILL);
        }
    }

    fn send(&self, name: &str, signal: Signal) {
        if let Some(running) = self.running.get(name)
            && let Err(error) = running.process.signal(signal)
        {
            say(&format!("warning: stopping {name}: {error}"));
        }
    }
}
