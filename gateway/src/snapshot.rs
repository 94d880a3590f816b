//! The compiled configuration: immutable, swapped as a whole, what the data path runs on.
//!
//! Owns: routes, hosts and clusters in their resolved form, and the rule that every route and method has a
//! policy (R56). Must not: open sockets or read files. Next: `snapshot/compile.rs` (how it is made),
//! `snapshot/tree.rs` (how a path is found), `reload.rs` (when it is swapped).

mod compile;
pub(crate) mod tree;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use ringwall_http_io::Address;
use ringwall_identity::SpiffeId;
use ringwall_plugin_host::Chain;
use ringwall_policy::PolicyEngine;

pub(crate) use self::compile::{check, compile};
use crate::config::{AuthConfig, LimitScope, PoolLimits};
use crate::limiter::Quota;
use crate::metrics::RouteSeries;
use crate::snapshot::tree::PathTree;

/// One configuration, compiled. Requests in flight keep the routes of the snapshot that they began with.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) hosts: HashMap<Box<str>, HostRoutes, RandomState>,
    /// By name, for plugins' calls.
    pub(crate) clusters: HashMap<Box<str>, Arc<Cluster>, RandomState>,
}

/// The routes of one host.
#[derive(Debug)]
pub(crate) struct HostRoutes {
    pub(crate) paths: PathTree<RouteEntry>,
}

/// A route under one of its methods.
#[derive(Debug)]
pub(crate) struct RouteEntry {
    pub(crate) route: Arc<Route>,
    /// Unique for route, method and snapshot: what cached decisions are keyed by.
    pub(crate) decision_key: u64,
    /// The decision on an anonymous request, made once: it depends on nothing else.
    pub(crate) anonymous: Option<PolicyVerdict>,
}

/// What happens to a request that matched.
pub(crate) struct Route {
    pub(crate) id: Arc<str>,
    pub(crate) host: Box<str>,
    pub(crate) auth: AuthConfig,
    pub(crate) audience: Option<Arc<str>>,
    pub(crate) scopes: Vec<Box<str>>,
    pub(crate) policy: Arc<PolicyEngine>,
    pub(crate) action: Box<str>,
    pub(crate) limits: Vec<LimitRule>,
    pub(crate) filters: Chain,
    pub(crate) forward_access_token: bool,
    pub(crate) websocket: bool,
    pub(crate) timeout: Duration,
    pub(crate) max_body: u64,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) series: RouteSeries,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// One limit of one route.
#[derive(Debug, Clone)]
pub(crate) struct LimitRule {
    pub(crate) scope: LimitScope,
    pub(crate) quota: Quota,
    /// Stable over reloads that leave the rule alone, so that a reload forgives nobody.
    pub(crate) seed: u64,
}

/// What the policy engine said, kept small for caching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyVerdict {
    pub(crate) allowed: bool,
    /// The `@id`s of the policies that decided, for the access log.
    pub(crate) reason: Arc<str>,
}

/// A destination.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) name: Arc<str>,
    pub(crate) target: Target,
    /// Names the target: clusters that lead to the same place share a pool.
    pub(crate) pool_key: Box<str>,
    /// Who the user-context token is for.
    pub(crate) audience: SpiffeId,
    pub(crate) pool: PoolLimits,
}

/// How a cluster is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// mTLS; only this identity is believed (R15).
    Mesh {
        address: Address,
        peer: SpiffeId,
    },
    Plain {
        address: Address,
    },
}

impl Target {
    pub(crate) const fn address(&self) -> &Address {
        match self {
            Self::Mesh { address, .. } | Self::Plain { address } => address,
        }
    }
}

impl Snapshot {
    /// The routes of a host name that is already lower case and has no port.
    pub(crate) fn host(&self, name: &str) -> Option<&HostRoutes> {
        self.hosts.get(name)
    }

    pub(crate) fn routes(&self) -> usize {
        self.hosts.values().map(|host| host.paths.len()).sum()
    }
}
