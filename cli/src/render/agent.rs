//! Configuration of the agent: how it joins, and which certificates it writes to files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{PREFIX, Rendering};
use crate::cgroups::Side;
use crate::composition::{Acceleration, Component, MONITOR, OPERATOR, Role};
use crate::interception::{Interception, parent_of_container};

/// Whom everything in the platform's containers runs as (deploy/images/rootfs/etc/passwd).
const CONTAINER_USER: u32 = 10_001;

impl Rendering<'_> {
    pub(super) fn agent(&self, component: &Component) -> Map<String, Value> {
        let (composition, site) = (self.composition, self.site);
        let name = &component.name.value;
        let node = composition
            .mesh
            .as_ref()
            .map(|mesh| mesh.node.value.clone());
        let node = node.unwrap_or_default();
        let admin = site.admin_listen(component);
        let service = json!({
            "name": name,
            "workload": composition.workload_of(component),
            "trust_domain": composition.trust_domain.value,
            "profile": self.profile.as_str(),
            // Nobody calls it but by its socket: the address is never bound.
            "listen": "127.0.0.1:0",
            "admin": admin,
            "admin_callers": [OPERATOR, MONITOR, composition.workload_of(component)],
            "identity": "self",
            "upstreams": Map::from_iter(self.to_control_planes()),
            "secrets": self.secrets(name),
            "logs": { "format": composition.logs.format, "level": composition.logs.level },
            "drain": "1s",
            "state": site.data(name),
        });
        let mut addresses = composition
            .control_planes()
            .map(|(plane, port)| site.place(&plane.name.value, port));
        let bootstrap = addresses.next().map(|address| {
            let further: Vec<_> = addresses.collect();
            json!({ "address": address, "further": further, "bundle": site.read(name).ca })
        });
        let mut document = Map::from_iter([
            ("service".to_owned(), service),
            ("node".to_owned(), json!(node)),
            ("bootstrap".to_owned(), json!(bootstrap)),
            ("socket".to_owned(), json!(site.agent_socket())),
            ("deliver".to_owned(), json!(self.deliveries())),
        ]);
        if let Some(socket) = site.spawned_socket().filter(|_| self.spawned) {
            let spawned = json!({ "spawned": { "socket": socket } });
            document.insert("attestation".into(), spawned);
        }
        if let Some(kernel) = self.kernel {
            document.insert("kernel".into(), self.enforcement(kernel));
        }
        if site.has_own_network() {
            // A container does not see the host's cgroups. The engine alone makes those of containers, and its
            // volume is what nobody else reaches the socket through.
            let mut engine_s = json!({ "require_owned_cgroups": false });
            // Under the usual name the agent knows them by itself.
            if self.prefix != PREFIX
                && let Some(fields) = engine_s.as_object_mut()
            {
                fields.insert("selectors".into(), json!(self.selectors()));
            }
            document.insert("attestation".into(), engine_s);
        }
        document
    }

    /// Which control groups of containers are whose.
    fn selectors(&self) -> BTreeMap<String, String> {
        let components = self.composition.components.iter();
        let both = components.flat_map(|component| {
            let name = &component.name.value;
            [Side::App, Side::Proxy].map(|side| {
                let group = parent_of_container(self.prefix, name, side);
                (group, self.composition.workload_of(component))
            })
        });
        both.collect()
    }

    /// Which control groups the kernel binds to which proxies.
    fn enforcement(&self, kernel: &Interception) -> Value {
        let own = |component: &&Component| {
            let role = self.composition.role(component);
            matches!(role, Some(Role::Ingress | Role::Egress))
        };
        let uncaptured = self
            .composition
            .components
            .iter()
            .filter(own)
            .map(|component| {
                let side = match self.composition.role(component) {
                    Some(Role::Egress) => Side::Proxy,
                    _ => Side::App,
                };
                json!({ "workload": component.name.value, "group": group(kernel, component, side) })
            });
        let mesh = self.composition.mesh.as_ref();
        let acceleration = mesh.and_then(|mesh| mesh.acceleration.as_ref());
        let acceleration = acceleration.map(|wish| wish.value);
        let mut document = json!({
            "object": kernel.object, "slice": kernel.slice, "pins": kernel.pins,
            "workloads": self.captured(kernel),
            "uncaptured": uncaptured.collect::<Vec<_>>(),
            "acceleration": acceleration.unwrap_or(Acceleration::Off),
        });
        if kernel.by_engine.is_some()
            && let Some(fields) = document.as_object_mut()
        {
            fields.insert("groups".into(), json!("engine"));
            fields.insert("named".into(), json!(self.named()));
        }
        let public = &self.composition.public;
        // A container's interface is not in the agent's network.
        let shield = public
            .shield
            .as_ref()
            .filter(|_| kernel.by_engine.is_none());
        if let (Some(shield), Some(fields)) = (shield, document.as_object_mut()) {
            let shield = json!({
                "interfaces": shield.interfaces,
                "ports": [public.port.value],
                "connections": shield.connections,
                "allow": shield.allow,
                "feeders": [public.component.value],
            });
            fields.insert("shield".into(), shield);
        }
        document
    }

    /// Those whose connections are led to their proxy, each with what it may do beside that.
    fn captured(&self, kernel: &Interception) -> Vec<Value> {
        let sidecars = self.composition.sidecars();
        let captured = sidecars.filter(|(_, sidecar)| sidecar.captured.is_some());
        let egress = self
            .composition
            .mesh
            .as_ref()
            .and_then(|mesh| mesh.egress.as_ref());
        let goes_out = |component: &Component| {
            let mut calls = component.calls.iter();
            egress.is_some_and(|egress| calls.any(|callee| callee.value == egress.value))
        };
        let workloads = captured.map(|(component, sidecar)| {
            let mut direct = vec![super::loopback(sidecar.outbound.value)];
            direct.extend(
                sidecar
                    .tcp
                    .iter()
                    .map(|edge| super::loopback(edge.port.value)),
            );
            if sidecar.dials_public {
                direct.extend(self.public_addresses());
            }
            json!({
                "workload": component.name.value,
                "app": group(kernel, component, Side::App),
                "proxy": group(kernel, component, Side::Proxy),
                "capture": super::captured(sidecar, Some(kernel)),
                // The same ports, over UDP.
                "names": super::captured(sidecar, Some(kernel)),
                "direct": direct,
                "egress": goes_out(component),
                "ports": [sidecar.app.value, sidecar.app_admin.value],
            })
        });
        workloads.collect()
    }

    /// Where the public listener is dialled past a proxy: everywhere it stands, or by its name.
    fn public_addresses(&self) -> Vec<String> {
        let (composition, site) = (self.composition, self.site);
        if site.has_own_network() {
            return vec![site.public_dial(composition).to_string()];
        }
        let listening = site.public_listen(composition).into_iter();
        listening.map(|address| address.to_string()).collect()
    }

    /// Services without a proxy, which the control plane knows by a name: the ingress, and whom spans are passed on to. What
    /// speaks no HTTP is dialled by a listener of the caller's proxy.
    fn named(&self) -> BTreeMap<String, Vec<String>> {
        let (composition, site) = (self.composition, self.site);
        let ingress = composition
            .components
            .iter()
            .filter(|component| composition.role(component) == Some(Role::Ingress))
            .map(|component| (component.name.value.clone(), site.dial(component)));
        let export = site.span_export(composition).map(|export| {
            let to = &export.to.value;
            (to.clone(), site.place(to, export.port.value))
        });
        let named = ingress.chain(export);
        named
            .map(|(name, address)| (name, vec![address.to_string()]))
            .collect()
    }

    /// Certificates for those that read files. With programs for the kernel the agent is root, and files are the readers'.
    fn deliveries(&self) -> Vec<Value> {
        let mut deliveries = self.written();
        if self.kernel.is_some_and(|kernel| kernel.by_engine.is_some()) {
            for fields in deliveries.iter_mut().filter_map(Value::as_object_mut) {
                let owner = json!({ "uid": CONTAINER_USER, "gid": CONTAINER_USER });
                fields.insert("owner".into(), owner);
            }
        }
        deliveries
    }

    fn written(&self) -> Vec<Value> {
        let (composition, site) = (self.composition, self.site);
        let mut deliveries = Vec::new();
        let public = &composition.public.component.value;
        deliveries.push(json!({
            "kind": "server", "workload": public, "dns": composition.public_hosts(),
            "directory": site.delivered(public).edge, "chain": "chain.pem", "key": "key.pem",
        }));
        for server in composition.servers() {
            let name = &server.name.value;
            let place = site.database_delivery(name);
            let mut delivery = json!({
                "kind": "server", "workload": name, "dns": [name, "localhost"], "ips": ["127.0.0.1"],
                "directory": place.directory, "bundle": "bundle.pem",
            });
            if let Some(fields) = delivery.as_object_mut() {
                if let Some(pid_file) = place.pid_file {
                    fields.insert("reload".into(), json!({ "sighup": pid_file }));
                }
                if let Some((uid, gid)) = self.database_user {
                    fields.insert("owner".into(), json!({ "uid": uid, "gid": gid }));
                }
            }
            deliveries.push(delivery);
            // The control plane issues its own, since it must be there before there is an agent.
            let plane = composition.control_plane().map(|plane| &plane.name.value);
            let roles = server.databases().into_iter();
            for role in roles.filter(|role| Some(role) != plane) {
                deliveries.push(json!({
                    "kind": "database-client", "workload": role, "role": role,
                    "directory": site.delivered(&role).identity.join(name),
                }));
            }
        }
        for engine in site.engines(composition) {
            let name = &engine.name.value;
            deliveries.push(json!({
                "kind": "svid", "workload": name, "directory": site.delivered(name).identity,
            }));
        }
        deliveries
    }
}

/// The control group of one side of a component.
fn group(kernel: &Interception, component: &Component, side: Side) -> PathBuf {
    kernel.group(&component.name.value, side)
}
