//! Endpoints that are gone, says a control plane that has just come back: it may only not have heard of them yet.
//!
//! Owns: the suspicion against an empty list in the first message of a stream. Who was cut off together with us comes back
//! a little earlier or later than we do, and until then nobody has told the control plane that they serve. So the last
//! endpoints are used until [`Machine::settle`]; where one is really gone, its failures are noticed as always.
//! Must not: read a clock (`client.rs` says when to settle), or doubt anything but emptiness.

use std::collections::BTreeSet;

use super::Machine;

/// Services whose endpoints are those of before.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    services: BTreeSet<String>,
    /// The message at hand is the first one of its stream.
    first: bool,
}

impl Doubts {
    pub(super) fn begin(&mut self, first: bool) {
        self.first = first;
    }

    /// Whether `service` keeps its `known` endpoints although there are `said` ones now.
    pub(super) fn keeps(&mut self, service: &str, known: usize, said: usize) -> bool {
        let keeps = self.first && known > 0 && said == 0;
        if keeps {
            self.services.insert(service.to_owned());
        } else {
            self.services.remove(service);
        }
        keeps
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}

impl Machine {
    /// Everybody who is to come back has had the time: what is still said to be gone is gone. `true` when that changes
    /// something.
    pub(crate) fn settle(&mut self) -> bool {
        let doubted = std::mem::take(&mut self.doubts.services);
        for service in &doubted {
            // What is held is what the control plane said last; only its use was put off.
            self.endpoints.remove(service);
            self.join(service);
        }
        !doubted.is_empty()
    }
}
