//! Replacing the process of a service proxy: a new one on the same sockets, and when that is ready the
//! old one drains. No connection is refused, since both accept from the same queue meanwhile.
//!
//! Owns: the two processes while there are two. A new one that does not get ready is ended, and the old
//! one stays. Must not: replace what holds no sockets; that would be a restart.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use super::requests::{Outcome, Request};
use super::unit::{Kind, Running};
use super::{Event, Supervisor, gate};
use crate::composition::proxy_name;
use crate::output::say;
use crate::record::{Condition, Phase};

/// Processes beside those in `running`.
#[derive(Default)]
pub(super) struct Upgrades {
    /// Not ready yet, by name.
    fresh: BTreeMap<String, (Running, oneshot::Sender<Outcome>)>,
    /// Draining, by generation.
    old: BTreeMap<u32, (Running, Option<oneshot::Sender<Outcome>>)>,
}

impl Upgrades {
    /// Every process that must end when the platform does.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Running> {
        let fresh = self.fresh.values().map(|(running, _)| running);
        fresh.chain(self.old.values().map(|(running, _)| running))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.old.is_empty()
    }

    /// Takes note of an end; true when it was one of these.
    pub(super) fn ended(&mut self, name: &str, generation: u32) -> bool {
        if self.old.remove(&generation).is_some() {
            return true;
        }
        let is_fresh = |fresh: &(Running, _)| fresh.0.generation == generation;
        if self.fresh.get(name).is_some_and(is_fresh) {
            self.fresh.remove(name);
            return true;
        }
        false
    }
}

impl Supervisor {
    /// Starts the new process, or says why not.
    pub(super) fn begin_upgrade(&mut self, request: Request) {
        let refused = |reply: oneshot::Sender<Outcome>, said: String| {
            // Whoever has asked may have gone.
            let _ = reply.send(Outcome { ok: false, said });
        };
        let component = self.composition.component(&request.name);
        let sidecar = component.filter(|one| self.composition.sidecar(one).is_some());
        let name = sidecar.map_or(request.name.clone(), proxy_name);
        let unit = self.units.iter().find(|unit| unit.name == name);
        let replaceable = unit.filter(|unit| match &unit.kind {
            Kind::Binary(binary) => binary.sockets.len() > 0,
            Kind::Postgres { .. } => false,
        });
        let Some(unit) = replaceable else {
            let said = format!("`{}` has no service proxy", request.name);
            return refused(request.reply, said);
        };
        if self.record.phase != Phase::Up || !self.running.contains_key(&name) {
            return refused(request.reply, format!("{name} does not run just now"));
        }
        if self.upgrades.fresh.contains_key(&name) {
            return refused(request.reply, format!("{name} is being replaced already"));
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        match unit.start(generation, &self.sender) {
            Err(error) => refused(request.reply, error.to_string()),
            Ok(running) => {
                gate::watch(
                    unit,
                    &running,
                    self.prober.clone(),
                    &self.state,
                    &self.sender,
                );
                let process = running.process;
                self.upgrades
                    .fresh
                    .insert(name.clone(), (running, request.reply));
                self.tell_agent(&name, process);
            }
        }
    }

    /// Takes the events of processes that replace others or are replaced; gives back all others.
    pub(super) fn on_upgrade(&mut self, event: Event) -> Option<Event> {
        match &event {
            Event::Ready { name, generation } if self.is_fresh(name, *generation) => {
                self.exchange(&name.clone());
                None
            }
            Event::NotReady {
                name,
                generation,
                error,
            } if self.is_fresh(name, *generation) => {
                let (running, reply) = self.upgrades.fresh.remove(name)?;
                let _ = running.process.signal(Signal::SIGTERM);
                let said = format!("the old process goes on: {error}");
                let _ = reply.send(Outcome { ok: false, said });
                self.upgrades.old.insert(*generation, (running, None));
                None
            }
            Event::Exited {
                name,
                generation,
                status,
            } if self.is_fresh(name, *generation) => {
                let (running, reply) = self.upgrades.fresh.remove(name)?;
                let error = running.died(name, *status);
                let said = format!("the old process goes on: {error}");
                let _ = reply.send(Outcome { ok: false, said });
                None
            }
            Event::Exited {
                name, generation, ..
            } if self.upgrades.old.contains_key(generation) => {
                let (_, reply) = self.upgrades.old.remove(generation)?;
                if let Some(reply) = reply {
                    say(&format!("  {name} is replaced"));
                    let said = format!("{name} is replaced, the old process has drained");
                    let _ = reply.send(Outcome { ok: true, said });
                }
                None
            }
            _ => Some(event),
        }
    }

    fn is_fresh(&self, name: &str, generation: u32) -> bool {
        let fresh = self.upgrades.fresh.get(name);
        fresh.is_some_and(|(running, _)| running.generation == generation)
    }

    /// The new process is the component from now on; the old one drains.
    fn exchange(&mut self, name: &str) {
        let Some((running, reply)) = self.upgrades.fresh.remove(name) else {
            return;
        };
        let process = running.process;
        if let Some(old) = self.running.insert(name.to_owned(), running) {
            if let Err(error) = old.process.signal(Signal::SIGTERM) {
                say(&format!("warning: draining the old {name}: {error}"));
            }
            self.upgrades.old.insert(old.generation, (old, Some(reply)));
        }
        self.note(name, Condition::Ready, Some(process));
    }
}
