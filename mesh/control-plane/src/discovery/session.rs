//! One configuration stream as a state machine: views and answers in, messages out.
//!
//! Owns: what a proxy is known to have, and what it is sent next. Must not: do I/O, know time, or queue anything.
//!
//! At most one message is under way. While it is, changes only make the next one newer: a slow proxy skips states and
//! ends at the newest. A resource that a proxy refuses is held back in that revision, and the proxy keeps what it had of
//! it, until there is another one. It may have taken over the rest of that message or not: the rest is sent again.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringwall_mesh_api::v1;

use super::world::{ENDPOINTS_PREFIX, Item, POLICY, Since, View, version_of};

/// A revision that no resource has: what the proxy has of a resource is not known.
const UNSURE: u64 = 0;

/// Names and revisions, ordered by name.
type Known = BTreeMap<Arc<str>, u64>;

/// The sender's side of one stream.
#[derive(Debug)]
pub(crate) struct Session {
    /// What the proxy has, as far as we know.
    known: Known,
    /// Whether that is all that it has.
    whole: bool,
    /// The revision that it has said, at first by its Hello.
    at: u64,
    /// Every stream begins with a message, even an empty one: it says that we are there.
    greeted: bool,
    /// What it had before we met is of another life.
    foreign: bool,
    flight: Option<Flight>,
    nonce: u64,
    /// Refused resources, in the revision in which they were.
    held: Known,
    /// Whether it was not said which of them is at fault: then a change of one gives all of them another chance.
    held_together: bool,
    /// Version of the policy that the proxy has applied.
    policy: u64,
    /// Revision of the view for which there was nothing more to say, and whether the world was settled.
    said: Option<(u64, bool)>,
}

/// The message that waits for its answer.
#[derive(Debug)]
struct Flight {
    nonce: u64,
    revision: u64,
    snapshot: bool,
    changed: Vec<(Arc<str>, u64)>,
    removed: Vec<Arc<str>>,
    /// Whether the proxy has everything once it has this.
    completes: bool,
    policy: Option<u64>,
}

/// What an answer meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The message was applied.
    Applied { policy: Option<u64> },
    /// It was not; these resources are held back.
    Refused {
        held: Vec<Arc<str>>,
        policy: Option<u64>,
    },
    /// It concerns an earlier message.
    Stale,
}

/// The proxy does not speak the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    #[error("the nonce is one that was never sent")]
    Nonce,
    #[error("a message without content was refused")]
    NothingToRefuse,
}

impl Session {
    /// A stream whose proxy says it has the state `since`, of a workload that sees `view`.
    pub(crate) fn new(since: Since, view: &View) -> Self {
        let mut session = Self {
            known: Known::new(),
            whole: false,
            at: 0,
            greeted: false,
            foreign: since == Since::Unknown,
            flight: None,
            nonce: 0,
            held: Known::new(),
            held_together: false,
            policy: 0,
            said: None,
        };
        if let Since::Revision(since) = since {
            session.whole = true;
            session.at = since;
            for item in &view.items {
                let has_newest = item.revision <= since;
                let revision = if has_newest { item.revision } else { UNSURE };
                session.known.insert(Arc::clone(&item.name), revision);
                if has_newest && &*item.name == POLICY {
                    session.policy = version_of(item);
                }
            }
        }
        session
    }

