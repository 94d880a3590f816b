//! The model of `ringwall.yaml`: what runs, who may call whom, which secrets exist.
//!
//! Owns: the types, reading with line numbers, and what profile and ports the caller chose.
//! Must not: know any component's own configuration, which stays a JSON value. Read next:
//! `validate.rs` for what is refused, `interpolate.rs` for `${…}`.

mod interpolate;
mod mesh;
pub(crate) mod policy;
mod secrets;
mod validate;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ringwall_mesh_api::traffic::TrafficConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::config::Source;
use crate::error::CliError;

pub(crate) use interpolate::Variables;
pub(crate) use mesh::{
    Acceleration, MONITOR, Mesh, PROXY_BINARY, Role, Sidecar, TcpEdge, proxy_name,
};
pub(crate) use secrets::{Holders, SecretSpec, Shown};
pub(crate) use validate::{API_KEY_ENTRIES, API_KEY_PEPPER};

/// The workload that probes and operates: it may read every admin listener and nothing else.
pub(crate) const OPERATOR: &str = "ringwall";

/// Whether identities may be made for show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// Seeded users, clients and keys, made at first start
    #[default]
    Demo,
    /// Refuses demo identities, legacy grants, plaintext listeners, unsealed keys, default secrets
    Production,
}

impl Profile {
    /// The word as it stands in configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Production => "production",
        }
    }
}

/// The whole platform.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Composition {
    pub(crate) trust_domain: Spanned<String>,
    pub(crate) public: Public,
    pub(crate) certificates: Certificates,
    #[serde(with = "humantime_serde")]
    pub(crate) drain: Duration,
    pub(crate) logs: Logs,
    #[serde(default)]
    pub(crate) telemetry: Option<Telemetry>,
    /// Control plane, agent and policy; absent: every component speaks mTLS itself.
    #[serde(default)]
    pub(crate) mesh: Option<Mesh>,
    pub(crate) components: Vec<Component>,
    /// Third-party servers beside the platform; only containers have them.
    #[serde(default)]
    pub(crate) engines: Vec<Engine>,
    #[serde(default)]
    pub(crate) secrets: Vec<SecretSpec>,
    /// The built web application; chosen on the command line, not in the file.
    #[serde(skip)]
    pub(crate) web: PathBuf,
    /// The folder of the built plugins; chosen likewise.
    #[serde(skip)]
    pub(crate) plugins: PathBuf,
    /// The policy file that `mesh.policy` names; read where a platform is to be started.
    #[serde(skip)]
    pub(crate) policy: Option<Source>,
}

/// The one public listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Public {
    /// The hosts are labels below it: `app.<domain>`.
    pub(crate) domain: Spanned<String>,
    pub(crate) port: Spanned<u16>,
    /// Addresses to listen on; one that this machine does not have is left out.
    pub(crate) listen: Vec<IpAddr>,
    /// First labels of the public hosts.
    pub(crate) hosts: Vec<String>,
    /// The component that listens there.
    pub(crate) component: Spanned<String>,
    /// Drop denied sources and floods in the kernel, where it takes part; absent: nobody does.
    #[serde(default)]
    pub(crate) shield: Option<Shield>,
}

/// The edge shield (docs/ebpf.md). The ports are the public one, the feeder is the component that listens there.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shield {
    /// Where clients' packets come in.
    pub(crate) interfaces: Vec<String>,
    /// How fast one source may open connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<ConnectionRate>,
    /// Networks that are never denied, beside loopback.
    #[serde(default)]
    pub(crate) allow: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionRate {
    pub(crate) per_second: NonZeroU32,
    pub(crate) burst: NonZeroU32,
}

/// How long certificates live; all are issued again at half of the shorter life.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificates {
    /// SVIDs and PostgreSQL's certificates; at most 1 h.
    #[serde(with = "humantime_serde")]
    pub(crate) workloads: Duration,
    /// The public hosts' certificate.
    #[serde(with = "humantime_serde")]
    pub(crate) edge: Duration,
}

/// What components log, and how much of it is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logs {
    pub(crate) format: String,
    pub(crate) level: String,
    /// Size at which a log file is turned, in MiB.
    pub(crate) turn_at_mib: u64,
    /// Turned files that are kept.
    pub(crate) keep: u32,
}

