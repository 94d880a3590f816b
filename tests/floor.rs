//! The platforms that a run's scenarios are played on.
//!
//! Owns: how many are started, and who plays where. Must not: know a scenario's story.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use e2e::stack::{Kind, Stack, StackInfo};
use libtest_mimic::Failed;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::scenarios::{Company, Scenario};

/// Platforms in containers for scenarios that are alone on theirs. The health checks of one platform alone take a fifth of
/// two cores: with two of these beside the shared one, answers come seconds late.
const SPARES: usize = 1;
/// Fewer of these are played one after the other, on the shared platform.
const FEW: usize = 3;

/// Others that are played in the time of one of these.
const BETWEEN: usize = 16;

/// Everything that was started for the run.
pub(crate) struct Floor {
    kind: Kind,
    stacks: Vec<Stack>,
    shared: Option<Arc<StackInfo>>,
    /// Readers share the platform, a writer is alone on it.
    gate: RwLock<()>,
    /// Platforms for one scenario at a time; none when the shared one serves these too.
    spares: Option<Spares>,
    complaints: Mutex<Vec<String>>,
}

/// A pool whose members are lent to one scenario each.
struct Spares {
    free: Mutex<Vec<Arc<StackInfo>>>,
    returned: Condvar,
}

impl Floor {
    /// Starts what the chosen scenarios need, all at the same time.
    pub(crate) fn start(kind: Kind, chosen: &[Scenario]) -> Result<Self> {
        let alone = |scenario: &&Scenario| matches!(scenario.company, Company::Alone);
        let apart = kind == Kind::Containers && chosen.iter().filter(alone).count() > FEW;
        let spares = if apart { SPARES } else { 0 };
        let shared: BTreeSet<&str> = chosen
            .iter()
            .filter(|scenario| match scenario.company {
                Company::Others => true,
                Company::Alone => !apart,
                Company::OwnStack | Company::Userspace | Company::Shielded => false,
            })
            .flat_map(|scenario| scenario.needs.iter().copied())
            .collect();
        let for_one: BTreeSet<&str> = chosen
            .iter()
            .filter(alone)
            .flat_map(|scenario| scenario.needs.iter().copied())
            .collect();
        let has_shared = !shared.is_empty();
        let mut wanted = vec![for_one; spares];
        if has_shared {
            wanted.insert(0, shared);
        }
        let stacks = start_all(kind, wanted)?;
        let mut infos: Vec<_> = stacks
            .iter()
            .map(|stack| Arc::new(stack.info.clone()))
            .collect();
        Ok(Self {
            kind,
            shared: has_shared.then(|| infos.remove(0)),
            spares: apart.then(|| Spares {
                free: Mutex::new(infos),
                returned: Condvar::new(),
            }),
            gate: RwLock::new(()),
            stacks,
            complaints: Mutex::default(),
        })
    }

    /// Remembers why a scenario failed, without the logs that come with it.
    pub(crate) fn note(&self, scenario: &str, failed: &Failed) {
        let why = failed.message().and_then(|report| report.lines().next());
        let complaint = format!("{scenario}: {}", why.unwrap_or("no reason"));
        self.complaints.lock().push(complaint);
    }

    /// Those that have a platform to themselves take long: others are played between them meanwhile.
    pub(crate) fn order(&self, chosen: Vec<Scenario>) -> Vec<Scenario> {
        if self.spares.is_none() {
            return chosen;
        }
        let (mut alone, mut others): (Vec<_>, Vec<_>) = chosen
            .into_iter()
            .partition(|scenario| matches!(scenario.company, Company::Alone));
        let mut order = Vec::new();
        while !alone.is_empty() || !others.is_empty() {
            order.extend(alone.drain(..SPARES.min(alone.len())));
            order.extend(others.drain(..BETWEEN.min(others.len())));
        }
        order
    }

