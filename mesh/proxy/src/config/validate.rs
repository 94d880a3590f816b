//! What the schema allows and a proxy cannot use, each with the fix; and what production refuses.
//!
//! Must not: open anything, or ask the network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ringwall_mesh_api::weight;
use ringwall_plugin_host::config::{NameFault, fault_of_names, unverified};
use ringwall_service::config::IdentityFrom;
use ringwall_service::{ConfigError, Refusal};

use super::{ANY_SERVICE, Config, Limits};
use crate::egress::EgressConfig;

/// Threads beyond this help nobody.
const MAX_WORKERS: usize = 64;
/// Longest name of a node or a zone that the control plane takes.
const MAX_PLACE: usize = 128;
/// hyper's own least.
const MIN_HEAD: usize = 8192;
/// The upstream that a proxy cannot do without.
const CONTROL_PLANE: &str = "control-plane";

/// An address, and the key where it stands.
type Keyed = (String, SocketAddr);

pub(super) fn validate(config: &Config) -> Result<(), ConfigError> {
    identity(config)?;
    upstreams(config)?;
    place(config)?;
    listeners(config)?;
    ports(config)?;
    plaintext(config)?;
    if !(1..=MAX_WORKERS).contains(&config.workers) {
        return Err(ConfigError::invalid(
            "workers",
            &config.workers.to_string(),
            &format!("1 to {MAX_WORKERS}"),
            "write `workers: 1`",
        ));
    }
    limits(&config.limits)?;
    plugins(config)?;
    filters(config)?;
    config
        .egress
        .as_ref()
        .map_or(Ok(()), EgressConfig::validate)
}

/// A proxy speaks for its workload, with a certificate of its own.
fn identity(config: &Config) -> Result<(), ConfigError> {
    let service = &config.service;
    if service.workload.is_none() {
        return Err(ConfigError::invalid(
            "service",
            "no `workload`",
            "the workload beside which this proxy stands: its name in edges and policies",
            "add `workload: orders`",
        ));
    }
    if service.sidecar.is_some() {
        return Err(ConfigError::invalid(
            "service.sidecar",
            "a service proxy before a service proxy",
            "no such key",
            "take it out",
        ));
    }
    match service.identity {
        IdentityFrom::Directory(_) | IdentityFrom::WorkloadApi(_) => Ok(()),
        IdentityFrom::Own | IdentityFrom::Proxy => Err(ConfigError::invalid(
            "service.identity",
            &format!("`{}`", service.identity),
            "where the workload's certificate comes from",
            "write `identity: \"unix:…/agent.sock\"`, the agent's socket, or a directory",
        )),
    }
}

fn upstreams(config: &Config) -> Result<(), ConfigError> {
    let upstreams = &config.service.upstreams;
    if !upstreams.contains_key(CONTROL_PLANE) {
        return Err(ConfigError::invalid(
            "service.upstreams",
            &format!("no `{CONTROL_PLANE}`"),
            "where services, endpoints and policy come from",
            &format!(
                "add `{CONTROL_PLANE}: {{ address: \"127.0.0.1:7110\", identity: {CONTROL_PLANE} }}`"
            ),
        ));
    }
    let Some(users) = &config.user_context else {
        return Ok(());
    };
    if upstreams.contains_key(&users.issuer_upstream) {
        return Ok(());
    }
    Err(ConfigError::invalid(
        "user_context.issuer_upstream",
        &format!(
            "`{}`, which service.upstreams does not declare",
            users.issuer_upstream
        ),
        "the name of a declared upstream",
        "declare it under service.upstreams",
    ))
}

/// What the control plane is told about this endpoint: it would refuse the rest, each time anew.
fn place(config: &Config) -> Result<(), ConfigError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    for (key, text) in [("node", &config.node), ("zone", &config.zone)] {
        if text.is_empty() || text.len() > MAX_PLACE || !text.bytes().all(fits) {
            return Err(ConfigError::invalid(
                key,
                &format!("`{text}`"),
                &format!("1 to {MAX_PLACE} letters, digits, `-`, `.` and `_`"),
                &format!("leave `{key}` out, or write one like `local`"),
            ));
        }
    }
    if config.weight > weight::MAX {
        return Err(ConfigError::invalid(
            "weight",
            &config.weight.to_string(),
            &format!("0 to {}", weight::MAX),
            &format!(
                "leave it out for {}, or choose a smaller one",
                weight::DEFAULT
            ),
        ));
    }
    Ok(())
}

