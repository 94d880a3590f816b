//! The client's side of the configuration stream, without any input or output: messages in, state and answers out.
//!
//! Owns: what becomes of a message. What is good in it is taken over; what is not is named in the NACK, and the last good
//! value serves. A delta that cannot follow what is known makes the client ask for a snapshot.
//! Must not: read a clock, connect or write. Read next: `policy.rs` (which bundle is believed), `client.rs` (around this).

mod doubt;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ringwall_identity::TrustDomain;
use ringwall_mesh_api::v1::{self, resource::Body};

use self::doubt::Doubts;
use super::policy::{self, Accepted, Anchor, Keys, Refused};
use super::saved::Saved;
use crate::snapshot::compile::{self, Fault, brief};
use crate::snapshot::{Endpoint, Revocations, Service, Snapshot};

/// Resources of one proxy: its callees, their endpoints, and three more.
const MAX_RESOURCES: usize = 20_000;
/// Longest name of a resource, in bytes: a kind and the name of a service.
const MAX_RESOURCE_NAME: usize = 300;
const POLICY: &str = "policy";
const REVOCATIONS: &str = "revocations";
const EDGES: &str = "edges";
/// L4 edges of one proxy's view.
const MAX_EDGES: usize = 100_000;

/// What the control plane has said, as far as it is believed.
pub(crate) struct Machine {
    domain: TrustDomain,
    keys: Option<Keys>,
    /// Accepted resources as they came, by name: what is saved.
    held: BTreeMap<String, v1::Resource>,
    services: BTreeMap<Arc<str>, Arc<Service>>,
    endpoints: BTreeMap<String, Vec<Arc<Endpoint>>>,
    policy: Option<Accepted>,
    /// Newest policy ever accepted.
    anchor: Option<Anchor>,
    revocations: Arc<Revocations>,
    /// Of the last message that was taken over without an exception: what the next hello says.
    whole: u64,
    /// Of the last message of any kind.
    seen: u64,
    /// Nothing has come on the present stream yet.
    fresh: bool,
    /// A policy was refused for want of its key.
    wants_keys: bool,
    doubts: Doubts,
}

/// What follows from a message.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: v1::proxy_message::Message,
    /// The snapshot differs from the one before.
    pub(crate) changed: bool,
    /// The stream is of no use any more: open another one, whose hello asks for what is missing.
    pub(crate) reopen: bool,
}

/// Checked parts of one message, before any of them is in use.
#[derive(Default)]
struct Staged {
    resources: BTreeMap<String, v1::Resource>,
    services: BTreeMap<String, Service>,
    endpoints: BTreeMap<String, Vec<Arc<Endpoint>>>,
    policy: Option<Accepted>,
    revocations: Option<Revocations>,
}

impl Machine {
    pub(crate) fn new(domain: TrustDomain) -> Self {
        Self {
            domain,
            keys: None,
            held: BTreeMap::new(),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            policy: None,
            anchor: None,
            revocations: Arc::default(),
            whole: 0,
            seen: 0,
            fresh: true,
            wants_keys: false,
            doubts: Doubts::default(),
        }
    }

    /// Takes over what another process of this proxy has saved; everything is checked again, signatures included, with
    /// `keys` if there are any already, else with the saved ones. What does not pass is left out, with the reason.
    pub(crate) fn restore(
        domain: TrustDomain,
        saved: Saved,
        keys: Option<Keys>,
    ) -> (Self, Vec<Fault>) {
        let mut machine = Self::new(domain);
        machine.keys = keys.or_else(|| Keys::parse(&saved.keys).ok());
        machine.anchor = saved.anchor;
        let mut faults = Vec::new();
        let mut staged = Staged::default();
        for resource in saved.resources {
            if let Err((name, fault)) = machine.stage(resource, &mut staged) {
                faults.push(format!("{name}: {fault}"));
            }
        }
        machine.apply(staged);
        machine.seen = saved.revision;
        if faults.is_empty() {
            machine.whole = saved.revision;
        }
        (machine, faults)
    }

    /// What is to be saved. The keys go with it, so that the policy can be verified when it is read again.
    pub(crate) fn save(&self) -> Saved {
        Saved {
            revision: self.whole,
            anchor: self.anchor.clone(),
            keys: self
                .keys
                .as_ref()
                .map_or_else(|| Arc::from([]), |keys| Arc::clone(keys.json())),
            resources: self.held.values().cloned().collect(),
        }
    }

    /// Begins a stream: the revision for its hello.
    pub(crate) fn hello(&mut self) -> u64 {
        self.fresh = true;
        self.whole
    }

    /// New keys of the trust domain. `true`: a stream should be opened anew, since what was refused may pass now.
    pub(crate) fn keys(&mut self, keys: Keys) -> bool {
        self.keys = Some(keys);
        std::mem::take(&mut self.wants_keys)
    }

