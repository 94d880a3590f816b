//! What is looked at during a soak: which certificate everybody serves, and how much memory processes have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::tally::Tally;
use super::{Plan, Run};
use crate::stack::{Component, StackInfo};
use crate::{edge, mesh};

/// Looks in the life of a certificate: none is missed.
const LOOKS: u32 = 15;
/// Part of the run after which memory counts: by then every pool and cache is warm.
const WARM: u32 = 10;
/// Certificates that are files: of the operator, of a database's client and server, of the public hosts.
const FILES: [(&str, &str); 4] = [
    ("ringwall", "identity/ringwall/svid.pem"),
    ("orders at postgres", "identity/orders/postgres/client.pem"),
    (POSTGRES, "postgres/tls/server.pem"),
    (PUBLIC, "edge/chain.pem"),
];
/// Servers that are no workloads of the mesh: their certificates live for a minute at least.
const PUBLIC: &str = "public hosts";
const POSTGRES: &str = "postgres";

/// What was seen, by name.
pub(super) struct Watched {
    certificates: BTreeMap<String, BTreeSet<Vec<u8>>>,
    pub(super) memory: BTreeMap<String, Memory>,
    /// The process that each had at first.
    pids: BTreeMap<String, i32>,
    after: BTreeMap<String, i32>,
}

/// Resident memory of a process in KiB: when it was warm, and at the end.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    pub warm_kib: i64,
    pub end_kib: i64,
    pub growth_kib: i64,
}

/// Looks at everything until the end.
pub(super) async fn everything(run: &Run<'_>) -> Result<Watched> {
    let components = processes(run.stack).await?;
    let mut watched = Watched {
        certificates: BTreeMap::new(),
        memory: BTreeMap::new(),
        pids: pids(&components),
        after: BTreeMap::new(),
    };
    let warm = run.plan.length / WARM;
    while !run.is_done() {
        for component in components.iter().filter(|one| one.admin.is_some()) {
            let served = mesh::served(run.stack, component);
            match tokio::time::timeout(Duration::from_secs(5), served).await {
                Ok(Ok(leaf)) => watched.saw(&component.name, leaf),
                Ok(Err(error)) => run.error(format!("{}: {error:#}", component.name)),
                Err(_) => run.error(format!("{}: no handshake within 5 s", component.name)),
            }
        }
        for (name, file) in FILES {
            match std::fs::read(run.stack.state_dir.join(file)) {
                Ok(leaf) => watched.saw(name, leaf),
                Err(error) => run.error(format!("{file}: {error}")),
            }
        }
        // The file is one thing, what the gateway serves another: it must be good.
        if let Err(error) = edge::raw_tls(run.stack, &run.stack.app_host()).await {
            run.error(format!("{PUBLIC}: {error:#}"));
        }
        if watched.memory.is_empty() && run.begun.elapsed() >= warm {
            watched.warm(&components);
        }
        run.pause(run.plan.life / LOOKS).await;
    }
    let after = processes(run.stack).await?;
    watched.end(&after);
    watched.after = pids(&after);
    Ok(watched)
}

impl Watched {
    fn saw(&mut self, name: &str, certificate: Vec<u8>) {
        let seen = self.certificates.entry(name.to_owned()).or_default();
        seen.insert(certificate);
    }

    fn warm(&mut self, components: &[Component]) {
        for component in components {
            let warm_kib = resident_kib(component.pid);
            let memory = Memory {
                warm_kib,
                ..Memory::default()
            };
            self.memory.insert(component.name.clone(), memory);
        }
    }

    fn end(&mut self, components: &[Component]) {
        for component in components {
            if let Some(memory) = self.memory.get_mut(&component.name) {
                memory.end_kib = resident_kib(component.pid);
                memory.growth_kib = memory.end_kib - memory.warm_kib;
            }
        }
    }

    pub(super) fn rotations(&self) -> BTreeMap<String, usize> {
        let counts = self.certificates.iter();
        counts
            .map(|(name, seen)| (name.clone(), seen.len().saturating_sub(1)))
            .collect()
    }

    /// Each must have been replaced at half of its life, give or take a quarter; no process has died.
    pub(super) fn judge(&self, plan: &Plan, tally: &mut Tally) {
        for (name, times) in self.rotations() {
            let is_server = [PUBLIC, POSTGRES].contains(&name.as_str());
            let life = if is_server { plan.edge } else { plan.life };
            let halves = plan.length.as_secs() * 2 / life.as_secs().max(1);
            let least = usize::try_from(halves * 3 / 4).unwrap_or(usize::MAX).max(1);
            if times < least {
                let what = format!("{name}: {times} new certificates, and {least} are due");
                tally.error(plan.length, what);
            }
        }
        for (name, pid) in &self.pids {
            if self.after.get(name) != Some(pid) {
                tally.error(plan.length, format!("{name} was started again"));
            }
        }
    }
}

/// Asks the supervisor, away from the runtime's only thread.
async fn processes(stack: &StackInfo) -> Result<Vec<Component>> {
    let stack = stack.clone();
    tokio::task::spawn_blocking(move || stack.components())
        .await
        .context("asking for the processes")?
}

fn pids(components: &[Component]) -> BTreeMap<String, i32> {
    let pairs = components.iter();
    pairs.map(|one| (one.name.clone(), one.pid)).collect()
}

/// VmRSS (proc(5)); 0 of a process that is gone.
fn resident_kib(pid: i32) -> i64 {
    let file = PathBuf::from(format!("/proc/{pid}/status"));
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default()
}