/// Where the application's own bytes come in.
fn outbound(config: &Config) -> impl Iterator<Item = Keyed> {
    let http = config
        .outbound
        .http
        .map(|at| ("outbound.http".to_owned(), at));
    let opaque = config.outbound.tcp.iter().enumerate();
    let opaque = opaque.map(|(index, tcp)| (format!("outbound.tcp[{index}].listen"), tcp.listen));
    let captured = config.outbound.captured.iter().enumerate();
    let captured = captured.map(|(index, at)| (format!("outbound.captured[{index}]"), *at));
    http.into_iter().chain(opaque).chain(captured)
}

/// Every address that this process listens on, once.
fn listeners(config: &Config) -> Result<(), ConfigError> {
    let inbound = config.inbound.iter().enumerate();
    let inbound = inbound.map(|(index, one)| (format!("inbound[{index}].listen"), one.listen));
    let hbone = config.hbone.map(|at| ("hbone".to_owned(), at));
    let data: Vec<Keyed> = inbound.chain(outbound(config)).chain(hbone).collect();
    if data.is_empty() {
        return Err(ConfigError::invalid(
            "inbound",
            "no listener at all",
            "a listener for peers, or one for the application",
            "add `inbound:` or `outbound:`",
        ));
    }
    let admin = ("service.admin".to_owned(), config.service.admin);
    let mut seen: BTreeMap<SocketAddr, String> = BTreeMap::new();
    let declared = data.into_iter().chain([admin]);
    for (key, address) in declared.filter(|(_, address)| address.port() != 0) {
        if let Some(other) = seen.get(&address) {
            return Err(ConfigError::invalid(
                &key,
                &format!("{address}, where `{other}` listens too"),
                "an address of its own",
                "choose another port",
            ));
        }
        seen.insert(address, key);
    }
    Ok(())
}

/// Edges and policies tell ports apart by their numbers.
fn ports(config: &Config) -> Result<(), ConfigError> {
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    for (index, inbound) in config.inbound.iter().enumerate() {
        let key = format!("inbound[{index}].port");
        let port = inbound.port;
        if port == 0 {
            return Err(ConfigError::invalid(
                &key,
                "0",
                "the number by which edges and policies call the port",
                "write the application's port",
            ));
        }
        if let Some(other) = seen.insert(port, index) {
            return Err(ConfigError::invalid(
                &key,
                &format!("{port}, as in inbound[{other}]"),
                "one listener for each port",
                "give every inbound listener a `port` of its own",
            ));
        }
    }
    Ok(())
}

/// What is not encrypted does not leave the machine (R43).
fn plaintext(config: &Config) -> Result<(), ConfigError> {
    let apps = config.inbound.iter().enumerate();
    let apps = apps.map(|(index, inbound)| (format!("inbound[{index}].app"), inbound.app));
    let health = config.health.as_ref();
    let health = health.map(|health| ("health.address".to_owned(), health.address));
    let names = config.outbound.names.iter().enumerate();
    let names = names.map(|(index, at)| (format!("outbound.names[{index}]"), *at));
    let open = apps
        .chain(outbound(config))
        .chain(names)
        .chain(health)
        .find(|(_, address)| !address.ip().is_loopback());
    open.map_or(Ok(()), |(key, address)| {
        Err(ConfigError::invalid(
            &key,
            &address.to_string(),
            "an address of loopback: between proxy and application everything is plaintext",
            &format!("write `127.0.0.1:{}`", address.port()),
        ))
    })
}

fn limits(limits: &Limits) -> Result<(), ConfigError> {
    if limits.max_head < MIN_HEAD {
        return Err(ConfigError::invalid(
            "limits.max_head",
            &limits.max_head.to_string(),
            &format!("at least {MIN_HEAD} bytes"),
            "leave the key out for the default of 64 KiB",
        ));
    }
    let tunnels = &limits.tunnels;
    let streams = usize::try_from(limits.max_streams).unwrap_or(usize::MAX);
    let counts = [
        ("limits.max_connections", limits.max_connections),
        ("limits.max_handshakes", limits.max_handshakes),
        ("limits.max_streams", streams),
        ("limits.max_requests", limits.max_requests),
        ("limits.tunnels.max_connections", tunnels.max_connections),
        ("limits.tunnels.max_pending", tunnels.max_pending),
    ];
    if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return Err(nothing(key, "0"));
    }
    let times = [
        ("limits.handshake_timeout", limits.handshake_timeout),
        ("limits.header_timeout", limits.header_timeout),
        ("limits.idle_timeout", limits.idle_timeout),
        ("limits.body_timeout", limits.body_timeout),
        ("limits.write_timeout", limits.write_timeout),
        ("limits.stall_timeout", limits.stall_timeout),
        ("limits.connect_timeout", limits.connect_timeout),
        ("limits.response_timeout", limits.response_timeout),
        ("limits.tunnels.idle_timeout", tunnels.idle_timeout),
        ("limits.tunnels.ping_interval", tunnels.ping_interval),
        ("limits.tunnels.ping_timeout", tunnels.ping_timeout),
    ];
    let none = times.iter().find(|(_, time)| *time == Duration::ZERO);
    none.map_or(Ok(()), |(key, _)| Err(nothing(key, "0s")))
}