    /// Whether a message waits for its answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.flight.is_some()
    }

    /// Version of the policy that the proxy has applied, 0 for none that we know of.
    pub(crate) fn policy(&self) -> u64 {
        self.policy
    }

    /// The next message, when there is something to say and nothing under way.
    ///
    /// `settled` is false while proxies may still be on their way back after a start: until then, a proxy that has
    /// endpoints from before is not told that there are none.
    pub(crate) fn offer(&mut self, view: &View, settled: bool) -> Option<v1::ConfigMessage> {
        if self.flight.is_some() || self.said == Some((view.revision, settled)) {
            return None;
        }
        self.release(view);
        let spare = self.foreign && !self.whole && !settled;
        // A snapshot without what was refused would take away what the proxy has of it: it waits until there is another
        // revision of that, and what is good is amended meanwhile.
        let snapshot = !self.whole && !spare && self.held.is_empty();
        let wanted = |item: &&Arc<Item>| {
            let spared = spare && item.name.starts_with(ENDPOINTS_PREFIX);
            let held = self.held.get(&item.name) == Some(&item.revision);
            let known = !snapshot && self.known.get(&item.name) == Some(&item.revision);
            !spared && !held && !known
        };
        let changed: Vec<&Arc<Item>> = view.items.iter().filter(wanted).collect();
        let gone = self
            .known
            .keys()
            .filter(|name| view.revision_of(name).is_none());
        let removed: Vec<Arc<str>> = match snapshot {
            true => Vec::new(),
            false => gone.cloned().collect(),
        };
        if changed.is_empty() && removed.is_empty() && !snapshot && self.greeted {
            self.said = Some((view.revision, settled));
            return None;
        }
        let completes = snapshot || self.whole;
        // With something missing it is not that state: who comes back from it gets everything.
        let revision = match completes && self.held.is_empty() {
            true => view.revision,
            false => view.revision + 1,
        };
        let policy = changed.iter().find(|item| &*item.name == POLICY);
        self.nonce += 1;
        let message = v1::ConfigMessage {
            nonce: self.nonce,
            revision,
            snapshot,
            changed: changed.iter().map(|item| item.resource.clone()).collect(),
            removed: removed.iter().map(ToString::to_string).collect(),
            base: if snapshot { 0 } else { self.at },
        };
        self.greeted = true;
        let names = changed.iter();
        self.flight = Some(Flight {
            nonce: self.nonce,
            revision,
            snapshot,
            policy: policy.map(|item| version_of(item)),
            changed: names
                .map(|item| (Arc::clone(&item.name), item.revision))
                .collect(),
            removed,
            completes,
        });
        Some(message)
    }

    /// What was refused in one revision may be good in the next one.
    fn release(&mut self, view: &View) {
        let before = self.held.len();
        self.held
            .retain(|name, revision| view.revision_of(name) == Some(*revision));
        if self.held_together && self.held.len() < before {
            self.held.clear();
        }
        self.held_together &= !self.held.is_empty();
    }

    /// The proxy has applied the message.
    pub(crate) fn ack(&mut self, nonce: u64) -> Result<Answer, Breach> {
        let Some(flight) = self.take(nonce)? else {
            return Ok(Answer::Stale);
        };
        self.at = flight.revision;
        if flight.snapshot {
            self.known.clear();
        }
        for name in &flight.removed {
            self.known.remove(name);
        }
        self.known.extend(flight.changed);
        self.whole |= flight.completes;
        if let Some(version) = flight.policy {
            self.policy = version;
        }
        Ok(Answer::Applied {
            policy: flight.policy,
        })
    }

    /// The proxy refuses the message because of `resource`; of all of it, when it names none of the message.
    pub(crate) fn nack(&mut self, nonce: u64, resource: &str) -> Result<Answer, Breach> {
        let Some(flight) = self.take(nonce)? else {
            return Ok(Answer::Stale);
        };
        let named = flight.changed.iter().any(|(name, _)| &**name == resource);
        if flight.snapshot {
            self.known
                .values_mut()
                .for_each(|revision| *revision = UNSURE);
        }
        let concerned = flight.removed.iter();
        let concerned = concerned.chain(flight.changed.iter().map(|(name, _)| name));
        self.known
            .extend(concerned.map(|name| (Arc::clone(name), UNSURE)));
        let held: Vec<_> = flight
            .changed
            .into_iter()
            .filter(|(name, _)| !named || &**name == resource)
            .collect();
        if held.is_empty() {
            return Err(Breach::NothingToRefuse);
        }
        let names: Vec<Arc<str>> = held.iter().map(|(name, _)| Arc::clone(name)).collect();
        let policy = names.iter().any(|name| &**name == POLICY);
        self.held.extend(held);
        self.held_together |= !named;
        self.said = None;
        Ok(Answer::Refused {
            held: names,
            policy: flight.policy.filter(|_| policy),
        })
    }

    /// The message with this nonce, when it is the one that waits.
    fn take(&mut self, nonce: u64) -> Result<Option<Flight>, Breach> {
        if nonce == 0 || nonce > self.nonce {
            return Err(Breach::Nonce);
        }
        Ok(self.flight.take_if(|flight| flight.nonce == nonce))
    }
}
