//! The configuration: where the control plane is, who is recognised by what, what is delivered.
//!
//! Owns: the keys and their checks. Must not: hold a secret; the join token is one.
//! Read next: `attest.rs` for what `attestation` means, `deliver.rs` for `deliver`.

pub(crate) mod kernel;
pub(crate) mod shield;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ringwall_http_io::Address;
use ringwall_service::{ComponentConfig, ConfigError, IdentityFrom, ServiceConfig, StartError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::kernel::KernelConfig;

/// The upstream under which the control plane is declared, and what the names of further replicas begin with.
pub(crate) const CONTROL_PLANE: &str = "control-plane";
/// Longest path of a unix socket (`sockaddr_un`, its terminating zero not counted).
const MAX_SOCKET_PATH: usize = 107;

/// Configuration of `ringwall-agent`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `workload` is `agent/NODE`, `identity` is `self`, `state` is set, and the upstream
    /// `control-plane` is declared; `control-plane-2` and so on are replicas of it.
    pub(crate) service: ServiceConfig,
    /// This node's name, as the control plane knows it.
    pub(crate) node: String,
    pub(crate) bootstrap: Bootstrap,
    /// The unix socket of the Workload API and of secret discovery. Everybody may connect: who gets
    /// something is decided by attestation.
    pub(crate) socket: PathBuf,
    #[serde(default)]
    pub(crate) attestation: Attestation,
    /// Certificates that are written to files.
    #[serde(default)]
    pub(crate) deliver: Vec<Delivery>,
    /// Interception and enforcement by the kernel; absent: workloads use their proxies' explicit addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<KernelConfig>,
}

/// How this node joins.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bootstrap {
    /// The control plane's bootstrap listener, `ip:port` or `name:port`.
    #[schemars(with = "String")]
    pub(crate) address: Address,
    /// Those of further control planes, asked in this order where the first does not answer.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) further: Vec<Address>,
    /// PEM roots that the control plane's certificate must lead to.
    pub(crate) bundle: PathBuf,
}

impl Bootstrap {
    /// In the order in which they are asked.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        std::iter::once(&self.address).chain(&self.further)
    }

    /// All of them, for people.
    pub(crate) fn shown(&self) -> String {
        let all: Vec<String> = self.addresses().map(ToString::to_string).collect();
        all.join(" or ")
    }
}

/// By what a caller is recognised.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Attestation {
    /// Component of a cgroup's path → workload, beside the built-in `ringwall-app-WORKLOAD.slice` and
    /// `ringwall-proxy-WORKLOAD.slice`.
    pub(crate) selectors: BTreeMap<String, String>,
    /// Believe only cgroups whose directory, and the one above it, belong to root or to the agent's
    /// user: nobody else could have made them. Turn it off only where the agent cannot see the
    /// host's cgroups.
    pub(crate) require_owned_cgroups: bool,
    /// The weaker attestor, for machines where no cgroup can be made; absent means off.
    pub(crate) spawned: Option<Spawned>,
}

/// The supervisor's word about processes that it has started.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spawned {
    /// Unix socket, made with mode 0600.
    pub(crate) socket: PathBuf,
    /// Listen to every process of the agent's user, and not to the agent's parent and root alone.
    #[serde(default)]
    pub(crate) any_process_of_user: bool,
}

impl Default for Attestation {
    fn default() -> Self {
        Self {
            selectors: BTreeMap::new(),
            require_owned_cgroups: true,
            spawned: None,
        }
    }
}

/// One certificate that is kept fresh in files. All files are 0600; the key is replaced first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Delivery {
    /// A workload's SVID: `svid.pem`, `svid.key`, `bundle.pem` and, while something is revoked,
    /// `crl.pem`.
    Svid {
        workload: String,
        directory: PathBuf,
        #[serde(default)]
        owner: Option<Owner>,
    },
    /// A client certificate for a database role: `client.pem`, `client.key`, `bundle.pem`.
    DatabaseClient {
        workload: String,
        role: String,
        directory: PathBuf,
        #[serde(default)]
        owner: Option<Owner>,
    },
    /// A server certificate without SPIFFE id, for a database engine or the public hosts.
    Server {
        workload: String,
        #[serde(default)]
        dns: Vec<String>,
        #[serde(default)]
        ips: Vec<IpAddr>,
        directory: PathBuf,
        /// File of the chain.
        #[serde(default = "default_chain")]
        chain: String,
        /// File of the key.
        #[serde(default = "default_key")]
        key: String,
        /// File of the roots; absent means that none is written.
        #[serde(default)]
        bundle: Option<String>,
        #[serde(default)]
        owner: Option<Owner>,
        #[serde(default)]
        reload: Option<Reload>,
    },
}

/// Whom files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Who is told that files have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reload {
    /// The process whose id stands in the first line of this file (PostgreSQL's `postmaster.pid`)
    /// gets SIGHUP.
    pub(crate) sighup: PathBuf,
}

fn default_chain() -> String {
    "server.pem".into()
}

