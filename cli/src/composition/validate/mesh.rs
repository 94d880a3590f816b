//! What the composition must not say of the mesh.

use ringwall_mesh_api::{traffic::Fault, weight};
use serde_saphyr::{Location, Spanned};

use super::Checker;
use crate::composition::mesh::{PROXY_BINARY, Sidecar, proxy_name};
use crate::composition::{Component, Mesh};
use crate::error::CliError;

/// The control plane's identity is known by this name to agents, proxies and the operator.
pub(super) const CONTROL_PLANE: &str = "control-plane";

impl Checker<'_> {
    pub(super) fn mesh(&self) -> Result<(), CliError> {
        let Some(mesh) = &self.composition.mesh else {
            return self.no_parts_of_a_mesh();
        };
        self.name(&mesh.node, "a node")?;
        if let Some(zone) = &mesh.zone {
            self.name(zone, "a zone")?;
        }
        for (name, sentence) in [
            (
                &mesh.control_plane.component,
                "mesh.control_plane.component is",
            ),
            (&mesh.agent, "mesh.agent is"),
        ] {
            self.known(name, sentence)?;
        }
        let plane = &mesh.control_plane.component;
        if plane.value != CONTROL_PLANE {
            let what = format!("the control plane is called `{}`", plane.value);
            let fix = format!("call it `{CONTROL_PLANE}`: by that name it is known to everybody");
            return self.refuse(plane.referenced, what, fix);
        }
        self.replicas(&mesh.control_plane)?;
        if let Some(egress) = &mesh.egress {
            self.egress(egress)?;
        }
        for component in &self.composition.components {
            self.has_its_port(mesh, component)?;
            self.has_its_proxy(mesh, component)?;
        }
        self.proxies_have_names_of_their_own()
    }

    /// Proxies would refuse what is refused here, long after the start and each for itself.
    pub(super) fn traffic(&self) -> Result<(), CliError> {
        for component in &self.composition.components {
            let Some(traffic) = &component.traffic else {
                continue;
            };
            if let Err(fault) = traffic.value.policy() {
                let (name, Fault { key, seen, .. }) = (&component.name.value, &fault);
                let what = format!(
                    "traffic.{key} of `{name}` is {seen}, expected {}",
                    fault.expected
                );
                return self.refuse(traffic.referenced, what, fault.fix);
            }
        }
        Ok(())
    }

    /// Whether the component leads outside on purpose.
    pub(super) fn is_egress(&self, name: &str) -> bool {
        let mesh = self.composition.mesh.as_ref();
        let egress = mesh.and_then(|mesh| mesh.egress.as_ref());
        egress.is_some_and(|egress| egress.value == name)
    }

    fn no_parts_of_a_mesh(&self) -> Result<(), CliError> {
        for component in &self.composition.components {
            let (name, at) = (&component.name.value, component.name.referenced);
            if component.sidecar.is_some() {
                let what = format!("`{name}` has a service proxy, and there is no mesh");
                return self.refuse(at, what, "add the section `mesh`, or remove `sidecar`");
            }
            if component.port.is_none() {
                return self.no_port(name, at);
            }
        }
        Ok(())
    }

    fn no_port<T>(&self, name: &str, at: Location) -> Result<T, CliError> {
        let what = format!("component `{name}` has no `port`");
        self.refuse(at, what, "give it one: there it takes calls")
    }

    fn egress(&self, egress: &Spanned<String>) -> Result<(), CliError> {
        self.known(egress, "mesh.egress is")?;
        let component = self.composition.component(&egress.value);
        let binary = component.and_then(|component| component.binary.as_deref());
        if binary == Some(PROXY_BINARY) {
            return Ok(());
        }
        let what = format!(
            "mesh.egress is `{}`, which is no service proxy",
            egress.value
        );
        let fix = format!("give it `binary: {PROXY_BINARY}`");
        self.refuse(egress.referenced, what, fix)
    }

    fn has_its_port(&self, mesh: &Mesh, component: &Component) -> Result<(), CliError> {
        let (name, at) = (&component.name.value, component.name.referenced);
        let is_agent = *name == mesh.agent.value;
        match &component.port {
            None if !is_agent => self.no_port(name, at),
            Some(port) if is_agent => {
                let what = format!("the agent `{name}` has a `port`");
                let fix = "remove it: workloads reach the agent by its unix socket";
                self.refuse(port.referenced, what, fix)
            }
            _ => Ok(()),
        }
    }

    /// A component with a binary of ours stands behind a service proxy, unless it is a part of the
    /// mesh itself.
    fn has_its_proxy(&self, mesh: &Mesh, component: &Component) -> Result<(), CliError> {
        let (name, at) = (&component.name.value, component.name.referenced);
        let planes = mesh.control_plane.all().map(|(plane, _)| plane);
        let part = [&mesh.agent, &self.composition.public.component]
            .into_iter()
            .chain(&mesh.egress)
            .chain(planes)
            .any(|part| part.value == *name);
        match &component.sidecar {
            None if part || component.binary.is_none() => Ok(()),
            None => {
                let what = format!("`{name}` has no service proxy");
                let fix =
                    "add `sidecar: { app: PORT, app_admin: PORT, outbound: PORT, admin: PORT }`";
                self.refuse(at, what, fix)
            }
            Some(sidecar) if part || component.binary.is_none() => {
                let what = format!("`{name}` has a service proxy before it");
                let fix = "remove `sidecar`: it speaks its own TLS";
                self.refuse(sidecar.app.referenced, what, fix)
            }
            Some(sidecar) => {
                self.weight(name, sidecar)?;
                self.tcp(component, sidecar)
            }
        }
    }

    fn weight(&self, name: &str, sidecar: &Sidecar) -> Result<(), CliError> {
        match &sidecar.weight {
            Some(weight) if weight.value > weight::MAX => {
                let what = format!(
                    "the weight of `{name}` is {}, expected 0 to {}",
                    weight.value,
                    weight::MAX
                );
                let fix = format!("leave it out for {}, or choose less", weight::DEFAULT);
                self.refuse(weight.referenced, what, fix)
            }
            _ => Ok(()),
        }
    }

    /// A database is dialled through the proxy, at a port of the proxy's own.
    fn tcp(&self, component: &Component, sidecar: &Sidecar) -> Result<(), CliError> {
        let name = &component.name.value;
        let is_database = |callee: &str| {
            let callee = self.composition.component(callee);
            callee.is_some_and(|callee| callee.postgres.is_some())
        };
        for edge in &sidecar.tcp {
            let (to, at) = (&edge.to.value, edge.to.referenced);
            self.known(
                &edge.to,
                &format!("the proxy of `{name}` passes bytes on to"),
            )?;
            if !component.calls.iter().any(|callee| callee.value == *to) {
                let what = format!(
                    "the proxy of `{name}` passes bytes on to `{to}`, which it does not call"
                );
                return self.refuse(
                    at,
                    what,
                    format!("add `{to}` to its `calls`, or remove this"),
                );
            }
            if !is_database(to) {
                let what =
                    format!("the proxy of `{name}` passes bytes on to `{to}`, which speaks HTTP");
                let fix = "remove this: HTTP goes by the service's name to the outbound listener";
                return self.refuse(at, what, fix);
            }
        }
        for callee in &component.calls {
            let listed = sidecar.tcp.iter().any(|edge| edge.to.value == callee.value);
            if is_database(&callee.value) && !listed {
                let what = format!(
                    "`{name}` calls `{}`, and its proxy has no listener for that",
                    callee.value
                );
                let fix = format!(
                    "add `tcp: [{{ to: {}, port: PORT }}]` to its `sidecar`",
                    callee.value
                );
                return self.refuse(callee.referenced, what, fix);
            }
        }
        Ok(())
    }

    fn proxies_have_names_of_their_own(&self) -> Result<(), CliError> {
        for component in &self.composition.components {
            let proxy = proxy_name(component);
            let other = self.composition.component(&proxy);
            let is_egress = self.is_egress(&component.name.value);
            if let Some(other) = other.filter(|_| component.sidecar.is_some() || is_egress) {
                let what = format!(
                    "`{proxy}` is what the proxy of `{}` is called",
                    component.name.value
                );
                return self.refuse(
                    other.name.referenced,
                    what,
                    "give this component another name",
                );
            }
        }
        Ok(())
    }
}
