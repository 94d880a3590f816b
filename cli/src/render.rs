//! The configuration files that our binaries read: `service:` from the declared ports and edges, the
//! rest as it stands in the composition.
//!
//! Read next: `render/proxy.rs`, `render/control_plane.rs` and `render/agent.rs` for the parts of the mesh.

mod agent;
mod control_plane;
mod proxy;

pub(crate) use proxy::captured;
use serde_json::{Map, Value, json};

use crate::composition::{
    Component, Composition, MONITOR, OPERATOR, Profile, Role, Sidecar, TcpEdge, Variables,
    proxy_name,
};
use crate::error::CliError;
use crate::interception::Interception;
use crate::site::Site;

/// What `cgroup_parent` begins with, where nobody says otherwise: the agent knows it by itself.
pub(crate) const PREFIX: &str = "ringwall";

/// What all configurations are rendered from.
pub(crate) struct Rendering<'a> {
    pub(crate) composition: &'a Composition,
    pub(crate) site: &'a Site,
    pub(crate) profile: Profile,
    /// Whom PostgreSQL's files belong to, where that is not us.
    pub(crate) database_user: Option<crate::files::Owner>,
    /// Whether the agent is to hear the supervisor's word about processes.
    pub(crate) spawned: bool,
    /// Where the kernel leads components' calls to their proxies.
    pub(crate) kernel: Option<&'a Interception>,
    /// What `cgroup_parent` begins with in containers.
    pub(crate) prefix: &'a str,
}

/// One file: whose it is, which binary reads it, its YAML text.
pub(crate) struct Rendered {
    pub(crate) name: String,
    pub(crate) binary: String,
    pub(crate) text: String,
}

