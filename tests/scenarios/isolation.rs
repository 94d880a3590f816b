//! R59: who reaches whom in containers. The probe looks out of every network that a container, or a
//! component with its proxy, stands in, and what it finds is compared with `ringwall.yaml`, address by
//! address.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::mesh;
use e2e::stack::declared::Declared;
use e2e::stack::probe::{self, Dial, Dialled, Task};
use e2e::stack::{StackInfo, cleanup, engine};

/// It asks the components how they are, and no component asks it.
const PROVISIONER: &str = "provisioner";
/// Where proxies accept tunnels of each other.
const HBONE: u16 = 15_008;
/// How long a resolver may take to accept.
const WAIT: Duration = Duration::from_secs(2);
/// Nobody outside is known to answer everywhere. This one does not matter if it does not.
const OUTSIDE: &str = "1.1.1.1:53";
const OUTSIDE_NAME: &str = "example.com";

/// An address at which something listens, and what stands behind it.
struct Target {
    service: String,
    network: String,
    address: SocketAddr,
    port: Port,
    /// Who answers.
    peer: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Port {
    Mesh,
    Admin,
    /// Of a service proxy itself.
    ProxyAdmin,
    Tunnel,
    /// Where agents join.
    Bootstrap,
    /// Of a component behind its proxy: nobody reaches it by an address that others have.
    Loopback,
    Public,
    /// PostgreSQL speaks its own protocol before TLS.
    Database,
}

/// TCP connects exactly where the composition puts both in one network, and a request over mTLS is
/// answered exactly where it declares an edge.
pub(super) async fn r59_reachable_is_what_is_declared(stack: Arc<StackInfo>) -> Result<()> {
    let declared = Declared::read()?;
    let site = stack.containers()?;
    let targets = targets(&stack, &declared)?;
    let mut wrong = Vec::new();
    let (mut reached, mut answered) = (0, 0);
    for container in &site.networks() {
        let from = site.tenant(container);
        let workload = declared.node(from).is_some_and(|node| node.admin.is_some());
        let identity = workload.then(|| mesh::made_identity(&stack, &declared.workload(from)));
        let task = Task {
            dials: targets.iter().map(|to| dial(to, workload)).collect(),
            identity: identity.transpose()?,
            ..Task::default()
        };
        let report = site
            .probe(container, &task)
            .with_context(|| format!("from {from}"))?;
        let networks = networks(&declared, from);
        for (to, found) in targets.iter().zip(&report.dials) {
            let near = from == to.service || networks.contains(&to.network);
            let near = near && to.port != Port::Loopback;
            let edge = may_speak(&declared, from, to);
            reached += usize::from(found.refused.is_none());
            answered += usize::from(matches!(found.answer, Some(Ok(_))));
            wrong.extend(difference(from, to, found, near, edge));
        }
    }
    ensure!(wrong.is_empty(), "not as declared:\n{}", wrong.join("\n"));
    // Were nothing reached at all, the probe would prove nothing.
    ensure!(
        reached > targets.len() && answered > declared.components.len(),
        "{reached} reached, {answered} answered"
    );
    Ok(())
}

/// What differs between the declaration and one finding.
fn difference(from: &str, to: &Target, found: &Dialled, near: bool, edge: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = format!("{from} → {} {:?} on {}", to.service, to.port, to.network);
    if found.refused.is_none() != near {
        wrong.push(format!(
            "{name}: reachable declared {near}, found {found:?}"
        ));
    }
    let answered = found.answer.as_ref().map(Result::is_ok);
    if near && answered.is_some_and(|answered| answered != edge) {
        wrong.push(format!("{name}: edge declared {edge}, found {found:?}"));
    }
    wrong
}

/// The engine forwards one port to one container, from loopback.
pub(super) async fn r59_only_the_gateways_port_is_published(stack: Arc<StackInfo>) -> Result<()> {
    let declared = Declared::read()?;
    let site = stack.containers()?;
    let mut published = Vec::new();
    for service in &site.services {
        let inspected = engine::inspect(&site.container(service))?;
        ensure!(
            inspected["HostConfig"]["PublishAllPorts"] == false,
            "{service} publishes all its ports"
        );
        ensure!(
            inspected["HostConfig"]["NetworkMode"] != "host",
            "{service} has the host's network"
        );
        for place in ["HostConfig", "NetworkSettings"] {
            let key = if place == "HostConfig" {
                "PortBindings"
            } else {
                "Ports"
            };
            let ports = inspected[place][key].as_object();
            for (port, bindings) in ports.into_iter().flatten() {
                for binding in bindings.as_array().into_iter().flatten() {
                    published.push(format!("{place}: {service} {port} {binding}"));
                }
            }
        }
    }
    let port = site.port;
    let expected: Vec<String> = ["HostConfig", "NetworkSettings"]
        .map(|place| {
            let binding =
                serde_json::json!({ "HostIp": "127.0.0.1", "HostPort": port.to_string() });
            format!("{place}: {} {port}/tcp {binding}", declared.public)
        })
        .into();
    ensure!(published == expected, "published: {published:#?}");
    Ok(())
}

/// A container beside the platform reaches none of it, not even what the gateway publishes.
pub(super) async fn r59_nothing_is_reachable_from_another_network(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let declared = Declared::read()?;
    let site = stack.containers()?;
    let network = format!("{}-outside", site.project);
    let label = cleanup::label();
    engine::docker(&["network", "create", "--label", &label, &network])?;
    let mut dials: Vec<Dial> = targets(&stack, &declared)?
        .iter()
        .map(|to| dial(to, false))
        .collect();
    // The published port, at the addresses that the host has in the platform's networks.
    for name in ["edge", "mesh", "data"] {
        for gateway in gateways(&site.network(name))? {
            dials.push(Dial::to(SocketAddr::new(gateway, site.port)));
        }
    }
    let task = Task {
        dials,
        names: site.services.clone(),
        ..Task::default()
    };
    let outcome = probe::in_network(&network, &task);
    engine::docker(&["network", "rm", &network])?;
    let report = outcome?;
    for (dial, found) in task.dials.iter().zip(&report.dials) {
        ensure!(found.refused.is_some(), "reached {} from outside", dial.to);
    }
    for (name, addresses) in &report.names {
        ensure!(
            addresses.is_empty(),
            "{name} is known outside: {addresses:?}"
        );
    }
    Ok(())
}

/// A dial outwards and a look-up of an outside name fail in every container but those of the gateway
/// and of the egress gateway.
///
/// The resolvers of this machine stand for outside: the machine needs them to work, so where it
/// reaches one, these two must too, and that is the control.
pub(super) async fn r59_mesh_and_data_have_no_way_out(stack: Arc<StackInfo>) -> Result<()> {
    let declared = Declared::read()?;
    let site = stack.containers()?;
    let mut outside: Vec<SocketAddr> = resolvers()?;
    let near = outside
        .iter()
        .any(|address| std::net::TcpStream::connect_timeout(address, WAIT).is_ok());
    outside.push(OUTSIDE.parse()?);
    let dials: Vec<Dial> = outside.into_iter().map(Dial::to).collect();
    for container in &site.networks() {
        let from = site.tenant(container);
        let all = site.networks();
        let mut others = all.iter().map(|other| site.tenant(other));
        let neighbour = others.find(|other| {
            let near = networks(&declared, from);
            *other != from && !near.is_disjoint(&networks(&declared, other))
        });
        let neighbour = neighbour.context("a container alone")?;
        let task = Task {
            dials: dials.clone(),
            names: vec![OUTSIDE_NAME.to_owned(), neighbour.to_owned()],
            ..Task::default()
        };
        let report = site.probe(container, &task)?;
        let addresses = |name: &str| report.names.get(name).cloned().unwrap_or_default();
        // Without this control a probe that cannot resolve anything would prove the wall.
        ensure!(
            !addresses(neighbour).is_empty(),
            "{from} does not find {neighbour}"
        );
        let out = report.dials.iter().any(|dial| dial.refused.is_none());
        if networks(&declared, from).contains("edge") {
            ensure!(out || !near, "{from} has no way out: {report:?}");
        } else {
            ensure!(!out, "{from} has a way out: {report:?}");
            ensure!(
                addresses(OUTSIDE_NAME).is_empty(),
                "{from} looks up {OUTSIDE_NAME}"
            );
        }
    }
    for name in ["mesh", "data"] {
        let inspected = engine::inspect(&site.network(name))?;
        ensure!(inspected["Internal"] == true, "{name} is not internal");
    }
    Ok(())
}

/// The resolvers that this machine uses, without its own.
fn resolvers() -> Result<Vec<SocketAddr>> {
    let text = std::fs::read_to_string("/etc/resolv.conf")?;
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    let addresses = lines.filter_map(|address| address.trim().parse::<IpAddr>().ok());
    Ok(addresses
        .filter(|address| !address.is_loopback())
        .map(|address| SocketAddr::new(address, 53))
        .collect())
}

/// Every address of every service in every network, with every port.
fn targets(stack: &StackInfo, declared: &Declared) -> Result<Vec<Target>> {
    let site = stack.containers()?;
    let mut targets = Vec::new();
    for node in &declared.components {
        let own = if node.admin.is_some() {
            Port::Mesh
        } else {
            Port::Database
        };
        let mut ports: Vec<(u16, Port)> = node.port.map(|port| (port, own)).into_iter().collect();
        ports.extend(node.admin.map(|admin| (admin, Port::Admin)));
        if node.name == declared.public {
            ports.push((site.port, Port::Public));
        }
        if node.name == declared.control_plane {
            ports.push((declared.bootstrap, Port::Bootstrap));
        }
        if let Some(proxy) = &node.proxy {
            ports.push((proxy.admin, Port::ProxyAdmin));
            ports.push((HBONE, Port::Tunnel));
            ports.extend(proxy.loopback.map(|port| (port, Port::Loopback)));
        }
        for (network, address) in site.addresses(&node.name)? {
            for (port, kind) in &ports {
                targets.push(Target {
                    service: node.name.clone(),
                    network: network.clone(),
                    address: SocketAddr::new(address, *port),
                    port: *kind,
                    peer: declared.workload(&node.name),
                });
            }
        }
    }
    Ok(targets)
}

fn dial(to: &Target, with_identity: bool) -> Dial {
    let speaks = matches!(to.port, Port::Mesh | Port::Admin | Port::ProxyAdmin);
    Dial {
        to: to.address,
        get: None,
        peer: (with_identity && speaks).then(|| to.peer.clone()),
    }
}

/// On the mesh port those who are declared, and everybody at the control plane, which decides what may
/// be asked; on an admin port a process only meets itself.
fn may_speak(declared: &Declared, from: &str, to: &Target) -> bool {
    let node = declared.node(&to.service);
    let behind_proxy = node.is_some_and(|node| node.proxy.is_some());
    match to.port {
        Port::Mesh if to.service == declared.control_plane => true,
        Port::Mesh => declared.has_edge(from, &to.service),
        // A component asks its own admin port on loopback, past its proxy.
        Port::Admin => from == to.service && !behind_proxy,
        Port::ProxyAdmin => from == to.service,
        Port::Tunnel | Port::Bootstrap | Port::Loopback | Port::Public | Port::Database => false,
    }
}

fn networks(declared: &Declared, service: &str) -> BTreeSet<String> {
    if service == PROVISIONER {
        return BTreeSet::from(["mesh".to_owned()]);
    }
    declared.networks(service)
}

/// The host's own addresses in a network.
fn gateways(network: &str) -> Result<Vec<IpAddr>> {
    let inspected = engine::inspect(network)?;
    let configs = inspected["IPAM"]["Config"].as_array().into_iter().flatten();
    let gateways = configs.filter_map(|config| config["Gateway"].as_str());
    Ok(gateways
        .filter_map(|gateway| gateway.split('/').next()?.parse().ok())
        .collect())
}
