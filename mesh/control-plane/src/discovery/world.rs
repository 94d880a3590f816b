//! Everything that proxies are told, with revisions, and the part of it that each workload sees.
//!
//! Owns: resources, their revisions, the view of a workload. Must not: know streams or a clock.
//!
//! A workload sees the services that its edges let it call, with their endpoints; the edges that concern it; the policy,
//! which is signed whole; the revocations. Revisions rise with each change, from a base above all that any other life of a
//! control plane has used: a proxy's revision either names a state of this life, or says nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ringwall_mesh_api::v1;
use ringwall_policy::mesh::Edge;

use super::direct::Resolved;
use super::endpoints::{Endpoints, Proxy, Report, ReportError, StreamId};

pub(crate) const EDGES: &str = "edges";
pub(crate) const POLICY: &str = "policy";
pub(crate) const REVOCATIONS: &str = "revocations";
pub(crate) const ENDPOINTS_PREFIX: &str = "endpoints/";

/// States have even revisions. The odd one after a state names that state with something missing: nobody resumes from it.
const STEP: u64 = 2;

/// A service of the registry, as its callers are told, and the nodes where it may run (none: everywhere).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RegisteredService {
    pub(crate) service: v1::Service,
    pub(crate) nodes: Vec<String>,
}

/// One resource in one revision.
#[derive(Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) name: Arc<str>,
    pub(crate) revision: u64,
    pub(crate) resource: v1::Resource,
}

/// What one workload sees, ordered by name.
#[derive(Debug, PartialEq)]
pub(crate) struct View {
    /// State that a proxy has which has all of it.
    pub(crate) revision: u64,
    pub(crate) items: Vec<Arc<Item>>,
}

impl View {
    /// Revision of one resource of the view.
    pub(crate) fn revision_of(&self, name: &str) -> Option<u64> {
        let found = self.items.binary_search_by(|item| (*item.name).cmp(name));
        self.items.get(found.ok()?).map(|item| item.revision)
    }
}

/// What a revision from a proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// It has nothing.
    Nothing,
    /// It has everything that had changed by then.
    Revision(u64),
    /// It has a state of which we know nothing.
    Unknown,
}

/// The state of one control plane.
#[derive(Debug)]
pub(crate) struct World {
    base: u64,
    revision: u64,
    services: BTreeMap<Arc<str>, Registered>,
    endpoints: BTreeMap<Arc<str>, Arc<Item>>,
    table: Endpoints,
    /// Endpoints that nobody registers.
    direct: Resolved,
    all_edges: Vec<Edge>,
    edges: HashMap<Arc<str>, Arc<Item>>,
    /// Services that a workload may call, and when that has last changed.
    callees: HashMap<Arc<str>, (BTreeSet<Arc<str>>, u64)>,
    policy: Option<Arc<Item>>,
    revocations: Option<Arc<Item>>,
    views: HashMap<Arc<str>, Arc<View>>,
}

#[derive(Debug)]
struct Registered {
    item: Arc<Item>,
    nodes: Vec<String>,
    ports: Vec<u16>,
}

impl World {
    /// `base` must be above every revision that another life has given out.
    pub(crate) fn new(base: u64) -> Self {
        let base = base.next_multiple_of(STEP);
        Self {
            base,
            revision: base,
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            table: Endpoints::default(),
            direct: Resolved::new(),
            all_edges: Vec::new(),
            edges: HashMap::new(),
            callees: HashMap::new(),
            policy: None,
            revocations: None,
            views: HashMap::new(),
        }
    }

    /// Revision of the newest change.
    #[cfg(test)]
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Declared ports of a registered workload; `None` for a stranger.
    pub(crate) fn ports(&self, workload: &str) -> Option<&[u16]> {
        self.services
            .get(workload)
            .map(|known| known.ports.as_slice())
    }

    /// Who may connect to whom, by the policy in force.
    pub(super) fn edges(&self) -> &[Edge] {
        &self.all_edges
    }

    /// Where a service is dialled, ready or not: address, and its port as callers name it.
    pub(super) fn places(&self, service: &str) -> Vec<(String, u32)> {
        let mut places = self.table.registered(service);
        let direct = self.direct.get(service).into_iter().flatten();
        places.extend(direct.map(|endpoint| (endpoint.address.clone(), endpoint.port)));
        let known = self
            .services
            .get(service)
            .map(|known| &known.item.resource.body);
        if let Some(Some(v1::resource::Body::Service(service))) = known {
            // Those that speak no HTTP are dialled as they are declared, where that is an address.
            let plain = service.direct.iter().filter_map(|name| {
                let address: std::net::SocketAddr = name.parse().ok()?;
                Some((address.to_string(), u32::from(address.port())))
            });
            places.extend(plain);
        }
        places
    }

