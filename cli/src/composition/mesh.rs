//! The mesh in the composition: which components are its parts, which proxy stands before which
//! component, and the ports between the two.
//!
//! Owns: who has a service proxy, and what follows from `calls` and `callers` for connections. Must not:
//! read policy, which stands in a file of its own (`policy.rs`). Read next: `render/proxy.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::{Component, Composition, OPERATOR};

/// Who may read admin listeners besides the operator and the component itself.
pub(crate) const MONITOR: &str = "prometheus";
/// What a proxy is called: its workload's name and this.
const PROXY: &str = "-proxy";
/// The binary of service proxies and of the egress gateway.
pub(crate) const PROXY_BINARY: &str = "ringwall-proxy";

/// `mesh:` of the composition.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mesh {
    pub(crate) control_plane: ControlPlane,
    /// The component that gives workloads their identity, one on each node.
    pub(crate) agent: Spanned<String>,
    /// The component by way of which workloads reach the world outside.
    #[serde(default)]
    pub(crate) egress: Option<Spanned<String>>,
    /// What this machine is called.
    pub(crate) node: Spanned<String>,
    /// Where it stands: calls preferably stay in a zone. Absent: as the node is called.
    #[serde(default)]
    pub(crate) zone: Option<Spanned<String>>,
    /// Bytes between a component and its proxy go from socket to socket, where the kernel leads it there and a trial finds
    /// that good.
    #[serde(default)]
    pub(crate) acceleration: Option<Spanned<Acceleration>>,
    /// The file with the policies, from where the composition stands.
    pub(crate) policy: Spanned<PathBuf>,
}

/// Whether connections between a component and its proxy are accelerated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Acceleration {
    Off,
    /// Where the agent's trial finds it right and worth it.
    Auto,
}

/// Which component is the control plane, and what it has besides the ports of every component.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ControlPlane {
    pub(crate) component: Spanned<String>,
    /// Where agents join that have no identity yet.
    pub(crate) bootstrap: Spanned<u16>,
    /// Where it keeps its state; in a file of its own unless said.
    #[serde(default)]
    pub(crate) store: Option<Spanned<PlaneStore>>,
    /// Further ones, which share the state and stand in for each other.
    #[serde(default)]
    pub(crate) replicas: Vec<Replica>,
}

/// Where a control plane keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PlaneStore {
    Embedded,
    /// The database `control-plane` of a PostgreSQL server of the composition.
    Postgres,
}

/// One more control plane: the same identity, at ports of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replica {
    pub(crate) component: Spanned<String>,
    pub(crate) bootstrap: Spanned<u16>,
}

impl ControlPlane {
    /// Each with its bootstrap port, the first one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Spanned<String>, &Spanned<u16>)> {
        let further = self.replicas.iter();
        let further = further.map(|replica| (&replica.component, &replica.bootstrap));
        std::iter::once((&self.component, &self.bootstrap)).chain(further)
    }

    pub(crate) fn is_in_a_database(&self) -> bool {
        let store = self.store.as_ref().map(|store| store.value);
        store == Some(PlaneStore::Postgres)
    }
}

/// A component's service proxy. It takes over the component's `port` and `admin`; these are the ports
/// between the two, all on loopback, and the proxy's own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sidecar {
    /// Where the component takes what came to `port`.
    pub(crate) app: Spanned<u16>,
    /// Where it takes what came to `admin`.
    pub(crate) app_admin: Spanned<u16>,
    /// Where the proxy takes the component's own calls.
    pub(crate) outbound: Spanned<u16>,
    /// Where the proxy answers for itself.
    pub(crate) admin: Spanned<u16>,
    /// Where the kernel leads the component's calls, on machines where it can.
    #[serde(default)]
    pub(crate) captured: Option<Spanned<u16>>,
    /// Whether the component dials the platform's public listener, as anybody outside may.
    #[serde(default)]
    pub(crate) dials_public: bool,
    /// Share of the component's calls that come here where it is served in several places, 0 to 10000; 0: none. Default 100.
    #[serde(default)]
    pub(crate) weight: Option<Spanned<u32>>,
    /// Listeners of the proxy whose bytes go to one other component, such as a database.
    #[serde(default)]
    pub(crate) tcp: Vec<TcpEdge>,
    /// Plugins of the proxy, as its configuration writes them (docs/running-plugins.md).
    #[serde(default)]
    pub(crate) plugins: Vec<Value>,
    /// Files of keys, one of which must have signed each plugin.
    #[serde(default)]
    pub(crate) plugin_keys: Vec<Value>,
    /// Where the plugins stand.
    #[serde(default)]
    pub(crate) filters: Filters,
}

/// Names of plugins, in the order in which messages pass them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Filters {
    /// Before the component's `port`.
    pub(crate) inbound: Vec<String>,
    /// On the way to others, by `NAME`, `NAME:PORT` or `*`.
    pub(crate) outbound: BTreeMap<String, Vec<String>>,
}

/// One of these.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpEdge {
    pub(crate) to: Spanned<String>,
    pub(crate) port: Spanned<u16>,
}

/// What a component is to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// Behind a service proxy.
    Workload(&'a Sidecar),
    /// Speaks mTLS itself: the mesh's ingress.
    Ingress,
    ControlPlane,
    Agent,
    /// A service proxy without a component behind it.
    Egress,
    /// A server of others that speaks its own TLS.
    Database,
}

impl PartialEq for Sidecar {
    fn eq(&self, other: &Self) -> bool {
        self.admin.value == other.admin.value
    }
}

impl Eq for Sidecar {}

/// One allowed connection, by names of workloads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub(crate) caller: String,
    pub(crate) callee: String,
    pub(crate) port: u16,
}