    /// Threads that the run wants: one for each spare, whose scenarios mostly wait, and the usual two.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.spares.as_ref().map(|_| SPARES + 2)
    }

    /// Plays beside others.
    pub(crate) fn with_company(
        &self,
        play: impl FnOnce(Arc<StackInfo>) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let _others = self.gate.read();
        play(self.shared()?)
    }

    /// Plays with a platform to itself, which it leaves as it was.
    pub(crate) fn alone(
        &self,
        play: impl FnOnce(Arc<StackInfo>) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let Some(spares) = &self.spares else {
            let _alone = self.gate.write();
            return play(self.shared()?);
        };
        let stack = spares.take();
        let outcome = play(Arc::clone(&stack));
        spares.give_back(stack);
        outcome
    }

    /// Plays on a platform that nobody plays on afterwards.
    pub(crate) fn on_a_fresh_one(
        &self,
        needs: &[&str],
        play: impl FnOnce(Arc<StackInfo>) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let stack = Stack::start(self.kind, needs).map_err(failed)?;
        let outcome = play(Arc::new(stack.info.clone()));
        outcome.and(stack.stop().map_err(failed))
    }

    /// The native platform without the kernel's part, for one scenario.
    pub(crate) fn in_userspace(
        play: impl FnOnce(Arc<StackInfo>) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let stack = Stack::in_userspace().map_err(failed)?;
        let outcome = play(Arc::new(stack.info.clone()));
        outcome.and(stack.stop().map_err(failed))
    }

    /// The native platform with the edge shield before it, for one scenario.
    pub(crate) fn behind_a_shield(
        play: impl FnOnce(Arc<StackInfo>) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let stack = Stack::behind_a_shield().map_err(failed)?;
        let outcome = play(Arc::new(stack.info.clone()));
        outcome.and(stack.stop().map_err(failed))
    }

    /// Stops everything; after a failure the states are kept for a look.
    pub(crate) fn stop(self, has_failed: bool) -> Result<()> {
        // Once more, where nobody has to look for them between the logs.
        for complaint in self.complaints.into_inner() {
            eprintln!("failed: {complaint}");
        }
        let stopping = self.stacks.into_iter().map(|mut stack| {
            if has_failed {
                let kept = stack.keep_state().display().to_string();
                eprintln!("a platform's state is kept in {kept}");
            }
            thread::spawn(move || stack.stop())
        });
        // All are asked before the first is waited for.
        let stopping: Vec<_> = stopping.collect();
        stopping.into_iter().try_for_each(joined)
    }

    fn shared(&self) -> Result<Arc<StackInfo>, Failed> {
        let shared = self.shared.clone();
        shared.ok_or_else(|| Failed::from("the shared platform was not started"))
    }
}

impl Spares {
    fn take(&self) -> Arc<StackInfo> {
        let mut free = self.free.lock();
        loop {
            if let Some(stack) = free.pop() {
                return stack;
            }
            self.returned.wait(&mut free);
        }
    }

    fn give_back(&self, stack: Arc<StackInfo>) {
        self.free.lock().push(stack);
        self.returned.notify_one();
    }
}

fn start_all(kind: Kind, wanted: Vec<BTreeSet<&str>>) -> Result<Vec<Stack>> {
    eprintln!("starting {} platform(s) under test", wanted.len());
    thread::scope(|scope| {
        let starting = wanted.into_iter().map(|needs| {
            let needs: Vec<&str> = needs.into_iter().collect();
            scope.spawn(move || Stack::start(kind, &needs))
        });
        let starting: Vec<_> = starting.collect();
        let started = starting.into_iter().map(|one| {
            let outcome = one.join().ok();
            outcome.context("the start of a platform panicked")?
        });
        // One that failed drops the others, which stops them.
        started.collect()
    })
}

fn joined(thread: thread::JoinHandle<Result<()>>) -> Result<()> {
    let outcome = thread.join().ok();
    outcome.context("the end of a platform panicked")?
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}