/// Where every component sends its spans.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Telemetry {
    pub(crate) collector: Spanned<String>,
    pub(crate) sample_ratio: f64,
    /// Where the collector passes spans on to, in containers.
    #[serde(default)]
    pub(crate) export: Option<Export>,
}

/// An engine that takes spans (OTLP/HTTP over mTLS).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Export {
    pub(crate) to: Spanned<String>,
    pub(crate) port: Spanned<u16>,
}

/// A third-party server that gets an identity and nothing else from us.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Engine {
    /// Its service in the compose file, its DNS name and its workload name.
    pub(crate) name: Spanned<String>,
    /// The profile of the compose file that starts it.
    pub(crate) profile: Spanned<String>,
}

/// A network of the container site. Natively all of them are loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Network {
    /// The only one with a way out and in
    Edge,
    /// Where components call each other
    Mesh,
    /// Databases and those who use them
    Data,
}

impl Network {
    /// The word as it stands in the composition.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Mesh => "mesh",
            Self::Data => "data",
        }
    }
}

/// One process of the platform.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Component {
    pub(crate) name: Spanned<String>,
    /// One line for people.
    pub(crate) what: String,
    /// An own binary; exactly one of `binary` and `postgres` is given.
    #[serde(default)]
    pub(crate) binary: Option<String>,
    /// A PostgreSQL server.
    #[serde(default)]
    pub(crate) postgres: Option<PostgresSpec>,
    /// Who answers for it.
    #[serde(default = "default_owner")]
    pub(crate) owner: String,
    /// How much harm it could do; policies may speak of it.
    #[serde(default = "default_tier")]
    pub(crate) tier: String,
    #[serde(default)]
    pub(crate) port: Option<Spanned<u16>>,
    #[serde(default)]
    pub(crate) admin: Option<Spanned<u16>>,
    /// Networks that it stands in; none named is the mesh.
    #[serde(default)]
    networks: Vec<Spanned<Network>>,
    /// Components that must be ready before this one starts.
    #[serde(default)]
    pub(crate) needs: Vec<Spanned<String>>,
    /// Components that this one dials; each must name it in `callers`.
    #[serde(default)]
    pub(crate) calls: Vec<Spanned<String>>,
    /// Components that may connect to `port`; each must name this one in `calls`.
    #[serde(default)]
    pub(crate) callers: Vec<Spanned<String>>,
    /// The service proxy before it.
    #[serde(default)]
    pub(crate) sidecar: Option<Sidecar>,
    /// Timeouts, retries and limits that its callers keep to.
    #[serde(default)]
    pub(crate) traffic: Option<Spanned<TrafficConfig>>,
    /// The component's own configuration.
    #[serde(default)]
    pub(crate) config: Map<String, Value>,
}

/// What a PostgreSQL server holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresSpec {
    /// Databases, each owned by the role, and used by the workload, of the same name.
    pub(crate) databases: Vec<Spanned<String>>,
}

impl Composition {
    /// Reads and validates.
    pub(crate) fn read(source: &Source) -> Result<Self, CliError> {
        let composition: Self = serde_saphyr::from_str(&source.text).map_err(|error| {
            let place = error.location().map_or_else(
                || source.name.clone(),
                |at| format!("{}:{}:{}", source.name, at.line(), at.column()),
            );
            CliError::Composition {
                place,
                what: error.without_snippet().to_string(),
                fix: "the keys of each section are explained at the top of ringwall.yaml".into(),
            }
        })?;
        validate::check(&source.name, &composition)?;
        Ok(composition)
    }

    /// The component of that name.
    pub(crate) fn component(&self, name: &str) -> Option<&Component> {
        self.components
            .iter()
            .find(|component| component.name.value == name)
    }

    /// Public origin of the host with that label, without a trailing slash.
    pub(crate) fn url(&self, label: &str) -> String {
        let domain = &self.public.domain.value;
        match self.public.port.value {
            443 => format!("https://{label}.{domain}"),
            port => format!("https://{label}.{domain}:{port}"),
        }
    }

    /// Full names of the public hosts.
    pub(crate) fn public_hosts(&self) -> Vec<String> {
        let domain = &self.public.domain.value;
        self.public
            .hosts
            .iter()
            .map(|label| format!("{label}.{domain}"))
            .collect()
    }

    /// Everybody who may connect to the component, the senders of spans included.
    pub(crate) fn callers_of<'a>(&'a self, component: &'a Component) -> BTreeSet<&'a str> {
        let mut callers: BTreeSet<&str> = component
            .callers
            .iter()
            .map(|name| name.value.as_str())
            .collect();
        if self.is_collector(component) {
            callers.extend(self.senders().map(|sender| sender.name.value.as_str()));
        }
        callers
    }

