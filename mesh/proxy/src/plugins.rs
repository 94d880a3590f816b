//! Plugins (proxy-wasm) in this proxy's two directions.
//!
//! Owns: which plugins stand before which port of the application and on the way to which service ([`Filters`]). What runs is
//! kept by [`Plugins`] of the host; without plugins there is no engine. Must not: know a step of a pipeline.
//! Read next: `plugins/http.rs` (a message), `plugins/tcp.rs` (opaque bytes), `plugins/callouts.rs` (their own calls),
//! `plugins/facts.rs` (what they may ask).

mod callouts;
pub(crate) mod facts;
pub(crate) mod http;
pub(crate) mod tcp;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ringwall_plugin_host::Chain;

pub(crate) use ringwall_plugin_host::{Loaded, Plugins};

use crate::config::{ANY_SERVICE, Config};
use crate::worker::Worker;

/// Chains of one configuration.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    inbound: HashMap<u16, Chain, RandomState>,
    outbound: HashMap<Box<str>, Way, RandomState>,
    others: Chain,
    none: Chain,
}

/// The way to one service.
#[derive(Debug, Default)]
struct Way {
    /// `None`: as to any other service.
    all: Option<Chain>,
    ports: Vec<(u16, Chain)>,
}

impl Filters {
    /// The chains that `config` names, of what is loaded. `Config::validate` has seen that all of it is declared.
    pub(crate) fn of(config: &Config, loaded: &Loaded) -> Self {
        let chain = |names: &[String]| Chain::new(names.iter().filter_map(|name| loaded.get(name)));
        let mut filters = Self::default();
        for inbound in config.inbound.iter().filter(|one| !one.filters.is_empty()) {
            let chain = chain(&inbound.filters);
            filters.inbound.insert(inbound.port, chain);
        }
        for (key, names) in &config.outbound.filters {
            let chain = chain(names);
            if key == ANY_SERVICE {
                filters.others = chain;
                continue;
            }
            let (name, port) = match key.rsplit_once(':') {
                Some((name, port)) => (name, port.parse().ok()),
                None => (key.as_str(), None),
            };
            let way = filters.outbound.entry(name.into()).or_default();
            match port {
                Some(port) => way.ports.push((port, chain)),
                None => way.all = Some(chain),
            }
        }
        filters
    }

    /// What stands before the application's `port`.
    pub(crate) fn inbound(&self, port: u16) -> &Chain {
        self.inbound.get(&port).unwrap_or(&self.none)
    }

    /// What stands on the way to `port` of `service`: what is said of the port, else of the service, else of all others.
    pub(crate) fn outbound(&self, service: &str, port: u16) -> &Chain {
        let Some(way) = self.outbound.get(service) else {
            return &self.others;
        };
        let mut ports = way.ports.iter();
        let exactly = ports.find(|(number, _)| *number == port);
        let exactly = exactly.map(|(_, chain)| chain);
        exactly.or(way.all.as_ref()).unwrap_or(&self.others)
    }
}

/// Who runs `chain` for `worker`, if there is anything to run. To be called on the worker's own thread.
pub(crate) fn host<'a>(
    worker: &'a Arc<Worker>,
    chain: &Chain,
) -> Option<&'a ringwall_plugin_host::Worker> {
    if chain.is_empty() {
        return None;
    }
    if worker.plugins.get().is_none() {
        let way_out = callouts::WayOut::of(worker);
        if let Some(host) = worker.shared.plugins.worker(Arc::new(way_out)) {
            // Another request of this thread cannot have come between.
            let _set = worker.plugins.set(host);
        }
    }
    worker.plugins.get()
}

#[cfg(test)]
#[path = "plugins/tests.rs"]
mod tests;