impl Composition {
    /// What the component is to the mesh; none without a mesh.
    pub(crate) fn role<'a>(&'a self, component: &'a Component) -> Option<Role<'a>> {
        let mesh = self.mesh.as_ref()?;
        let name = &component.name.value;
        if component.postgres.is_some() {
            return Some(Role::Database);
        }
        if mesh.control_plane.all().any(|(one, _)| one.value == *name) {
            return Some(Role::ControlPlane);
        }
        if *name == mesh.agent.value {
            return Some(Role::Agent);
        }
        if mesh
            .egress
            .as_ref()
            .is_some_and(|egress| egress.value == *name)
        {
            return Some(Role::Egress);
        }
        match &component.sidecar {
            Some(sidecar) => Some(Role::Workload(sidecar)),
            None => Some(Role::Ingress),
        }
    }

    /// The proxy before a component.
    pub(crate) fn sidecar<'a>(&'a self, component: &'a Component) -> Option<&'a Sidecar> {
        component.sidecar.as_ref().filter(|_| self.mesh.is_some())
    }

    /// Components behind a service proxy, with it.
    pub(crate) fn sidecars(&self) -> impl Iterator<Item = (&Component, &Sidecar)> {
        let all = self.components.iter();
        all.filter_map(|component| Some((component, self.sidecar(component)?)))
    }

    /// The component that is the control plane.
    pub(crate) fn control_plane(&self) -> Option<&Component> {
        let mesh = self.mesh.as_ref()?;
        self.component(&mesh.control_plane.component.value)
    }

    /// The components that are control planes, each with its bootstrap port; the first one first.
    pub(crate) fn control_planes(&self) -> impl Iterator<Item = (&Component, u16)> {
        let mesh = self.mesh.iter();
        let all = mesh.flat_map(|mesh| mesh.control_plane.all());
        all.filter_map(|(name, port)| Some((self.component(&name.value)?, port.value)))
    }

    /// The PostgreSQL server that has the control plane's state, where one has.
    pub(crate) fn plane_database(&self) -> Option<&Component> {
        let plane = &self.mesh.as_ref()?.control_plane;
        let mut servers = self.servers().filter(|_| plane.is_in_a_database());
        servers.find(|server| server.databases().contains(&plane.component.value))
    }

    /// The component that is the agent.
    pub(crate) fn agent(&self) -> Option<&Component> {
        self.component(&self.mesh.as_ref()?.agent.value)
    }

    /// Last part of the SPIFFE id of a component: an agent's says its node.
    pub(crate) fn workload_of(&self, component: &Component) -> String {
        match (&self.mesh, self.role(component)) {
            (Some(mesh), Some(Role::Agent)) => format!("agent/{}", mesh.node.value),
            // Replicas are one to everybody else.
            (Some(mesh), Some(Role::ControlPlane)) => mesh.control_plane.component.value.clone(),
            _ => component.name.value.clone(),
        }
    }

    /// Every process of a binary of ours, with that binary: components and their proxies.
    pub(crate) fn programs(&self) -> Vec<(String, String)> {
        let own = self.binaries().map(|component| {
            let binary = component.binary.clone().unwrap_or_default();
            (component.name.value.clone(), binary)
        });
        let proxies = self.sidecars();
        let proxies =
            proxies.map(|(component, _)| (proxy_name(component), PROXY_BINARY.to_owned()));
        own.chain(proxies).collect()
    }

    /// Every connection that the composition declares: calls, spans, and the admin listeners.
    pub(crate) fn edges(&self) -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for callee in &self.components {
            let name = &callee.name.value;
            if matches!(self.role(callee), Some(Role::Agent | Role::ControlPlane)) {
                continue;
            }
            let edge = |caller: &str, port: u16| Edge {
                caller: caller.to_owned(),
                callee: name.clone(),
                port,
            };
            if let Some(port) = &callee.port {
                // The collector of spans calls itself as well: its own spans go where all go.
                let callers = self.callers_of(callee).into_iter();
                let callers = callers.filter_map(|caller| self.component(caller));
                let callers = callers.map(|caller| self.workload_of(caller));
                edges.extend(callers.map(|caller| edge(&caller, port.value)));
            }
            if let Some(admin) = &callee.admin {
                let readers = [OPERATOR, MONITOR].into_iter();
                edges.extend(readers.map(|reader| edge(reader, admin.value)));
            }
        }
        edges
    }
}

/// Name of the process that is a component's proxy.
pub(crate) fn proxy_name(component: &Component) -> String {
    format!("{}{PROXY}", component.name.value)
}

/// Every port of a sidecar with what it is for.
pub(super) fn ports(sidecar: &Sidecar) -> Vec<(&Spanned<u16>, &'static str)> {
    let mut ports = vec![
        (&sidecar.app, "plaintext listener"),
        (&sidecar.app_admin, "plaintext admin listener"),
        (&sidecar.outbound, "outbound listener of the proxy"),
        (&sidecar.admin, "admin listener of the proxy"),
    ];
    let tcp = sidecar.tcp.iter();
    ports.extend(tcp.map(|edge| (&edge.port, "TCP listener of the proxy")));
    let captured = sidecar.captured.iter();
    ports.extend(captured.map(|port| (port, "capture listener of the proxy")));
    ports
}

/// The same, to be changed.
pub(super) fn ports_mut(sidecar: &mut Sidecar) -> Vec<&mut Spanned<u16>> {
    let mut ports = vec![
        &mut sidecar.app,
        &mut sidecar.app_admin,
        &mut sidecar.outbound,
        &mut sidecar.admin,
    ];
    ports.extend(sidecar.tcp.iter_mut().map(|edge| &mut edge.port));
    ports.extend(sidecar.captured.as_mut());
    ports
}
