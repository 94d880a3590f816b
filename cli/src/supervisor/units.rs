//! The processes of a composition: components, and a service proxy before those that have one.
//!
//! Owns: what each needs to be there before it. The control plane needs the database that has its state, if one has; the
//! agent needs the control plane; whoever has an
//! identity or a certificate in files needs the agent; a component needs its proxy.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Parts;
use super::sockets::Sockets;
use super::unit::{Binary, Kind, Unit};
use crate::cgroups::{self, Side};
use crate::composition::{Component, PROXY_BINARY, Role, Sidecar, proxy_name};
use crate::error::CliError;
use crate::render::captured;

/// All of them; sockets are bound on the way.
pub(super) fn all(parts: &Parts) -> Result<Vec<Unit>, CliError> {
    let mut units = Vec::new();
    for component in &parts.composition.components {
        if let Some(sidecar) = parts.composition.sidecar(component) {
            units.push(proxy(parts, component, sidecar)?);
        }
        units.extend(of_component(parts, component)?);
    }
    Ok(units)
}

fn of_component(parts: &Parts, component: &Component) -> Result<Option<Unit>, CliError> {
    let (composition, site) = (&parts.composition, &parts.site);
    let (name, role) = (component.name.value.clone(), composition.role(component));
    let kind = match (&component.binary, site.dial_admin(component)) {
        (Some(binary), Some(admin)) => {
            let identity = composition.workload_of(component);
            let attested = match role {
                Some(Role::Ingress | Role::Egress) => Some(identity.clone()),
                _ => None,
            };
            let side = match role {
                Some(Role::Egress) => Side::Proxy,
                _ => Side::App,
            };
            let sockets = match role {
                Some(Role::Egress) => {
                    let own = [site.listen(component), site.admin_listen(component)];
                    let own: Vec<SocketAddr> = own.into_iter().flatten().collect();
                    Sockets::bind(&name, &own)?
                }
                _ => Sockets::default(),
            };
            // The parts of the mesh itself are no workloads.
            let workload = !matches!(role, Some(Role::ControlPlane | Role::Agent) | None);
            Kind::Binary(Box::new(Binary {
                program: parts.binaries.join(binary),
                config: site.read(&name).config,
                folder: site.data(&name),
                admin,
                identity,
                sockets,
                group: group(parts, &name, side).filter(|_| workload),
                confined: is_captured(parts, role),
                attested,
                launcher: parts.launcher.clone(),
            }))
        }
        _ => match &parts.server {
            Some(server) if component.postgres.is_some() => Kind::Postgres {
                server: Box::new(server.clone()),
                databases: component.databases(),
            },
            // Validation has refused the rest.
            _ => return Ok(None),
        },
    };
    let mut needs: Vec<String> = component
        .needs
        .iter()
        .map(|need| need.value.clone())
        .collect();
    needs.extend(needs_of_mesh(parts, component, role));
    Ok(Some(Unit {
        log: site.state().log(&name),
        name,
        needs,
        kind,
    }))
}

fn needs_of_mesh(parts: &Parts, component: &Component, role: Option<Role<'_>>) -> Vec<String> {
    let Some(mesh) = &parts.composition.mesh else {
        return Vec::new();
    };
    let plane = mesh.control_plane.component.value.clone();
    match role {
        None => Vec::new(),
        Some(Role::ControlPlane) => {
            let database = parts.composition.plane_database();
            database
                .map(|one| one.name.value.clone())
                .into_iter()
                .collect()
        }
        // It has a certificate from us to begin with.
        Some(Role::Database) if keeps_the_plane(parts, component) => Vec::new(),
        Some(Role::Agent) => vec![plane],
        Some(Role::Workload(_)) => vec![proxy_name(component)],
        Some(Role::Ingress | Role::Egress | Role::Database) => {
            vec![plane, mesh.agent.value.clone()]
        }
    }
}

fn keeps_the_plane(parts: &Parts, component: &Component) -> bool {
    let database = parts.composition.plane_database();
    database.is_some_and(|one| one.name.value == component.name.value)
}

/// The proxy before a component: it holds the component's addresses and identity.
fn proxy(parts: &Parts, component: &Component, sidecar: &Sidecar) -> Result<Unit, CliError> {
    let site = &parts.site;
    let (name, workload) = (proxy_name(component), &component.name.value);
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    // The order is that of the proxy's configuration (LISTEN_FDS): inbound, outbound, captured, admin.
    let mut addresses: Vec<SocketAddr> = site.listen(component).into_iter().collect();
    addresses.extend(site.admin_listen(component));
    addresses.push(local(sidecar.outbound.value));
    addresses.extend(sidecar.tcp.iter().map(|edge| local(edge.port.value)));
    addresses.extend(captured(sidecar, parts.kernel.as_ref()));
    addresses.push(local(sidecar.admin.value));
    let needs = parts.composition.mesh.iter().flat_map(|mesh| {
        let (plane, agent) = (&mesh.control_plane.component, &mesh.agent);
        [plane.value.clone(), agent.value.clone()]
    });
    let group = group(parts, workload, Side::Proxy);
    Ok(Unit {
        log: site.state().log(&name),
        needs: needs.collect(),
        kind: Kind::Binary(Box::new(Binary {
            program: parts.binaries.join(PROXY_BINARY),
            config: site.read(&name).config,
            folder: site.data(&name),
            admin: local(sidecar.admin.value).into(),
            identity: workload.clone(),
            sockets: match &group {
                // The kernel tells by the listening socket's group whose connections it brings.
                Some(group) => cgroups::within(group, || Sockets::bind(&name, &addresses))??,
                None => Sockets::bind(&name, &addresses)?,
            },
            group,
            confined: false,
            attested: Some(workload.clone()),
            launcher: parts.launcher.clone(),
        })),
        name,
    })
}

/// Whether the kernel leads the component's connections, and refuses all others.
fn is_captured(parts: &Parts, role: Option<Role<'_>>) -> bool {
    parts.kernel.is_some()
        && matches!(role, Some(Role::Workload(sidecar)) if sidecar.captured.is_some())
}

fn group(parts: &Parts, workload: &str, side: Side) -> Option<PathBuf> {
    parts.slice.as_ref()?.group(workload, side)
}
