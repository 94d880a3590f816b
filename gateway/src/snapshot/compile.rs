//! From configuration to snapshot: everything is resolved here, so that a request resolves nothing.
//!
//! Owns: all checks between the parts of a configuration; the first fault rejects the whole file.
//! Must not: touch the network, the clock or files.

mod checks;
mod parts;

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::{FixedState, RandomState};
use http::Method;
use ringwall_data_path::path;
use ringwall_plugin_host::Chain;
use ringwall_policy::PolicyEngine;

use self::checks::{
    check_auth, check_listeners, check_plugins, check_tokens, refuse_closed_anonymous,
};
use self::parts::{clusters, policies};
use super::tree::{PathTree, Pattern, is_parameter};
use super::{Cluster, HostRoutes, LimitRule, Route, RouteEntry, Snapshot};
use crate::config::{AuthConfig, Config, LimitConfig, MatchConfig, RouteConfig};
use crate::error::Fault;
use crate::limiter::Quota;
use crate::metrics::RouteSeries;
use crate::pipeline::authorize;
use crate::plugins::Loaded;

/// Compiles and forgets: for `--check` and the start.
pub(crate) fn check(config: &Config) -> Result<(), Fault> {
    compile(config, 0, &Loaded::default()).map(|_| ())
}

/// Compiles `config` into snapshot number `version`, whose routes pass the plugins that are `loaded`.
pub(crate) fn compile(config: &Config, version: u64, loaded: &Loaded) -> Result<Snapshot, Fault> {
    check_listeners(config)?;
    check_tokens(config)?;
    check_plugins(config)?;
    let clusters = clusters(config)?;
    let policies = policies(config)?;
    let mut compiler = Compiler {
        config,
        clusters,
        policies,
        loaded,
        version,
        next_key: 0,
    };
    let mut hosts: HashMap<Box<str>, HostRoutes, RandomState> = HashMap::default();
    for host in &config.hosts {
        let key = format!("hosts[{}]", host.host);
        if !is_host_name(&host.host) {
            return Err(Fault::new(
                key,
                quoted(&host.host),
                "a lower-case host name",
                "write it without port or wildcard",
            ));
        }
        let mut paths = PathTree::default();
        for route in &host.routes {
            compiler.route(&key, &host.host, route, &mut paths)?;
        }
        if hosts
            .insert(host.host.as_str().into(), HostRoutes { paths })
            .is_some()
        {
            return Err(Fault::new(
                key,
                "the host twice",
                "each host once",
                "join the two lists of routes",
            ));
        }
    }
    if hosts.is_empty() {
        return Err(Fault::new(
            "hosts",
            "none",
            "at least one host",
            "declare the hosts to serve",
        ));
    }
    let clusters = compiler.clusters.into_iter();
    let clusters = clusters.map(|(name, cluster)| (name.into(), cluster));
    Ok(Snapshot {
        version,
        hosts,
        clusters: clusters.collect(),
    })
}

struct Compiler<'config> {
    config: &'config Config,
    clusters: BTreeMap<&'config str, Arc<Cluster>>,
    policies: BTreeMap<&'config str, Arc<PolicyEngine>>,
    loaded: &'config Loaded,
    version: u64,
    next_key: u32,
}

impl Compiler<'_> {
    fn route(
        &mut self,
        host_key: &str,
        host: &str,
        config: &RouteConfig,
        paths: &mut PathTree<RouteEntry>,
    ) -> Result<(), Fault> {
        let key = format!("{host_key}.routes[{}]", config.id);
        let pattern = pattern(&key, &config.matches)?;
        let methods = methods(&key, &config.matches)?;
        let route = Arc::new(self.resolve(&key, host, config)?);
        for method in methods {
            self.next_key += 1;
            let entry = RouteEntry {
                anonymous: (route.auth == AuthConfig::None)
                    .then(|| authorize::decide_anonymous(&route, &method)),
                decision_key: (self.version << 32) | u64::from(self.next_key),
                route: Arc::clone(&route),
            };
            refuse_closed_anonymous(&key, &method, entry.anonymous.as_ref())?;
            if !paths.insert(pattern, method.clone(), entry) {
                return Err(Fault::new(
                    format!("{key}.match"),
                    format!("{method} on a path that another route of this host has"),
                    "each path and method once",
                    "remove one of the two",
                ));
            }
        }
        Ok(())
    }

    fn resolve(&self, key: &str, host: &str, config: &RouteConfig) -> Result<Route, Fault> {
        let policy_key = format!("{key}.policy");
        // R56: deny by default begins here: without a policy there is no route.
        let name = config.policy.as_deref().ok_or_else(|| {
            Fault::new(
                &policy_key,
                "nothing",
                "the name of a policy",
                "every route needs one; name it from `policies`",
            )
        })?;
        let policy = self.policies.get(name).ok_or_else(|| {
            Fault::new(
                &policy_key,
                quoted(name),
                list(self.policies.keys()),
                "declare it under `policies`",
            )
        })?;
        if !self.config.actions.contains_key(&config.action) {
            return Err(Fault::new(
                format!("{key}.action"),
                quoted(&config.action),
                list(self.config.actions.keys()),
                "declare it under `actions`",
            ));
        }
        let cluster = self.clusters.get(config.cluster.as_str()).ok_or_else(|| {
            Fault::new(
                format!("{key}.cluster"),
                quoted(&config.cluster),
                list(self.clusters.keys()),
                "declare it under `clusters`",
            )
        })?;
        check_auth(self.config, key, config)?;
        let limits = config
            .limits
            .iter()
            .enumerate()
            .map(|(index, limit)| limit_rule(key, host, &config.id, index, limit))
            .collect::<Result<_, _>>()?;
        Ok(Route {
            id: config.id.as_str().into(),
            host: host.into(),
            auth: config.auth,
            audience: config.audience.as_deref().map(Arc::from),
            scopes: config
                .scopes
                .iter()
                .map(|scope| scope.as_str().into())
                .collect(),
            policy: Arc::clone(policy),
            action: config.action.as_str().into(),
            limits,
            filters: self.filters(key, config)?,
            forward_access_token: config.forward_access_token,
            websocket: config.websocket,
            timeout: config.timeout,
            max_body: config.max_body,
            cluster: Arc::clone(cluster),
            series: RouteSeries::default(),
        })
    }
}

