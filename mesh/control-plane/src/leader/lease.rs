//! The state machine of one replica's claim on the leadership.
//!
//! Owns: when to ask, and until when an answer may be believed. Two clocks are asked: the monotonic
//! one stands still while a machine sleeps, the wall clock can be set; a lease that is over by either
//! of them is over.
//! Must not: ask the store itself (`leader.rs` does), or be the only guard: writes carry the fence,
//! which the store checks.

use std::time::Duration;

use time::OffsetDateTime;

use crate::store::model::{Claim, Fence};

/// How long a claim lasts in the store.
pub(crate) const TTL: Duration = Duration::from_secs(6);
/// How often a leader prolongs it: three attempts fail before it is lost.
const RENEW: Duration = Duration::from_millis(1500);
/// How often the others look.
const POLL: Duration = Duration::from_secs(1);
/// A leader stops this long before the store lets another one begin: for clocks that run unequally.
const MARGIN: Duration = Duration::from_millis(500);

/// Both clocks at one moment. `up` is monotonic, from any origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment {
    pub(crate) up: Duration,
    pub(crate) wall: OffsetDateTime,
}

/// What this replica knows of the leadership.
#[derive(Debug)]
pub(crate) struct Lease {
    holder: String,
    belief: Belief,
    next: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum Belief {
    /// Nothing was heard yet, or for too long.
    Unknown,
    Leading {
        epoch: u64,
        until: Moment,
    },
    Following {
        leader: String,
        until: Duration,
    },
}

impl Lease {
    pub(crate) fn new(holder: String) -> Self {
        Self {
            holder,
            belief: Belief::Unknown,
            next: Duration::ZERO,
        }
    }

    pub(crate) fn holder(&self) -> &str {
        &self.holder
    }

    /// How long to wait before the next attempt.
    pub(crate) fn wait(&self, now: Moment) -> Duration {
        // A machine that has slept asks at once: its lease is over.
        if matches!(self.belief, Belief::Leading { .. }) && self.fence(now).is_none() {
            return Duration::ZERO;
        }
        self.next.saturating_sub(now.up)
    }

    /// Takes an answer of the store to an attempt that began at `asked`.
    pub(crate) fn answered(&mut self, asked: Moment, claim: &Claim) {
        if claim.mine {
            // Counted from before the question: the store began to count later.
            let safe = claim.remaining.min(TTL).saturating_sub(MARGIN);
            self.belief = Belief::Leading {
                epoch: claim.epoch,
                until: Moment {
                    up: asked.up + safe,
                    wall: asked.wall + safe,
                },
            };
            self.next = asked.up + RENEW;
        } else {
            self.belief = Belief::Following {
                leader: claim.holder.clone(),
                until: asked.up + claim.remaining + TTL,
            };
            self.next = asked.up + POLL.min(claim.remaining.max(Duration::from_millis(100)));
        }
    }

    /// The store did not answer: what was believed holds until its time is over.
    pub(crate) fn failed(&mut self, now: Moment) {
        if matches!(self.belief, Belief::Leading { .. }) && self.fence(now).is_none() {
            // Or it would ask again at once, for as long as the store is away.
            self.belief = Belief::Unknown;
        }
        self.next = now.up + POLL;
    }

    /// The proof for writes, while this replica leads.
    pub(crate) fn fence(&self, now: Moment) -> Option<Fence> {
        match &self.belief {
            Belief::Leading { epoch, until } if now.up < until.up && now.wall < until.wall => {
                Some(Fence {
                    holder: self.holder.clone(),
                    epoch: *epoch,
                })
            }
            _ => None,
        }
    }

    /// Who leads, as far as is known.
    pub(crate) fn leader(&self, now: Moment) -> Option<&str> {
        match &self.belief {
            Belief::Leading { .. } if self.fence(now).is_some() => Some(&self.holder),
            Belief::Following { leader, until } if now.up < *until => Some(leader),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
