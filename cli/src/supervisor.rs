//! The supervisor: starts in order, waits for health, restarts what dies, stops in order.
//!
//! Owns: every process of the platform while `up` runs, and `run/state.json`. One event loop; what
//! takes time runs in tasks that report back. Must not: decide what stands in a component's
//! configuration. Read next: `supervisor/units.rs` (what is started), `unit.rs` (one process), `gate.rs`
//! (when is it ready), `restart.rs` (what happens when it dies), `upgrade.rs` (how a proxy is replaced),
//! `stop.rs` (the way down).
//!
//! A component never outlives us: each has a pipe on its standard input and ends when that closes,
//! which happens even when we are killed. PostgreSQL is cleaned up by its pid file.

mod gate;
mod logs;
mod requests;
mod restart;
mod sockets;
mod stop;
mod unit;
mod units;
mod upgrade;
mod words;

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::Instant;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::cgroups::Slice;
use crate::composition::Composition;
use crate::error::CliError;
use crate::interception::{Interception, Pins};
use crate::output::say;
use crate::postgres::Server;
use crate::probe::Prober;
use crate::processes::ProcessId;
use crate::provision::Provisioned;
use crate::provision::rotation::{HOUSEKEEPING, Rotation};
use crate::record::{Condition, Phase, Record};
use crate::signals::{Signals, Wish};
use crate::site::Site;
use crate::state::StateDir;

use requests::Requests;
pub(crate) use requests::{Outcome, Upgrade};
use restart::Restarts;
use unit::{Kind, Running, Unit};
use upgrade::Upgrades;
use words::Words;

/// Events that may wait for the loop; each comes from a task of ours.
const EVENTS_IN_FLIGHT: usize = 64;

/// What the tasks report. A generation tells a process from the one that it replaced.
#[derive(Debug)]
enum Event {
    Exited {
        name: String,
        generation: u32,
        status: ExitStatus,
    },
    Ready {
        name: String,
        generation: u32,
    },
    NotReady {
        name: String,
        generation: u32,
        error: CliError,
    },
    RestartDue {
        name: String,
    },
}

/// What the supervisor is made of.
pub(crate) struct Parts {
    pub(crate) composition: Composition,
    pub(crate) site: Site,
    pub(crate) binaries: std::path::PathBuf,
    /// Ourselves, for processes that are about to become a component.
    pub(crate) launcher: std::path::PathBuf,
    /// Control groups, where they can be made.
    pub(crate) slice: Option<Slice>,
    pub(crate) server: Option<Server>,
    pub(crate) provisioned: Provisioned,
    pub(crate) prober: Prober,
    pub(crate) record: Record,
    pub(crate) restarts: bool,
    /// Where the kernel leads components' calls to their proxies.
    pub(crate) kernel: Option<Interception>,
}

/// The running platform.
pub(crate) struct Supervisor {
    composition: Composition,
    state: StateDir,
    units: Vec<Unit>,
    running: BTreeMap<String, Running>,
    restarts: BTreeMap<String, Restarts>,
    may_restart: bool,
    rotation: Rotation,
    prober: Prober,
    record: Record,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    next_generation: u32,
    upgrades: Upgrades,
    /// Where the agent is told of processes, because no control group tells.
    words: Option<Words>,
    /// Removed after every process has ended, in this order.
    _pins: Option<Pins>,
    _slice: Option<Slice>,
}

impl Supervisor {
    /// Prepares; starts nothing yet. Certificates must have been issued just now.
    pub(crate) fn new(parts: Parts) -> Result<Self, CliError> {
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        // Before sockets are bound in groups that a platform before us may have closed.
        let pins = parts.kernel.as_ref().map(Pins::of);
        let units = units::all(&parts)?;
        let told = parts
            .site
            .spawned_socket()
            .filter(|_| parts.slice.is_none());
        let restarts = units
            .iter()
            .map(|unit| (unit.name.clone(), unit.restarts()))
            .collect();
        Ok(Self {
            words: told.map(Words::new),
            _pins: pins,
            _slice: parts.slice,
            upgrades: Upgrades::default(),
            units,
            running: BTreeMap::new(),
            restarts,
            may_restart: parts.restarts,
            rotation: Rotation::new(parts.provisioned),
            prober: parts.prober,
            record: parts.record,
            composition: parts.composition,
            state: parts.site.state().clone(),
            sender,
            events,
            next_generation: 1,
        })
    }

