//! Decisions that one worker remembers.
//!
//! Owns: the key, which is everything that determines a decision, written out and compared byte by byte: a collision
//! would be a hole. Bounded in two generations, so that what is asked for often stays. Must not: decide.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ringwall_policy::mesh::{MeshDecision, MeshOutcome, MeshPolicy, MeshRequest};

use crate::control::{Counter, Usage};

/// Decisions of one generation; two are kept.
const MAX_DECISIONS: usize = 2048;
/// Longer keys (long paths, many header values) are decided anew each time.
const MAX_KEY: usize = 1024;

/// A decision, and what has to be done for each use of it.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// For the log: the policies that decided, or why none did.
    pub(crate) reason: Arc<str>,
    /// What policies in dry run would have said instead, and which.
    pub(crate) dry_run: Option<(bool, Arc<str>)>,
    decided: Vec<Arc<Counter>>,
    tried: Vec<Arc<Counter>>,
}

type Generation = HashMap<Box<[u8]>, Arc<Verdict>, RandomState>;

/// Decisions of one policy version.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    policy: Option<Arc<MeshPolicy>>,
    young: Generation,
    old: Generation,
    key: Vec<u8>,
}

impl Verdict {
    fn of(decision: &MeshDecision, usage: &Usage) -> Self {
        let counters = |names: &[String]| {
            let found = names.iter().filter_map(|name| usage.counter(name));
            found.collect()
        };
        let reason = match (decision.outcome, decision.errors.is_empty()) {
            (MeshOutcome::NoEdge, _) => "no edge".to_owned(),
            (MeshOutcome::NoPermit, _) => "no policy permits".to_owned(),
            (_, true) => decision.reasons.join(", "),
            (_, false) => decision.errors.join(", "),
        };
        Self {
            allowed: decision.allowed,
            reason: reason.into(),
            dry_run: decision
                .dry_run
                .map(|allowed| (allowed, decision.dry_run_reasons.join(", ").into())),
            decided: counters(&decision.reasons),
            tried: counters(&decision.dry_run_reasons),
        }
    }

    /// Counts one request that this verdict was for.
    pub(crate) fn used(&self) {
        for counter in &self.decided {
            counter.decided(self.allowed);
        }
        for counter in &self.tried {
            counter.tried();
        }
    }
}

impl Decisions {
    /// The verdict of `policy` on `request`; counted in `usage`.
    pub(crate) fn decide(
        &mut self,
        policy: &Arc<MeshPolicy>,
        request: &MeshRequest<'_>,
        usage: &Usage,
    ) -> Arc<Verdict> {
        let verdict = self.verdict(policy, request, usage);
        verdict.used();
        verdict
    }

    /// The same, counted nowhere: of a request that was counted before.
    pub(crate) fn verdict(
        &mut self,
        policy: &Arc<MeshPolicy>,
        request: &MeshRequest<'_>,
        usage: &Usage,
    ) -> Arc<Verdict> {
        if !self
            .policy
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, policy))
        {
            *self = Self {
                policy: Some(Arc::clone(policy)),
                key: std::mem::take(&mut self.key),
                ..Self::default()
            };
        }
        write_key(&mut self.key, policy, request);
        match self.find() {
            Some(known) => known,
            None => {
                let made = Arc::new(Verdict::of(&policy.decide(request), usage));
                self.remember(&made);
                made
            }
        }
    }

    fn find(&mut self) -> Option<Arc<Verdict>> {
        if let Some(known) = self.young.get(self.key.as_slice()) {
            return Some(Arc::clone(known));
        }
        let known = self.old.get(self.key.as_slice()).map(Arc::clone)?;
        self.remember(&known);
        Some(known)
    }

    fn remember(&mut self, verdict: &Arc<Verdict>) {
        if self.key.len() > MAX_KEY {
            return;
        }
        if self.young.len() >= MAX_DECISIONS {
            self.old = std::mem::take(&mut self.young);
        }
        let key = self.key.as_slice().into();
        self.young.insert(key, Arc::clone(verdict));
    }
}

/// Everything that the policies read; each part with its length, so that no two requests share a key.
fn write_key(key: &mut Vec<u8>, policy: &MeshPolicy, request: &MeshRequest<'_>) {
    let reads = policy.reads();
    key.clear();
    let mut part = |bytes: &[u8]| {
        key.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        key.extend_from_slice(bytes);
    };
    part(request.caller.as_str().as_bytes());
    part(&request.port.to_le_bytes());
    part(request.method.as_bytes());
    if reads.path {
        part(request.path.as_bytes());
    }
    for name in &reads.headers {
        let values = request.headers.get_all(name);
        part(&values.iter().count().to_le_bytes());
        values.iter().for_each(|value| part(value.as_bytes()));
    }
    if reads.user
        && let Some(user) = request.user
    {
        part(user.sub.as_bytes());
        part(user.client.as_bytes());
        for list in [&user.roles, &user.scopes] {
            part(&list.len().to_le_bytes());
            list.iter().for_each(|text| part(text.as_bytes()));
        }
    }
}
