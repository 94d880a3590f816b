//! Who exists in the mesh: one entry for each service.
//!
//! Owns: the shape of an entry, and the rule that a name (and so a SPIFFE id) stands for one service
//! alone (R53). Must not: say who may call whom; that is policy.

use std::collections::{HashMap, HashSet};

use ringwall_mesh_api::traffic::TrafficConfig;
use ringwall_mesh_api::v1;
use ringwall_proto::ids::Name;
use ringwall_service::{ConfigError, ServiceConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Identities that no agent may have for a workload: the operator's, ours, and those of agents.
const RESERVED: [&str; 3] = ["ringwall", "control-plane", "agent"];

/// One service. Its SPIFFE id is `spiffe://TRUST_DOMAIN/NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceEntry {
    pub(crate) name: Name,
    /// Who answers for it.
    pub(crate) owner: String,
    /// Such as `sensitive`; policies may speak of it.
    #[serde(default = "default_tier")]
    pub(crate) tier: String,
    /// Nodes on which it may run.
    #[serde(default)]
    pub(crate) nodes: Vec<Name>,
    /// Ports of the application, as callers name them.
    #[serde(default)]
    pub(crate) ports: Vec<PortConfig>,
    /// DNS names that its SVID carries beside the SPIFFE id.
    #[serde(default)]
    pub(crate) dns: Vec<String>,
    /// Roles for which it gets client certificates of databases.
    #[serde(default)]
    pub(crate) database_roles: Vec<String>,
    /// DNS names and addresses for which it gets server certificates.
    #[serde(default)]
    pub(crate) server_names: Vec<String>,
    /// Speaks its own TLS and has no proxy: dialled at these `host:port`.
    #[serde(default)]
    pub(crate) direct: Vec<String>,
    /// How callers treat it.
    #[serde(default)]
    pub(crate) traffic: TrafficConfig,
}

/// One port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortConfig {
    pub(crate) number: u16,
    #[serde(default)]
    pub(crate) protocol: ProtocolConfig,
}

impl PortConfig {
    /// What proxies are told.
    pub(crate) fn wire(self) -> v1::Port {
        let protocol = match self.protocol {
            ProtocolConfig::Http => v1::Protocol::Http,
            ProtocolConfig::Http2 => v1::Protocol::Http2,
            ProtocolConfig::Tcp => v1::Protocol::Tcp,
        };
        v1::Port {
            number: self.number.into(),
            protocol: protocol.into(),
        }
    }
}

/// How bytes on a port are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProtocolConfig {
    /// HTTP/1.1 and HTTP/2.
    #[default]
    Http,
    Http2,
    /// Opaque bytes.
    Tcp,
}

fn default_tier() -> String {
    "internal".to_owned()
}

/// Checks all entries together.
pub(super) fn validate(
    service: &ServiceConfig,
    nodes: &[Name],
    services: &[ServiceEntry],
) -> Result<(), ConfigError> {
    let mut names = HashMap::new();
    let mut roles: HashMap<&str, &Name> = HashMap::new();
    for (position, entry) in services.iter().enumerate() {
        // The same name would be the same identity: each of the two could speak as the other.
        if let Some(first) = names.insert(entry.name.as_str(), position) {
            return Err(ConfigError::invalid(
                &format!("services[{}]", entry.name),
                &format!(
                    "`{}` twice, as entry {} and entry {}",
                    entry.name,
                    first + 1,
                    position + 1
                ),
                "a name of its own for each service: the name is its SPIFFE id",
                "rename one of the two, or remove it",
            ));
        }
        for role in &entry.database_roles {
            if let Some(other) = roles.insert(role, &entry.name) {
                return Err(invalid(
                    entry,
                    "database_roles",
                    &format!("`{role}`, which {other} has"),
                    "a role of its own",
                    "give each service a role of its own",
                ));
            }
        }
        validate_entry(service, nodes, entry)?;
    }
    Ok(())
}

fn validate_entry(
    service: &ServiceConfig,
    nodes: &[Name],
    entry: &ServiceEntry,
) -> Result<(), ConfigError> {
    service.workload(entry.name.as_str())?;
    if entry.owner.trim().is_empty() {
        return Err(invalid(
            entry,
            "owner",
            "nothing",
            "who answers for it",
            "name a team",
        ));
    }
    if RESERVED.contains(&entry.name.as_str()) && !entry.nodes.is_empty() {
        return Err(invalid(
            entry,
            "nodes",
            "nodes",
            "none: no agent gives this identity to a workload",
            "remove `nodes`",
        ));
    }
    if let Some(node) = entry.nodes.iter().find(|node| !nodes.contains(node)) {
        return Err(invalid(
            entry,
            "nodes",
            &format!("`{node}`"),
            "nodes of the top-level list `nodes`",
            &format!("add {node} to that list, or remove it here"),
        ));
    }
    for (key, list, ok) in [
        ("dns", &entry.dns, is_dns_name as fn(&str) -> bool),
        ("server_names", &entry.server_names, is_server_name),
        ("database_roles", &entry.database_roles, is_role),
    ] {
        let mut seen = HashSet::new();
        for value in list {
            if !ok(value) {
                return Err(invalid(
                    entry,
                    key,
                    &format!("`{value}`"),
                    "names that can stand in a certificate",
                    "use letters, digits, hyphens and dots",
                ));
            }
            if !seen.insert(value) {
                return Err(invalid(
                    entry,
                    key,
                    &format!("`{value}` twice"),
                    "each name once",
                    "remove one of the two",
                ));
            }
        }
    }
    // What a proxy would refuse is refused here: there, every caller would keep to what it knew before.
    if let Err(fault) = entry.traffic.policy() {
        let key = format!("traffic.{}", fault.key);
        return Err(invalid(
            entry,
            &key,
            &fault.seen,
            &fault.expected,
            &fault.fix,
        ));
    }
    validate_ports(entry)
}

fn validate_ports(entry: &ServiceEntry) -> Result<(), ConfigError> {
    let mut ports = HashSet::new();
    for port in &entry.ports {
        if port.number == 0 || !ports.insert(port.number) {
            return Err(invalid(
                entry,
                "ports",
                &format!("{}", port.number),
                "each port once, from 1 to 65535",
                "remove or change it",
            ));
        }
    }
    Ok(())
}

fn invalid(entry: &ServiceEntry, key: &str, seen: &str, expected: &str, fix: &str) -> ConfigError {
    let place = format!("services[{}].{key}", entry.name);
    ConfigError::invalid(&place, seen, expected, fix)
}

/// RFC 1123 §2.1, in lower case: one spelling for each name.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A DNS name, a wildcard for one label, or an address.
fn is_server_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<std::net::IpAddr>().is_ok() || is_dns_name(host)
}

fn is_role(role: &str) -> bool {
    (1..=63).contains(&role.len())
        && role
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}