    /// Starts everything, calls `announce` when all is ready, and returns when the platform has
    /// been stopped: by a signal (`Ok`), or because it could not start.
    pub(crate) async fn run(
        mut self,
        announce: impl FnOnce(&Record) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut signals = Signals::listen()?;
        let mut requests = Requests::listen(&self.state.supervisor_socket())?;
        let outcome = self.watch(&mut signals, &mut requests, announce).await;
        self.record.phase = Phase::Stopping;
        self.write_record();
        self.stop_all(&mut signals).await;
        outcome
    }

    async fn watch(
        &mut self,
        signals: &mut Signals,
        requests: &mut Requests,
        announce: impl FnOnce(&Record) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut announce = Some(announce);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            if self.record.phase == Phase::Starting {
                self.start_due()?;
            }
            if self.all_ready()
                && let Some(announce) = announce.take()
            {
                self.record.phase = Phase::Up;
                self.write_record();
                announce(&self.record)?;
            }
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event)?,
                wish = signals.next() => match wish {
                    Wish::Rotate => self.rotate().await,
                    Wish::Stop if self.record.phase == Phase::Starting => {
                        return Err(CliError::Interrupted);
                    }
                    Wish::Stop => return Ok(()),
                },
                Some(request) = requests.next() => self.begin_upgrade(request),
                _ = housekeeping.tick() => self.keep_house().await,
            }
        }
    }

    /// Starts every component whose needs are ready.
    fn start_due(&mut self) -> Result<(), CliError> {
        let due: Vec<String> = self
            .units
            .iter()
            .filter(|unit| self.condition(&unit.name) == Condition::Waiting)
            .filter(|unit| {
                unit.needs
                    .iter()
                    .all(|need| self.condition(need) == Condition::Ready)
            })
            .map(|unit| unit.name.clone())
            .collect();
        due.iter().try_for_each(|name| self.start(name))
    }

    fn start(&mut self, name: &str) -> Result<(), CliError> {
        let generation = self.next_generation;
        self.next_generation += 1;
        let Some(unit) = self.units.iter().find(|unit| unit.name == name) else {
            return Ok(());
        };
        let running = unit.start(generation, &self.sender)?;
        gate::watch(
            unit,
            &running,
            self.prober.clone(),
            &self.state,
            &self.sender,
        );
        let process = running.process;
        self.tell_agent(name, process);
        self.running.insert(name.to_owned(), running);
        self.note(name, Condition::Starting, Some(process));
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), CliError> {
        let Some(event) = self.on_upgrade(event) else {
            return Ok(());
        };
        match event {
            Event::Ready { name, generation } if self.is_current(&name, generation) => {
                let took = self
                    .running
                    .get(&name)
                    .map_or(0, |running| running.begun.elapsed().as_millis());
                say(&format!("  {name} is ready ({took} ms)"));
                if self.is_agent(&name)
                    && let Some(words) = &self.words
                {
                    words.repeat();
                }
                self.note(&name, Condition::Ready, None);
            }
            Event::NotReady {
                name,
                generation,
                error,
            } if self.is_current(&name, generation) => {
                if self.record.phase == Phase::Starting {
                    return Err(error);
                }
                say(&format!("warning: {error}"));
            }
            Event::Exited {
                name,
                generation,
                status,
            } if self.is_current(&name, generation) => {
                return self.on_exit(&name, status);
            }
            Event::RestartDue { name } => {
                if self.condition(&name) == Condition::Restarting
                    && let Err(error) = self.start(&name)
                {
                    say(&format!("warning: {error}"));
                    self.note(&name, Condition::Failed, None);
                }
            }
            // Of a process that was replaced meanwhile.
            Event::Ready { .. } | Event::NotReady { .. } | Event::Exited { .. } => {}
        }
        Ok(())
    }

    fn on_exit(&mut self, name: &str, status: ExitStatus) -> Result<(), CliError> {
        let Some(running) = self.running.remove(name) else {
            return Ok(());
        };
        if self.record.phase == Phase::Starting {
            return Err(running.died(name, status));
        }
        let due = self
            .restarts
            .get_mut(name)
            .and_then(|restarts| restarts.next(Instant::now()));
        let Some(delay) = due.filter(|_| self.may_restart) else {
            say(&format!(
                "warning: {name} ended ({status}) and stays down: `ringwall logs {name}`"
            ));
            self.note(name, Condition::Failed, None);
            return Ok(());
        };
        say(&format!(
            "warning: {name} ended ({status}), starting it again in {} s",
            delay.as_secs()
        ));
        self.note(name, Condition::Restarting, None);
        let (sender, name) = (self.sender.clone(), name.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            // The loop is gone when the platform stops: then nobody is restarted.
            let _ = sender.send(Event::RestartDue { name }).await;
        });
        Ok(())
    }

    /// Log files that grew, and certificates at half of their life.
    async fn keep_house(&mut self) {
        logs::turn(&self.units, &self.composition.logs);
        self.rotation.renew_token(OffsetDateTime::now_utc());
        if self.rotation.is_due(OffsetDateTime::now_utc()) {
            self.rotate().await;
        }
    }

    /// Issues every certificate again; components see the new files by themselves.
    async fn rotate(&mut self) {
        if !self.rotation.renew(&self.prober).await {
            return;
        }
        for unit in self
            .units
            .iter()
            .filter(|unit| matches!(unit.kind, Kind::Postgres { .. }))
        {
            // The server reads its certificate again on SIGHUP only.
            if let Some(running) = self.running.get(&unit.name) {
                let _ = running.process.signal(nix::sys::signal::Signal::SIGHUP);
            }
        }
    }

    /// Says whose identity the process gets, where the agent cannot see it.
    fn tell_agent(&mut self, name: &str, process: ProcessId) {
        let unit = self.units.iter().find(|unit| unit.name == name);
        let attested = unit.and_then(|unit| match &unit.kind {
            Kind::Binary(binary) => binary.attested.as_deref(),
            Kind::Postgres { .. } => None,
        });
        if let (Some(words), Some(workload)) = (&mut self.words, attested) {
            words.tell(name, process, workload);
        }
    }

    fn is_agent(&self, name: &str) -> bool {
        let mesh = self.composition.mesh.as_ref();
        mesh.is_some_and(|mesh| mesh.agent.value == name)
    }

    fn all_ready(&self) -> bool {
        self.record
            .components
            .iter()
            .all(|component| component.condition == Condition::Ready)
    }

    fn is_current(&self, name: &str, generation: u32) -> bool {
        self.running
            .get(name)
            .is_some_and(|running| running.generation == generation)
    }

    fn condition(&self, name: &str) -> Condition {
        let record = self
            .record
            .components
            .iter()
            .find(|component| component.name == name);
        record.map_or(Condition::Waiting, |component| component.condition)
    }

    /// Writes down what a component does now.
    fn note(&mut self, name: &str, condition: Condition, process: Option<ProcessId>) {
        let restarts = self.restarts.get(name).map_or(0, Restarts::total);
        for component in self
            .record
            .components
            .iter_mut()
            .filter(|known| known.name == name)
        {
            component.condition = condition;
            component.restarts = restarts;
            if let Some(process) = process {
                component.pid = process.pid;
                component.started = process.started;
                component.since = OffsetDateTime::now_utc();
            }
        }
        self.write_record();
    }

    fn write_record(&self) {
        if let Err(error) = self.record.write(&self.state) {
            say(&format!("warning: {error}"));
        }
    }
}