impl<'a> Rendering<'a> {
    /// Of a platform whose database runs as we do.
    pub(crate) fn new(
        composition: &'a Composition,
        site: &'a Site,
        profile: Profile,
    ) -> Rendering<'a> {
        Rendering {
            composition,
            site,
            profile,
            database_user: None,
            spawned: false,
            kernel: None,
            prefix: PREFIX,
        }
    }

    /// The files of all processes, proxies included.
    pub(crate) fn all(&self) -> Result<Vec<Rendered>, CliError> {
        let mut files = Vec::new();
        for component in self.composition.binaries() {
            files.push(Rendered {
                name: component.name.value.clone(),
                binary: component.binary.clone().unwrap_or_default(),
                text: self.component(component)?,
            });
            if let Some(sidecar) = self.composition.sidecar(component) {
                files.push(Rendered {
                    name: proxy_name(component),
                    binary: crate::composition::PROXY_BINARY.to_owned(),
                    text: yaml(self.proxy(component, sidecar)?)?,
                });
            }
        }
        Ok(files)
    }

    /// The YAML text for one component.
    pub(crate) fn component(&self, component: &Component) -> Result<String, CliError> {
        let mut document = match self.composition.role(component) {
            Some(Role::ControlPlane) => self.control_plane(component)?,
            Some(Role::Agent) => self.agent(component),
            Some(Role::Egress) => self.egress(component),
            Some(Role::Workload(sidecar)) => {
                Map::from_iter([("service".to_owned(), self.behind(component, sidecar))])
            }
            Some(Role::Ingress | Role::Database) | None => {
                Map::from_iter([("service".to_owned(), self.service(component))])
            }
        };
        self.own(component, &mut document)?;
        if self.feeds_shield(component) {
            // What the composition says of it itself stands.
            let abuse = document.entry("abuse").or_insert_with(|| json!({}));
            if let Some(fields) = abuse.as_object_mut() {
                fields.insert("agent".into(), json!(self.site.agent_socket()));
            }
        }
        yaml(document)
    }

    /// Whether the kernel drops, for this component, sources that it says.
    fn feeds_shield(&self, component: &Component) -> bool {
        let public = &self.composition.public;
        self.kernel.is_some_and(|kernel| kernel.by_engine.is_none())
            && public.shield.is_some()
            && public.component.value == component.name.value
    }

    /// The component's own keys, with `${…}` filled in.
    fn own(
        &self,
        component: &Component,
        document: &mut Map<String, Value>,
    ) -> Result<(), CliError> {
        for (key, value) in &component.config {
            let value = self.filled(component, &format!("config.{key}"), value)?;
            document.insert(key.clone(), value);
        }
        Ok(())
    }

    /// A value of the composition with its variables filled in; `place` is where it stands in the component.
    fn filled(&self, component: &Component, place: &str, value: &Value) -> Result<Value, CliError> {
        let variables = Variables {
            composition: self.composition,
            site: self.site,
            profile: self.profile,
            component,
            // A name of what speaks no HTTP is nothing that the kernel knows: the proxy has a listener for it.
            captured: self.is_captured(component) && !self.site.has_own_network(),
        };
        variables.fill(value).map_err(|why| CliError::Composition {
            place: format!("component `{}`, {place}", component.name.value),
            what: why,
            fix: "the variables are listed at the top of ringwall.yaml".into(),
        })
    }

    /// `service:` of a component that speaks mTLS itself.
    fn service(&self, component: &Component) -> Value {
        let (composition, site) = (self.composition, self.site);
        let name = &component.name.value;
        // A database is dialled with its own protocol, by the keys of the component's own section.
        let mut upstreams: Map<String, Value> = composition
            .callees_of(component)
            .into_iter()
            .filter_map(|callee| composition.component(callee))
            .filter(|callee| callee.binary.is_some())
            .map(|callee| upstream(&callee.name.value, site.dial(callee)))
            .collect();
        if composition.is_collector(component)
            && let Some(export) = site.span_export(composition)
        {
            let to = &export.to.value;
            upstreams.extend([upstream(to, site.place(to, export.port.value))]);
        }
        let identity = match composition.role(component) {
            Some(_) => json!(format!("unix:{}", site.agent_socket().display())),
            None => json!(site.read(name).identity),
        };
        let mut service = json!({
            "name": name,
            "trust_domain": composition.trust_domain.value,
            "profile": self.profile.as_str(),
            "listen": site.listen(component),
            "admin": site.admin_listen(component),
            "identity": identity,
            "callers": composition.callers_of(component),
            "admin_callers": [OPERATOR, MONITOR, name],
            "upstreams": upstreams,
            "secrets": self.secrets(name),
            "logs": { "format": composition.logs.format, "level": composition.logs.level },
            "drain": format!("{}s", composition.drain.as_secs()),
            "state": site.data(name),
        });
        let fields = service.as_object_mut();
        if let (Some(telemetry), Some(fields)) = (self.telemetry(component), fields) {
            fields.insert("telemetry".into(), telemetry);
        }
        service
    }

    /// Where the spans of a component, and of its proxy, go.
    fn telemetry(&self, component: &Component) -> Option<Value> {
        let composition = self.composition;
        let telemetry = composition.telemetry.as_ref();
        let telemetry = telemetry.filter(|_| composition.sends_spans(component))?;
        let (upstream, ratio) = (&telemetry.collector.value, telemetry.sample_ratio);
        Some(json!({ "upstream": upstream, "sample_ratio": ratio }))
    }

    /// `service:` of a component behind a proxy: plaintext on loopback, everybody by way of the proxy.
    fn behind(&self, component: &Component, sidecar: &Sidecar) -> Value {
        let outbound = loopback(sidecar.outbound.value);
        let captured = self.is_captured(component);
        let mut service = self.service(component);
        let Some(fields) = service.as_object_mut() else {
            return service;
        };
        fields.remove("identity");
        fields.insert("listen".into(), json!(loopback(sidecar.app.value)));
        fields.insert("admin".into(), json!(loopback(sidecar.app_admin.value)));
        if captured {
            // It dials services where they are, and knows of no proxy.
            let sidecar = match self.site.has_own_network() {
                true => json!({ "await_capture": true }),
                false => json!({}),
            };
            fields.insert("sidecar".into(), sidecar);
            return service;
        }
        fields.insert("sidecar".into(), json!({ "outbound": outbound }));
        let upstreams = fields.get_mut("upstreams").and_then(Value::as_object_mut);
        for upstream in upstreams.into_iter().flat_map(|map| map.values_mut()) {
            if let Some(upstream) = upstream.as_object_mut() {
                upstream.insert("address".into(), json!(outbound));
            }
        }
        service
    }

    /// Whether the kernel leads this component's calls to its proxy.
    fn is_captured(&self, component: &Component) -> bool {
        let sidecar = self.composition.sidecar(component);
        self.kernel.is_some() && sidecar.is_some_and(|sidecar| sidecar.captured.is_some())
    }

    fn secrets(&self, name: &str) -> Value {
        let files = self.site.read(name);
        json!({ "provider": "sealed", "file": files.sealed, "key_file": files.seal_key })
    }

    /// The control planes as upstreams: any of them will do, and all are one to their callers.
    fn to_control_planes(&self) -> impl Iterator<Item = (String, Value)> {
        let planes = self.composition.control_planes();
        planes.map(|(plane, _)| {
            let identity = self.composition.workload_of(plane);
            let address = self.site.dial(plane);
            (
                plane.name.value.clone(),
                json!({ "address": address, "identity": identity }),
            )
        })
    }
}

fn upstream(name: &str, address: ringwall_http_io::Address) -> (String, Value) {
    (
        name.to_owned(),
        json!({ "address": address, "identity": name }),
    )
}

/// Where a component dials the TCP edge of its proxy.
pub(crate) fn tcp_address(edge: &TcpEdge) -> String {
    loopback(edge.port.value)
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn yaml(document: Map<String, Value>) -> Result<String, CliError> {
    let yaml = serde_saphyr::to_string(&Value::Object(document))
        .map_err(|error| CliError::internal("rendering a configuration", error))?;
    Ok(format!(
        "# Made by `ringwall` from the composition: changes here are lost.\n{yaml}"
    ))
}