    /// Whether the policy in use holds under the present keys. Called once, when a saved policy was verified with saved keys
    /// and the trust domain's own have come: if they do not know its signer, it is not used. `true`: it was dropped.
    pub(crate) fn verify_again(&mut self) -> bool {
        let Some(Body::Policy(signed)) = self.held.get(POLICY).and_then(|held| held.body.as_ref())
        else {
            return false;
        };
        let holds = policy::accept(
            signed,
            self.keys.as_ref(),
            self.policy.as_ref(),
            self.anchor.as_ref(),
        );
        if holds.is_ok() {
            return false;
        }
        self.policy = None;
        self.held.remove(POLICY);
        self.whole = 0;
        true
    }

    /// The state as the rest of the proxy sees it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            revision: self.seen,
            services: self.services.clone(),
            policy: self
                .policy
                .as_ref()
                .map(|accepted| Arc::clone(&accepted.policy)),
            revocations: Arc::clone(&self.revocations),
        }
    }

    /// Version of the policy in use.
    pub(crate) fn policy_version(&self) -> Option<u64> {
        self.policy.as_ref().map(|accepted| accepted.anchor.version)
    }

    /// One message of the control plane.
    pub(crate) fn message(&mut self, message: v1::ConfigMessage) -> Reply {
        let nonce = message.nonce;
        if let Err(fault) = self.fits(&message) {
            // A snapshot that is refused whole would only come again.
            let reopen = !message.snapshot;
            if reopen {
                self.whole = 0;
            }
            return Reply {
                answer: nack(nonce, String::new(), fault),
                changed: false,
                reopen,
            };
        }
        self.doubts.begin(std::mem::take(&mut self.fresh));
        let (revision, snapshot) = (message.revision, message.snapshot);
        let mut faults = Vec::new();
        let gone = if snapshot {
            self.gone(&message.changed)
        } else {
            self.removable(message.removed, &mut faults)
        };
        let mut staged = Staged::default();
        for resource in message.changed {
            if let Err(fault) = self.stage(resource, &mut staged) {
                faults.push(fault);
            }
        }
        let mut changed = !staged.resources.is_empty();
        for name in &gone {
            changed |= self.remove(name);
        }
        self.apply(staged);
        self.seen = revision;
        let Some((resource, fault)) = faults.into_iter().next() else {
            self.whole = revision;
            return Reply {
                answer: v1::proxy_message::Message::Ack(v1::Ack { nonce }),
                changed,
                reopen: false,
            };
        };
        if revision < self.whole {
            // Back in time, and not even whole: only a snapshot can say what is missing now.
            self.whole = 0;
        }
        Reply {
            answer: nack(nonce, resource, fault),
            changed,
            reopen: false,
        }
    }

    /// Whether a message can follow what is known.
    fn fits(&self, message: &v1::ConfigMessage) -> Result<(), Fault> {
        let count = message.changed.len() + message.removed.len();
        compile::at_most("resources in one message", count, MAX_RESOURCES)?;
        if message.snapshot {
            return Ok(());
        }
        let known = if self.fresh { self.whole } else { self.seen };
        if known == 0 {
            return Err("a delta, although nothing is known yet".to_owned());
        }
        if message.base > known {
            return Err(format!(
                "a delta to revision {}, but {known} is known",
                message.base
            ));
        }
        if message.revision < known {
            return Err(format!(
                "a delta back to revision {} from {known}",
                message.revision
            ));
        }
        Ok(())
    }

    /// Names that a snapshot of `resources` lets go of.
    fn gone(&self, resources: &[v1::Resource]) -> Vec<String> {
        let kept: HashSet<&str> = resources
            .iter()
            .map(|resource| resource.name.as_str())
            .collect();
        let held = self
            .held
            .keys()
            .filter(|name| !kept.contains(name.as_str()));
        held.filter(|name| is_removable(name)).cloned().collect()
    }

    fn removable(&self, names: Vec<String>, faults: &mut Vec<(String, Fault)>) -> Vec<String> {
        let (removable, fixed): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| is_removable(name));
        faults.extend(fixed.into_iter().map(|name| {
            let fault = "it cannot be removed, only replaced: the last good one serves".to_owned();
            (quoted(name), fault)
        }));
        removable
    }

    /// Checks one resource and puts it beside the others of its message.
    fn stage(
        &mut self,
        resource: v1::Resource,
        staged: &mut Staged,
    ) -> Result<(), (String, Fault)> {
        let name = resource.name.clone();
        self.check(resource, staged)
            .map_err(|fault| (quoted(name), fault))
    }

    fn check(&mut self, resource: v1::Resource, staged: &mut Staged) -> Result<(), Fault> {
        let name = resource.name.clone();
        if staged.resources.contains_key(&name) {
            return Err("it stands twice in one message".to_owned());
        }
        let held = self.held.len() + staged.resources.len();
        if held >= MAX_RESOURCES && !self.held.contains_key(&name) {
            return Err(format!("more than {MAX_RESOURCES} resources"));
        }
        match (name.split_once('/'), resource.body.as_ref()) {
            (Some(("service", own)), Some(Body::Service(message))) if message.name == own => {
                let service = compile::service(message, &self.domain)?;
                staged.services.insert(own.to_owned(), service);
            }
            (Some(("endpoints", own)), Some(Body::Endpoints(message)))
                if message.service == own =>
            {
                compile::name("its service", own)?;
                let before = self.endpoints.get(own).map_or(&[][..], Vec::as_slice);
                let endpoints = compile::endpoints(message, before)?;
                staged.endpoints.insert(own.to_owned(), endpoints);
            }
            (None, Some(Body::Policy(signed))) if name == POLICY => {
                staged.policy = Some(self.accept(signed)?);
            }
            (None, Some(Body::Revocations(message))) if name == REVOCATIONS => {
                staged.revocations = Some(self.revoked(message)?);
            }
            // The signed policy has the edges; these are for those who cannot verify it.
            (None, Some(Body::Edges(message))) if name == EDGES => {
                compile::at_most("edges", message.edges.len(), MAX_EDGES)?;
            }
            (_, None) => return Err("it has no body".to_owned()),
            _ => return Err("its name does not fit its body".to_owned()),
        }
        staged.resources.insert(name, resource);
        Ok(())
    }

    fn accept(&mut self, signed: &v1::SignedPolicy) -> Result<Accepted, Fault> {
        let (before, anchor) = (self.policy.as_ref(), self.anchor.as_ref());
        match policy::accept(signed, self.keys.as_ref(), before, anchor) {
            Ok(accepted) => Ok(accepted),
            Err(Refused::Because(why)) => Err(why),
            Err(Refused::NoKey(why)) => {
                self.wants_keys = true;
                Err(why)
            }
        }
    }

    fn revoked(&self, message: &v1::Revocations) -> Result<Revocations, Fault> {
        let (new, old) = (message.revision, self.revocations.revision);
        if new < old {
            return Err(format!(
                "revision {new} is older than {old}: trust is not given back so"
            ));
        }
        compile::revocations(message)
    }

    fn apply(&mut self, staged: Staged) {
        let touched: HashSet<String> = staged
            .services
            .keys()
            .chain(staged.endpoints.keys())
            .cloned()
            .collect();
        self.held.extend(staged.resources);
        for (name, said) in staged.endpoints {
            let known = self.endpoints.get(&name).map_or(0, Vec::len);
            if !self.doubts.keeps(&name, known, said.len()) {
                self.endpoints.insert(name, said);
            }
        }
        for (name, service) in staged.services {
            self.services.insert(name.into(), Arc::new(service));
        }
        for name in touched {
            self.join(&name);
        }
        if let Some(accepted) = staged.policy {
            self.anchor = Some(accepted.anchor.clone());
            self.policy = Some(accepted);
        }
        if let Some(revocations) = staged.revocations {
            self.revocations = Arc::new(revocations);
        }
    }

    fn remove(&mut self, name: &str) -> bool {
        if self.held.remove(name).is_none() {
            return false;
        }
        match name.split_once('/') {
            Some(("service", own)) => {
                self.services.remove(own);
            }
            Some(("endpoints", own)) => {
                let known = self.endpoints.get(own).map_or(0, Vec::len);
                if !self.doubts.keeps(own, known, 0) {
                    self.endpoints.remove(own);
                    self.join(own);
                }
            }
            _ => {}
        }
        true
    }

    /// Puts a service and its endpoints together; either may come first.
    fn join(&mut self, name: &str) {
        let Some(service) = self.services.get(name) else {
            return;
        };
        let endpoints = self.endpoints.get(name).cloned().unwrap_or_default();
        if service.endpoints != endpoints {
            let mut service = Service::clone(service);
            service.endpoints = endpoints;
            self.services.insert(name.into(), Arc::new(service));
        }
    }
}

/// Whether the absence of a resource means anything. A signed policy is not taken away by an unsigned word, and trust is
/// not given back by silence: both are only replaced.
fn is_removable(name: &str) -> bool {
    name != POLICY && name != REVOCATIONS
}

/// A name as the control plane knows it, unless it cannot be one.
fn quoted(name: String) -> String {
    if name.len() <= MAX_RESOURCE_NAME {
        return name;
    }
    brief(&name)
}

fn nack(nonce: u64, resource: String, reason: Fault) -> v1::proxy_message::Message {
    v1::proxy_message::Message::Nack(v1::Nack {
        nonce,
        resource,
        reason,
    })
}

#[cfg(test)]
#[path = "machine/tests.rs"]
mod tests;
