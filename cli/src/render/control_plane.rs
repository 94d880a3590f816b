//! Configuration of the control plane: who exists, and what is allowed at first.

use ringwall_policy::mesh::Edge;
use serde_json::{Map, Value, json};

use super::Rendering;
use crate::composition::{Component, MONITOR, OPERATOR, Role, policy};
use crate::error::CliError;
use crate::provision::intermediate::is_external;

impl Rendering<'_> {
    pub(super) fn control_plane(
        &self,
        component: &Component,
    ) -> Result<Map<String, Value>, CliError> {
        let (composition, site) = (self.composition, self.site);
        let name = &component.name.value;
        let mut service = self.service(component);
        if let Some(fields) = service.as_object_mut() {
            fields.insert("identity".into(), json!("self"));
        }
        let mesh = composition.mesh.as_ref();
        let bootstrap = mesh.and_then(|mesh| site.own_listen(mesh.control_plane.bootstrap.value));
        let nodes: Vec<&String> = mesh.iter().map(|mesh| &mesh.node.value).collect();
        let life = humantime(composition.certificates.workloads);
        let services: Vec<Value> = composition
            .components
            .iter()
            .filter(|component| composition.role(component) != Some(Role::Agent))
            .map(|component| self.registered(component, &nodes))
            .chain(self.engines(&nodes))
            .chain(
                [self.reader(MONITOR, &nodes), self.reader(OPERATOR, &[])]
                    .into_iter()
                    .flatten(),
            )
            .collect();
        let mut document = Map::from_iter([
            ("service".to_owned(), service),
            ("bootstrap".to_owned(), json!(bootstrap)),
            ("nodes".to_owned(), json!(nodes)),
            ("services".to_owned(), json!(services)),
            (
                "authority".to_owned(),
                json!({
                    "roots": site.read(name).ca, "external_root": is_external(site.state()),
                    "svid_ttl": life, "database_ttl": life,
                    "server_ttl": humantime(composition.certificates.edge),
                }),
            ),
            (
                "store".to_owned(),
                json!({ "embedded": site.data(name).join("control-plane.db") }),
            ),
        ]);
        if let Some(source) = &composition.policy {
            let mut bundle = policy::bundle(composition, source)?;
            bundle.edges.extend(self.export_edge());
            let bundle = json!({
                "edges": bundle.edges, "policies": bundle.policies, "dry_run": bundle.dry_run,
                "examples": bundle.examples,
            });
            document.insert("policy".into(), bundle);
        }
        Ok(document)
    }

    /// A component as the registry knows it.
    fn registered(&self, component: &Component, nodes: &[&String]) -> Value {
        let composition = self.composition;
        let name = &component.name.value;
        let role = composition.role(component);
        let protocol = match role {
            Some(Role::Database) => "tcp",
            _ => "http",
        };
        let ports = component.port.iter().chain(&component.admin);
        let ports: Vec<Value> = ports
            .map(|port| json!({ "number": port.value, "protocol": protocol }))
            .collect();
        let databases = component.calls.iter().any(|callee| {
            let callee = composition.component(&callee.value);
            callee.is_some_and(|callee| callee.databases().contains(name))
        });
        let issued_here = role == Some(Role::ControlPlane);
        let mut entry = json!({
            "name": name, "owner": component.owner, "tier": component.tier,
            "nodes": if issued_here { json!([]) } else { json!(nodes) },
            "ports": ports, "dns": [name],
            "database_roles": if databases { json!([name]) } else { json!([]) },
            "server_names": self.server_names(component),
        });
        let Some(fields) = entry.as_object_mut() else {
            return entry;
        };
        if matches!(role, Some(Role::Database | Role::Ingress)) {
            fields.insert("direct".into(), json!([self.site.dial(component)]));
        }
        if !component.traffic.is_empty() {
            fields.insert("traffic".into(), json!(component.traffic));
        }
        entry
    }

    /// Names for which the component gets certificates without a SPIFFE id.
    fn server_names(&self, component: &Component) -> Vec<String> {
        if component.postgres.is_some() {
            let name = component.name.value.clone();
            return vec![name, "localhost".into(), "127.0.0.1".into()];
        }
        if component.name.value == self.composition.public.component.value {
            return self.composition.public_hosts();
        }
        Vec::new()
    }

    fn engines(&self, nodes: &[&String]) -> impl Iterator<Item = Value> {
        let export = self.site.span_export(self.composition);
        let engines = self.site.engines(self.composition).iter();
        engines.map(move |engine| {
            let name = &engine.name.value;
            let mut entry = json!({
                "name": name, "owner": "platform", "tier": "engine", "nodes": nodes, "dns": [name],
            });
            let export = export.filter(|export| export.to.value == *name);
            if let (Some(export), Some(fields)) = (export, entry.as_object_mut()) {
                let port = export.port.value;
                fields.insert(
                    "ports".into(),
                    json!([{ "number": port, "protocol": "http" }]),
                );
                fields.insert("direct".into(), json!([self.site.place(name, port)]));
            }
            entry
        })
    }

    /// From the collector of spans to the engine that it passes them on to, where this site has one.
    fn export_edge(&self) -> Option<Edge> {
        let export = self.site.span_export(self.composition)?;
        let telemetry = self.composition.telemetry.as_ref()?;
        Some(Edge {
            caller: telemetry.collector.value.clone(),
            callee: export.to.value.clone(),
            ports: vec![export.port.value],
        })
    }

    /// Somebody who only reads, where no engine of that name is declared.
    fn reader(&self, name: &str, nodes: &[&String]) -> Option<Value> {
        let engines = self.site.engines(self.composition);
        let declared = engines.iter().any(|engine| engine.name.value == name);
        (!declared).then(
            || json!({ "name": name, "owner": "platform", "tier": "operation", "nodes": nodes }),
        )
    }
}

/// `90s`; all of our times are whole seconds.
fn humantime(time: std::time::Duration) -> String {
    format!("{}s", time.as_secs())
}