impl Compiler<'_> {
    /// The plugins of a route, in order. One that is declared and not loaded is none: then it is only checked.
    fn filters(&self, key: &str, config: &RouteConfig) -> Result<Chain, Fault> {
        let declared = || {
            self.config
                .plugins
                .iter()
                .map(|plugin| plugin.name.as_str())
        };
        if let Some(unknown) = config
            .filters
            .iter()
            .find(|name| declared().all(|known| known != name.as_str()))
        {
            return Err(Fault::new(
                format!("{key}.filters"),
                quoted(unknown),
                list(declared()),
                "declare it under `plugins`",
            ));
        }
        let named = config.filters.iter();
        Ok(Chain::new(named.filter_map(|name| self.loaded.get(name))))
    }
}

fn limit_rule(
    key: &str,
    host: &str,
    route: &str,
    index: usize,
    limit: &LimitConfig,
) -> Result<LimitRule, Fault> {
    let burst = limit.burst.unwrap_or(limit.rate);
    let quota = Quota::new(limit.rate, limit.period, burst).ok_or_else(|| {
        Fault::new(
            format!("{key}.limits[{index}]"),
            format!(
                "rate {}, period {:?}, burst {burst}",
                limit.rate, limit.period
            ),
            "numbers above zero",
            "remove the limit to have none",
        )
    })?;
    let identity = (host, route, index, limit.rate, limit.period, burst);
    Ok(LimitRule {
        scope: limit.per,
        quota,
        seed: FixedState::default().hash_one(identity),
    })
}

fn pattern<'config>(key: &str, config: &'config MatchConfig) -> Result<Pattern<'config>, Fault> {
    let (pattern, text) = match (config.path.as_deref(), config.prefix.as_deref()) {
        (Some(path), None) => (Pattern::Path(path), path),
        (None, Some(prefix)) => (Pattern::Prefix(prefix), prefix),
        _ => {
            return Err(Fault::new(
                format!("{key}.match"),
                "both or neither of `path` and `prefix`",
                "exactly one",
                "write `path: /v1/x` or `prefix: /v1`",
            ));
        }
    };
    // A pattern that no admitted request can have is a mistake; `{name}` segments stand for a letter.
    let probe: Vec<&str> = text
        .split('/')
        .map(|segment| if is_parameter(segment) { "x" } else { segment })
        .collect();
    path::check(&probe.join("/")).map_err(|fault| {
        Fault::new(
            format!("{key}.match"),
            quoted(text),
            "a path that requests can have",
            fault.as_str(),
        )
    })?;
    Ok(pattern)
}

fn methods(key: &str, config: &MatchConfig) -> Result<Vec<Method>, Fault> {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    if config.methods.is_empty() {
        return Err(Fault::new(
            format!("{key}.match.methods"),
            "none",
            "at least one method",
            "add `methods: [GET]`",
        ));
    }
    config
        .methods
        .iter()
        .map(|name| {
            KNOWN
                .into_iter()
                .find(|method| method.as_str() == name)
                .ok_or_else(|| {
                    Fault::new(
                        format!("{key}.match.methods"),
                        quoted(name),
                        list(KNOWN.iter()),
                        "write it in capitals",
                    )
                })
        })
        .collect()
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn list<T: ToString>(names: impl Iterator<Item = T>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() {
        "one that is declared (none is)".to_owned()
    } else {
        format!("one of {}", names.join(", "))
    }
}
