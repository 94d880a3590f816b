//! Step 2: which port of which service is meant.
//!
//! Owns: the names of the mesh. `name` and `name:port` are services; a name with a dot, and an address, is outside and goes
//! through the egress gateway, which is the service [`EGRESS`]. Must not: decide whether the call is allowed.

use std::net::IpAddr;
use std::sync::Arc;

use super::admit::{Admitted, Purpose, Target};
use super::captured::{Bound, Way};
use super::exchange::Exchange;
use super::tcp::TcpTarget;
use crate::access_log::FlowKind;
use crate::refusal::Refusal;
use crate::serve::Session;
use crate::snapshot::{Port, Protocol, Service, Snapshot};

/// Name of the egress gateway's workload.
pub(crate) const EGRESS: &str = "egress";

/// Evidence: the call has a destination that this proxy knows.
#[derive(Debug)]
pub(super) struct Destined {
    pub(super) admitted: Admitted,
    pub(super) service: Arc<Service>,
    pub(super) port: Port,
}

pub(super) fn destine(
    session: &Session,
    snapshot: &Snapshot,
    admitted: Admitted,
    way: &Way,
    exchange: &mut Exchange,
) -> Result<Destined, Refusal> {
    known(snapshot)?;
    let opaque = matches!(admitted.purpose, Purpose::Tunnel(_));
    exchange.kind = match admitted.purpose {
        Purpose::Request { .. } => FlowKind::Request,
        Purpose::WebSocket(_) => FlowKind::WebSocket,
        Purpose::Tunnel(_) => FlowKind::Tcp,
    };
    let named = snapshot.services.get(admitted.target.host());
    let (service, port) = match (way, named) {
        (Way::Bound(bound), _) => of_connection(session, snapshot, bound)?,
        (Way::Named, Some(service)) => (service, port_of(service, admitted.target.port, opaque)?),
        (Way::Named, None) | (Way::Outside, _) => outside(session, snapshot, &admitted.target)?,
    };
    exchange.goes_to(service, port.number);
    Ok(Destined {
        service: Arc::clone(service),
        port,
        admitted,
    })
}

/// The destination of a captured connection: what `Host` says is between the application and the service.
fn of_connection<'a>(
    session: &Session,
    snapshot: &'a Snapshot,
    bound: &Bound,
) -> Result<(&'a Arc<Service>, Port), Refusal> {
    let service = snapshot
        .services
        .get(&bound.service)
        .ok_or_else(|| unknown(session, &bound.service))?;
    Ok((service, port_of(service, Some(bound.port), false)?))
}

/// The destination of a listener for opaque bytes.
pub(super) fn of_listener<'a>(
    session: &Session,
    snapshot: &'a Snapshot,
    target: &TcpTarget,
) -> Result<(&'a Arc<Service>, Port), Refusal> {
    known(snapshot)?;
    let service = snapshot
        .services
        .get(&target.service)
        .ok_or_else(|| unknown(session, &target.service))?;
    let port = match target.port {
        Some(number) => service.ports.iter().find(|port| port.number == number),
        None => {
            let opaque = |port: &&Port| port.protocol == Protocol::Tcp;
            let first = service.ports.iter().find(opaque);
            first.or_else(|| service.ports.first())
        }
    };
    Ok((service, *port.ok_or(Refusal::UnknownPort)?))
}

/// Before the control plane has spoken, and without its policy, nobody is called.
fn known(snapshot: &Snapshot) -> Result<(), Refusal> {
    match &snapshot.policy {
        Some(_) => Ok(()),
        None => Err(Refusal::NotReady),
    }
}

/// The port that was named, or the first that speaks HTTP. A tunnel names it, and opaque ports take nothing else.
fn port_of(service: &Service, named: Option<u16>, opaque: bool) -> Result<Port, Refusal> {
    let speaks_http = |port: &Port| port.protocol != Protocol::Tcp;
    let port = match named {
        Some(number) => service.ports.iter().find(|port| port.number == number),
        None if opaque => None,
        None => service.ports.iter().find(|port| speaks_http(port)),
    };
    port.filter(|port| opaque || speaks_http(port))
        .copied()
        .ok_or(Refusal::UnknownPort)
}

/// The egress gateway, for names that are none of the mesh.
fn outside<'a>(
    session: &Session,
    snapshot: &'a Snapshot,
    target: &Target,
) -> Result<(&'a Arc<Service>, Port), Refusal> {
    let egress = Some(EGRESS).filter(|_| is_outside(target.host()));
    let service = egress
        .and_then(|egress| snapshot.services.get(egress))
        .ok_or_else(|| unknown(session, target.host()))?;
    Ok((service, port_of(service, None, false)?))
}

fn is_outside(host: &str) -> bool {
    host.contains('.') || host.starts_with('[') || host.parse::<IpAddr>().is_ok()
}

fn unknown(session: &Session, host: &str) -> Refusal {
    let workload = &session.worker.shared.workload;
    let how = if is_outside(host) {
        format!(
            "declare the host under `egress` in ringwall.yaml, and `{EGRESS}` among the `calls` of `{workload}`"
        )
    } else {
        format!("declare it in ringwall.yaml, among the `calls` of `{workload}`")
    };
    let reason = format!("`{workload}` may not call `{host}`, or there is no such service: {how}");
    Refusal::UnknownService(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::fixture::{http, service};

    fn orders() -> Service {
        let mut orders = service("orders", http(7105), &[]);
        orders.ports.insert(
            0,
            Port {
                number: 7001,
                protocol: Protocol::Tcp,
            },
        );
        orders.ports.push(http(7205));
        orders
    }

    #[test]
    fn a_port_is_named_or_the_first_of_http() {
        let orders = orders();
        let number = |named, opaque| port_of(&orders, named, opaque).map(|port| port.number).ok();
        assert_eq!(number(None, false), Some(7105));
        assert_eq!(number(Some(7205), false), Some(7205));
        assert_eq!(number(Some(7001), false), None, "no HTTP on an opaque port");
        assert_eq!(number(Some(80), false), None);
        assert_eq!(number(Some(7001), true), Some(7001));
        assert_eq!(number(None, true), None);
    }

    #[test]
    fn names_without_a_dot_are_services() {
        for host in [
            "api.example.com",
            "10.0.0.1",
            "[::1]",
            "localhost.localdomain",
        ] {
            assert!(is_outside(host), "{host}");
        }
        for host in ["inventory", "spa-proxy", "localhost"] {
            assert!(!is_outside(host), "{host}");
        }
    }
}