fn default_key() -> String {
    "server.key".into()
}

impl Delivery {
    pub(crate) fn workload(&self) -> &str {
        match self {
            Self::Svid { workload, .. }
            | Self::DatabaseClient { workload, .. }
            | Self::Server { workload, .. } => workload,
        }
    }

    pub(crate) fn owner(&self) -> Option<Owner> {
        match self {
            Self::Svid { owner, .. }
            | Self::DatabaseClient { owner, .. }
            | Self::Server { owner, .. } => *owner,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        match self {
            Self::Svid { directory, .. }
            | Self::DatabaseClient { directory, .. }
            | Self::Server { directory, .. } => directory,
        }
    }
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let service = &self.service;
        let workload = format!("agent/{}", self.node);
        if service.workload.as_deref() != Some(workload.as_str()) {
            return wrong(
                "service.workload",
                &format!("{:?}", service.workload.as_deref().unwrap_or("nothing")),
                "`agent/` and the name of the node",
                &format!("write `workload: {workload}`"),
            );
        }
        if service.identity != IdentityFrom::Own {
            return wrong(
                "service.identity",
                &format!("`{}`", service.identity),
                "`self`: the agent joins by a token",
                "write `identity: self`",
            );
        }
        if service.state.is_none() {
            return wrong(
                "service.state",
                "nothing",
                "a directory for the node's own SVID",
                "add `state: /var/lib/ringwall/data/agent`",
            );
        }
        if !service.upstreams.contains_key(CONTROL_PLANE) {
            return wrong(
                "service.upstreams",
                "no `control-plane`",
                "the control plane's mesh listener",
                "add `control-plane: { address: \"127.0.0.1:7110\", identity: control-plane }`",
            );
        }
        self.validate_sockets()?;
        self.validate_selectors()?;
        if let Some(kernel) = &self.kernel {
            kernel.validate()?;
        }
        self.deliver.iter().try_for_each(validate_delivery)
    }

    fn before_threads(&self) -> Result<(), StartError> {
        crate::privileges::narrow(self)
    }
}

impl Config {
    fn validate_sockets(&self) -> Result<(), ConfigError> {
        let spawned = self.attestation.spawned.as_ref();
        let sockets = [
            ("socket", Some(&self.socket)),
            ("attestation.spawned.socket", spawned.map(|s| &s.socket)),
        ];
        for (key, socket) in sockets {
            let Some(socket) = socket else { continue };
            if !socket.is_absolute() || socket.as_os_str().len() > MAX_SOCKET_PATH {
                return wrong(
                    key,
                    &format!("`{}`", socket.display()),
                    "an absolute path of at most 107 bytes, which is what the kernel takes",
                    "choose a shorter state directory",
                );
            }
        }
        if spawned.is_some_and(|spawned| spawned.socket == self.socket) {
            return wrong(
                "attestation.spawned.socket",
                "the socket of the Workload API",
                "a socket of its own",
                "write `socket: …/agent-control.sock`",
            );
        }
        Ok(())
    }

    fn validate_selectors(&self) -> Result<(), ConfigError> {
        for (selector, workload) in &self.attestation.selectors {
            let one_component = !selector.is_empty()
                && !selector.contains('/')
                && selector != ".."
                && selector != ".";
            if !one_component {
                return wrong(
                    "attestation.selectors",
                    &format!("`{selector}`"),
                    "one component of a cgroup's path",
                    "write the name of the cgroup alone, such as `orders.service`",
                );
            }
            self.service.workload(workload)?;
        }
        Ok(())
    }
}

fn validate_delivery(delivery: &Delivery) -> Result<(), ConfigError> {
    let key = format!("deliver[{}]", delivery.workload());
    if !delivery.directory().is_absolute() {
        return wrong(
            &key,
            &format!("the directory `{}`", delivery.directory().display()),
            "an absolute path",
            "write the whole path",
        );
    }
    let Delivery::Server {
        dns,
        ips,
        chain,
        key: key_file,
        bundle,
        ..
    } = delivery
    else {
        return Ok(());
    };
    if dns.is_empty() && ips.is_empty() {
        return wrong(
            &key,
            "no name",
            "at least one of `dns` and `ips`",
            "add `dns: [postgres]`",
        );
    }
    let names: Vec<&String> = [chain, key_file].into_iter().chain(bundle).collect();
    let plain = |name: &String| !name.is_empty() && !name.contains('/') && name != "..";
    let distinct = names
        .iter()
        .enumerate()
        .all(|(at, name)| !names.iter().take(at).any(|earlier| earlier == name));
    if !distinct || !names.iter().all(|name| plain(name)) {
        return wrong(
            &key,
            &format!("the files {names:?}"),
            "different names without a slash",
            "write `chain: server.pem` and `key: server.key`",
        );
    }
    Ok(())
}

fn wrong(key: &str, seen: &str, expected: &str, fix: &str) -> Result<(), ConfigError> {
    Err(ConfigError::invalid(key, seen, expected, fix))
}

#[cfg(test)]
mod tests;