    /// The PostgreSQL servers.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Component> {
        self.components
            .iter()
            .filter(|component| component.postgres.is_some())
    }

    /// Everybody whom the component dials, the collector of spans included.
    pub(crate) fn callees_of<'a>(&'a self, component: &'a Component) -> BTreeSet<&'a str> {
        let mut callees: BTreeSet<&str> = component
            .calls
            .iter()
            .map(|name| name.value.as_str())
            .collect();
        let collector = self
            .telemetry
            .as_ref()
            .filter(|_| self.sends_spans(component));
        callees.extend(collector.map(|telemetry| telemetry.collector.value.as_str()));
        callees
    }

    /// Components with a binary of our own.
    pub(crate) fn binaries(&self) -> impl Iterator<Item = &Component> {
        self.components
            .iter()
            .filter(|component| component.binary.is_some())
    }

    /// Whether the component has spans to send: what serves the mesh itself has none of users.
    pub(crate) fn sends_spans(&self, component: &Component) -> bool {
        let role = self.role(component);
        let serves = matches!(role, Some(Role::ControlPlane | Role::Agent | Role::Egress));
        component.binary.is_some() && !serves
    }

    fn senders(&self) -> impl Iterator<Item = &Component> {
        self.components.iter().filter(|one| self.sends_spans(one))
    }

    /// Every address that the platform listens on, with whose it is.
    pub(crate) fn listeners(&self) -> Vec<(SocketAddr, String)> {
        let mut listeners = Vec::new();
        for component in &self.components {
            let name = &component.name.value;
            let mut add = |port: &Spanned<u16>, what: &str| {
                listeners.push((loopback(port.value), format!("{what} of {name}")));
            };
            if let Some(port) = &component.port {
                add(port, "mesh listener");
            }
            if let Some(admin) = &component.admin {
                add(admin, "admin listener");
            }
            for (port, what) in self.sidecar(component).into_iter().flat_map(mesh::ports) {
                add(port, what);
            }
        }
        for (plane, port) in self.control_planes() {
            let what = format!("bootstrap listener of {}", plane.name.value);
            listeners.push((loopback(port), what));
        }
        for address in &self.public.listen {
            let address = SocketAddr::new(*address, self.public.port.value);
            let component = &self.public.component.value;
            listeners.push((address, format!("public listener of {component}")));
        }
        listeners
    }

    /// Moves every port; for a second copy on one machine.
    pub(crate) fn renumber(&mut self, mut choose: impl FnMut(u16) -> u16) {
        for component in &mut self.components {
            let own = component.port.iter_mut().chain(&mut component.admin);
            let sidecar = component.sidecar.iter_mut().flat_map(mesh::ports_mut);
            for port in own.chain(sidecar) {
                port.value = choose(port.value);
            }
        }
        if let Some(mesh) = &mut self.mesh {
            let plane = &mut mesh.control_plane;
            let further = plane.replicas.iter_mut();
            let further = further.map(|replica| &mut replica.bootstrap);
            for port in std::iter::once(&mut plane.bootstrap).chain(further) {
                port.value = choose(port.value);
            }
        }
        self.public.port.value = choose(self.public.port.value);
    }

    pub(crate) fn is_collector(&self, component: &Component) -> bool {
        let telemetry = self.telemetry.as_ref();
        telemetry.is_some_and(|telemetry| telemetry.collector.value == component.name.value)
    }
}

impl Component {
    /// The networks that it stands in.
    pub(crate) fn networks(&self) -> BTreeSet<Network> {
        if self.networks.is_empty() {
            return BTreeSet::from([Network::Mesh]);
        }
        self.networks.iter().map(|network| network.value).collect()
    }

    /// Names of its databases, where it is a PostgreSQL server.
    pub(crate) fn databases(&self) -> Vec<String> {
        let server = self.postgres.iter();
        let names = server.flat_map(|server| &server.databases);
        names.map(|name| name.value.clone()).collect()
    }
}

fn default_owner() -> String {
    "platform".into()
}

fn default_tier() -> String {
    "internal".into()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod mesh_tests;
#[cfg(test)]
mod replicas_tests;
#[cfg(test)]
mod shield_tests;
#[cfg(test)]
mod tests;