    /// Whether a workload may run on a node.
    pub(crate) fn runs_on(&self, workload: &str, node: &str) -> bool {
        self.services.get(workload).is_some_and(|known| {
            known.nodes.is_empty() || known.nodes.iter().any(|own| own == node)
        })
    }

    pub(crate) fn is_revoked(&self, spiffe_id: &str) -> bool {
        let body = self
            .revocations
            .as_ref()
            .and_then(|item| item.resource.body.as_ref());
        matches!(body, Some(v1::resource::Body::Revocations(list))
            if list.spiffe_ids.iter().any(|id| id == spiffe_id))
    }

    /// The policy that is pushed.
    #[cfg(test)]
    pub(crate) fn policy(&self) -> v1::SignedPolicy {
        match self.policy.as_ref().map(|item| &item.resource.body) {
            Some(Some(v1::resource::Body::Policy(policy))) => policy.clone(),
            _ => v1::SignedPolicy::default(),
        }
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.table
    }

    /// Replaces the registry.
    pub(crate) fn set_services(&mut self, services: Vec<RegisteredService>) {
        self.revision += STEP;
        let mut old = std::mem::take(&mut self.services);
        for RegisteredService { service, nodes } in services {
            let name: Arc<str> = service.name.as_str().into();
            let ports = service.ports.iter();
            let ports = ports
                .filter_map(|port| u16::try_from(port.number).ok())
                .collect();
            let item = self.item(
                &format!("service/{name}"),
                v1::resource::Body::Service(service),
                old.remove(&name).map(|known| known.item).as_ref(),
            );
            self.services
                .insert(Arc::clone(&name), Registered { item, nodes, ports });
            if !self.endpoints.contains_key(&name) {
                let item = self.endpoints_item(&name);
                self.endpoints.insert(name, item);
            }
        }
        self.endpoints
            .retain(|name, _| self.services.contains_key(name));
        self.reshape();
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &v1::Service> {
        let bodies = self
            .services
            .values()
            .map(|known| &known.item.resource.body);
        bodies.filter_map(|body| match body {
            Some(v1::resource::Body::Service(service)) => Some(service),
            _ => None,
        })
    }

    /// Replaces the endpoints of services without a proxy; `true` when somebody sees a change.
    pub(super) fn set_direct(&mut self, resolved: &Resolved) -> bool {
        let before = std::mem::replace(&mut self.direct, resolved.clone());
        let names: BTreeSet<&Arc<str>> = before.keys().chain(resolved.keys()).collect();
        let moved = |name: &&&Arc<str>| before.get(**name) != resolved.get(**name);
        let moved: Vec<&Arc<str>> = names.iter().filter(moved).copied().collect();
        for service in &moved {
            self.endpoints_changed(service);
        }
        !moved.is_empty()
    }

    /// Replaces the policy and the edges that stand in it.
    pub(crate) fn set_policy(&mut self, policy: v1::SignedPolicy, edges: Vec<Edge>) {
        self.revision += STEP;
        let body = v1::resource::Body::Policy(policy);
        self.policy = Some(self.item(POLICY, body, self.policy.as_ref()));
        self.all_edges = edges;
        self.reshape();
    }

    pub(crate) fn set_revocations(&mut self, revocations: v1::Revocations) {
        self.revision += STEP;
        let body = v1::resource::Body::Revocations(revocations);
        self.revocations = Some(self.item(REVOCATIONS, body, self.revocations.as_ref()));
        self.views.clear();
    }

    /// See [`Endpoints::report`].
    pub(crate) fn report(
        &mut self,
        stream: StreamId,
        proxy: &Proxy,
        report: Report,
    ) -> Result<bool, ReportError> {
        let changed = self.table.report(stream, proxy, report)?;
        if changed {
            self.endpoints_changed(&proxy.workload);
        }
        Ok(changed)
    }

    pub(crate) fn stream_ended(&mut self, stream: StreamId, now: std::time::Duration) {
        self.table.stream_ended(stream, now);
    }

    /// Ends leases; `true` when somebody sees a change.
    pub(crate) fn expire(&mut self, now: std::time::Duration) -> bool {
        let changed = self.table.expire(now);
        for service in &changed {
            self.endpoints_changed(service);
        }
        !changed.is_empty()
    }

    fn endpoints_changed(&mut self, service: &Arc<str>) {
        self.revision += STEP;
        if self.services.contains_key(service) {
            let item = self.endpoints_item(service);
            self.endpoints.insert(Arc::clone(service), item);
        }
        let callees = &self.callees;
        self.views.retain(|workload, _| {
            !callees
                .get(workload)
                .is_some_and(|(all, _)| all.contains(service))
        });
    }

    fn endpoints_item(&self, service: &Arc<str>) -> Arc<Item> {
        let mut endpoints = self.table.seen(service);
        endpoints.extend(self.direct.get(service).into_iter().flatten().cloned());
        let body = v1::resource::Body::Endpoints(v1::Endpoints {
            service: service.to_string(),
            endpoints,
        });
        self.item(&format!("{ENDPOINTS_PREFIX}{service}"), body, None)
    }

    /// A resource in the newest revision, or in its former one when nothing differs.
    fn item(&self, name: &str, body: v1::resource::Body, former: Option<&Arc<Item>>) -> Arc<Item> {
        match former {
            Some(former) if former.resource.body.as_ref() == Some(&body) => Arc::clone(former),
            _ => Arc::new(Item {
                name: name.into(),
                revision: self.revision,
                resource: v1::Resource {
                    name: name.to_owned(),
                    revision: self.revision,
                    body: Some(body),
                },
            }),
        }
    }

    /// Who sees what, after services or edges have changed.
    fn reshape(&mut self) {
        let mut callees: HashMap<Arc<str>, BTreeSet<Arc<str>>> = HashMap::new();
        let mut concerned: HashMap<Arc<str>, Vec<v1::Edge>> = HashMap::new();
        for workload in self.services.keys() {
            callees.insert(Arc::clone(workload), BTreeSet::new());
            concerned.insert(Arc::clone(workload), Vec::new());
        }
        for edge in &self.all_edges {
            if let Some((callee, _)) = self.services.get_key_value(edge.callee.as_str())
                && let Some(own) = callees.get_mut(edge.caller.as_str())
            {
                own.insert(Arc::clone(callee));
            }
            let both = [&edge.caller, &edge.callee];
            let sides = if edge.caller == edge.callee {
                &both[..1]
            } else {
                &both[..]
            };
            for side in sides {
                if let Some(own) = concerned.get_mut(side.as_str()) {
                    own.push(v1::Edge {
                        caller: edge.caller.clone(),
                        callee: edge.callee.clone(),
                        ports: edge.ports.iter().map(|port| u32::from(*port)).collect(),
                    });
                }
            }
        }
        let mut old = std::mem::take(&mut self.callees);
        for (workload, own) in callees {
            let former = old.remove(&workload).filter(|(former, _)| *former == own);
            let since = former.map_or(self.revision, |(_, since)| since);
            self.callees.insert(workload, (own, since));
        }
        let mut old = std::mem::take(&mut self.edges);
        for (workload, own) in concerned {
            let body = v1::resource::Body::Edges(v1::Edges { edges: own });
            let item = self.item(EDGES, body, old.remove(&workload).as_ref());
            self.edges.insert(workload, item);
        }
        self.views.clear();
    }

    /// What a registered workload sees; nothing for a stranger.
    pub(crate) fn view(&mut self, workload: &str) -> Arc<View> {
        if let Some(view) = self.views.get(workload) {
            return Arc::clone(view);
        }
        let mut revision = self.base;
        let mut items: Vec<Arc<Item>> = Vec::new();
        if let Some((callees, since)) = self.callees.get(workload) {
            revision = *since;
            let services = callees.iter().filter_map(|name| self.services.get(name));
            items.extend(services.map(|known| Arc::clone(&known.item)));
            items.extend(
                callees
                    .iter()
                    .filter_map(|name| self.endpoints.get(name))
                    .cloned(),
            );
            items.extend(self.edges.get(workload).cloned());
            items.extend(self.policy.iter().chain(&self.revocations).cloned());
        }
        items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let newest = items.iter().map(|item| item.revision).max();
        revision = revision.max(newest.unwrap_or(0));
        let view = Arc::new(View { revision, items });
        if let Some((name, _)) = self.services.get_key_value(workload) {
            self.views.insert(Arc::clone(name), Arc::clone(&view));
        }
        view
    }

    /// What it says when a proxy of `workload` has the state of `revision`.
    pub(crate) fn since(&self, workload: &str, revision: u64) -> Since {
        if revision == 0 {
            return Since::Nothing;
        }
        let ours = (self.base..=self.revision).contains(&revision) && revision.is_multiple_of(STEP);
        // A view that has lost or gained services since then cannot be amended by revisions alone.
        let same_shape = self
            .callees
            .get(workload)
            .is_some_and(|(_, since)| *since <= revision);
        if ours && same_shape {
            Since::Revision(revision)
        } else {
            Since::Unknown
        }
    }
}

/// Version of the policy in an item; 0 for anything else.
pub(crate) fn version_of(item: &Item) -> u64 {
    match &item.resource.body {
        Some(v1::resource::Body::Policy(policy)) => policy.version,
        _ => 0,
    }
}