fn plugins(config: &Config) -> Result<(), ConfigError> {
    let Some((name, fault)) = fault_of_names(&config.plugins) else {
        return Ok(());
    };
    let key = format!("plugins[{name}]");
    Err(match fault {
        NameFault::Characters => ConfigError::invalid(
            &key,
            &format!("`{name}`"),
            "letters, digits, `-`, `_` and `.`",
            "give it another name",
        ),
        NameFault::Twice => ConfigError::invalid(
            &key,
            "the name twice",
            "each name once",
            "rename one of the two",
        ),
    })
}

/// Chains are of declared plugins, and stand where there is something to filter.
fn filters(config: &Config) -> Result<(), ConfigError> {
    let inbound = config.inbound.iter().enumerate();
    let inbound = inbound.map(|(index, one)| (format!("inbound[{index}].filters"), &one.filters));
    let outbound = config.outbound.filters.iter();
    let outbound = outbound.map(|(to, names)| (format!("outbound.filters.{to}"), names));
    for (key, names) in inbound.chain(outbound) {
        let declared = |name: &String| config.plugins.iter().any(|plugin| plugin.name == *name);
        if let Some(unknown) = names.iter().find(|name| !declared(name)) {
            let known: Vec<&str> = config.plugins.iter().map(|one| one.name.as_str()).collect();
            return Err(ConfigError::invalid(
                &key,
                &format!("`{unknown}`, which `plugins` does not declare"),
                &format!("names out of `plugins`: {}", known.join(", ")),
                "declare it under `plugins`",
            ));
        }
    }
    let unread = config.outbound.filters.keys().find(|key| {
        let port = key.split_once(':').map(|(_, port)| port.parse::<u16>());
        let name = key.split(':').next().unwrap_or_default();
        let is_any = *key == ANY_SERVICE;
        name.is_empty() || (name.contains('*') && !is_any) || matches!(port, Some(Err(_) | Ok(0)))
    });
    unread.map_or(Ok(()), |key| {
        Err(ConfigError::invalid(
            "outbound.filters",
            &format!("`{key}`"),
            "a service, `service:port`, or `*` for all others",
            "write `payments`, or `payments:7106`",
        ))
    })
}

fn nothing(key: &str, seen: &str) -> ConfigError {
    ConfigError::invalid(
        key,
        seen,
        "more than nothing: with it no request would get through",
        "leave the key out for the default",
    )
}

/// What a production profile refuses.
pub(super) fn production_refusals(config: &Config) -> Vec<Refusal> {
    let mut refusals = config
        .egress
        .as_ref()
        .map_or_else(Vec::new, EgressConfig::production_refusals);
    let has_application = config.outbound.http.is_some() || config.egress.is_none();
    if has_application && config.loopback_token.is_none() {
        refusals.push(Refusal::new(
            "loopback_token: missing",
            "whoever else runs on this machine could call as this workload, or call it past its proxy",
            "name the secret that proxy and application share: `loopback_token: loopback-token`",
        ));
    }
    if config.service.state.is_none() {
        refusals.push(Refusal::new(
            "service.state: missing",
            "a restart while the control plane is away would deny everything",
            "name a directory of this proxy's own, where the last good state is kept",
        ));
    }
    refusals.extend(
        unverified(&config.plugins, &config.plugin_keys).map(|name| {
            Refusal::new(
                format!("plugin {name} neither signed nor pinned"),
                "whoever can write the file runs code in the data path",
                "declare `plugin_keys`, or the module's `sha256`",
            )
        }),
    );
    if config.access_log.disabled {
        refusals.push(Refusal::new(
            "access_log.disabled: true",
            "nobody could tell afterwards who called whom, and what was denied",
            "leave the key out",
        ));
    }
    refusals
}

#[cfg(test)]
#[path = "validate/tests.rs"]
mod tests;
