//! The decisions: pure functions of a workload, a destination and the policy's maps.
//!
//! The same lines decide in the kernel and in user space; only `Policy`, the lookups, differs. Everything is inlined,
//! because the verifier follows one function best. Whatever is not named here is denied.

use crate::address::Endpoint;
use crate::map::{Connection, DirectKey, EdgeKey, Kind, PortKey, ServiceKey, Workload};
use crate::reason::Reason;
use crate::{DNS_PORT, TCP, UDP};

/// The lookups that a decision needs.
pub trait Policy {
    /// The service that listens there.
    fn service(&self, key: &ServiceKey) -> Option<u32>;
    /// May the workload call the service?
    fn edge(&self, key: &EdgeKey) -> bool;
    /// May the workload go there past the capture?
    fn direct(&self, key: &DirectKey) -> bool;
    /// Does the workload listen there?
    fn port(&self, key: &PortKey) -> bool;
}

/// What happens.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Deny,
    /// As it is.
    Pass,
    /// To the proxy's listener instead.
    Capture,
    /// To the proxy's name server instead.
    Names,
    /// To loopback instead.
    Narrow,
    /// A proxy's call of its own application: as it is, and the application's end may answer.
    Dial,
}

/// A decision with its reason, and the service that it was about (0 for none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    pub action: Action,
    pub reason: Reason,
    pub service: u32,
}

impl Verdict {
    #[inline(always)]
    const fn deny(reason: Reason) -> Self {
        Self {
            action: Action::Deny,
            reason,
            service: 0,
        }
    }

    #[inline(always)]
    const fn allow(action: Action) -> Self {
        Self {
            action,
            reason: Reason::Allowed,
            service: 0,
        }
    }

    #[inline(always)]
    const fn about(self, service: u32) -> Self {
        Self { service, ..self }
    }

    #[inline(always)]
    #[must_use]
    pub const fn denies(&self) -> bool {
        matches!(self.action, Action::Deny)
    }
}

/// May this socket be made? `socket_type` as in socket(2): 1 for streams, 2 for datagrams.
///
/// Protocol and type are looked at together: a raw socket may name TCP as its protocol, and a datagram socket ICMP.
#[inline(always)]
pub fn create(workload: Option<&Workload>, socket_type: u32, protocol: u32) -> Verdict {
    match workload {
        None => Verdict::deny(Reason::NotEnrolled),
        Some(workload) if !workload.is_app() => Verdict::allow(Action::Pass),
        Some(_) if socket_type == 1 && protocol == TCP as u32 => Verdict::allow(Action::Pass),
        Some(_) if socket_type == 2 && protocol == UDP as u32 => Verdict::allow(Action::Pass),
        Some(_) => Verdict::deny(Reason::Protocol),
    }
}

/// Where does a connection, or a datagram, of this workload go? `six` says whether its socket speaks IPv6.
#[inline(always)]
pub fn connect<P: Policy>(
    policy: &P,
    workload: Option<&Workload>,
    protocol: u8,
    six: bool,
    to: Endpoint,
) -> Verdict {
    let Some(workload) = workload else {
        return Verdict::deny(Reason::NotEnrolled);
    };
    if !workload.is_app() {
        return dial(policy, workload, protocol, to);
    }
    if protocol != TCP && protocol != UDP {
        return Verdict::deny(Reason::Protocol);
    }
    let direct = DirectKey {
        workload: workload.id,
        address: to.address.canonical(),
        port: to.port,
        protocol: protocol as u16,
    };
    if policy.direct(&direct) {
        return Verdict::allow(Action::Pass);
    }
    if protocol == UDP {
        return names(workload, six, to);
    }
    let service = ServiceKey {
        address: to.address.folded(),
        port: to.port as u32,
    };
    let service = match policy.service(&service) {
        Some(service) => {
            let edge = EdgeKey {
                workload: workload.id,
                service,
            };
            if !policy.edge(&edge) {
                return Verdict::deny(Reason::NoEdge).about(service);
            }
            service
        }
        None if workload.has(Workload::EGRESS) => 0,
        None => return Verdict::deny(Reason::UnknownDestination),
    };
    // A socket of IPv6 reaches an IPv4 listener by its mapped address; the other way there is none.
    let listener = workload.capture_4.is_some() || (six && workload.capture_6.is_some());
    if !listener {
        return Verdict::deny(Reason::NoProxy).about(service);
    }
    Verdict::allow(Action::Capture).about(service)
}

/// A proxy goes where it likes; when it calls its own application, that one has to know.
#[inline(always)]
fn dial<P: Policy>(policy: &P, workload: &Workload, protocol: u8, to: Endpoint) -> Verdict {
    let port = PortKey {
        workload: workload.id,
        port: to.port,
        protocol: protocol as u16,
    };
    let own = protocol == TCP && to.address.canonical().is_loopback() && policy.port(&port);
    Verdict::allow(if own { Action::Dial } else { Action::Pass })
}

/// Datagrams: queries for names go to the proxy, nothing else goes anywhere.
#[inline(always)]
fn names(workload: &Workload, six: bool, to: Endpoint) -> Verdict {
    let server = if six && !to.address.is_v4() {
        workload.dns_6
    } else {
        workload.dns_4
    };
    if to.port == DNS_PORT && server.is_some() {
        return Verdict::allow(Action::Names);
    }
    Verdict::deny(Reason::UdpNotDeclared)
}

/// May this workload bind there?
#[inline(always)]
pub fn bind<P: Policy>(
    policy: &P,
    workload: Option<&Workload>,
    protocol: u8,
    to: Endpoint,
) -> Verdict {
    let Some(workload) = workload else {
        return Verdict::deny(Reason::NotEnrolled);
    };
    if !workload.is_app() {
        return Verdict::allow(Action::Pass);
    }
    let port = PortKey {
        workload: workload.id,
        port: to.port,
        protocol: protocol as u16,
    };
    if to.port != 0 && !policy.port(&port) {
        return Verdict::deny(Reason::PortNotDeclared);
    }
    if to.address.is_loopback() {
        return Verdict::allow(Action::Pass);
    }
    if workload.has(Workload::NARROW) {
        return Verdict::allow(Action::Narrow);
    }
    Verdict::deny(Reason::PublicBind)
}

/// May this packet pass between a socket of the workload and `peer`?
///
/// `connection` is what a hook has let the socket through as. `inbound` looks for the workload whose proxy has dialled
/// this very connection; it is asked only of sockets that nothing is known about: listeners.
#[inline(always)]
pub fn packet<P: Policy>(
    policy: &P,
    workload: Option<&Workload>,
    protocol: u8,
    peer: Endpoint,
    connection: Option<&Connection>,
    inbound: impl FnOnce() -> Option<u32>,
) -> Verdict {
    let Some(workload) = workload else {
        return Verdict::deny(Reason::NotEnrolled);
    };
    if !workload.is_app() {
        return Verdict::allow(Action::Pass);
    }
    if protocol == UDP {
        return datagram(policy, workload, peer);
    }
    if protocol != TCP {
        return Verdict::deny(Reason::Protocol);
    }
    let Some(connection) = connection else {
        return match inbound() {
            Some(own) if own == workload.id => Verdict::allow(Action::Pass),
            Some(_) => Verdict::deny(Reason::NotItsProxy),
            None => Verdict::deny(Reason::NoConnection),
        };
    };
    // A socket that another workload has handed over.
    if connection.workload != workload.id {
        return Verdict::deny(Reason::NoConnection);
    }
    if connection.kind == Kind::Captured as u8 {
        return captured(policy, workload, peer, connection);
    }
    if connection.kind == Kind::Direct as u8 && direct(policy, workload, TCP, peer) {
        return Verdict::allow(Action::Pass);
    }
    if connection.kind == Kind::Inbound as u8 {
        return Verdict::allow(Action::Pass);
    }
    Verdict::deny(Reason::NotThePeer)
}

#[inline(always)]
fn captured<P: Policy>(
    policy: &P,
    workload: &Workload,
    peer: Endpoint,
    connection: &Connection,
) -> Verdict {
    let service = connection.service;
    if connection.mapped == 0 {
        return Verdict::deny(Reason::TableFull).about(service);
    }
    if !workload.capture_4.same(peer) && !workload.capture_6.same(peer) {
        return Verdict::deny(Reason::NotThePeer).about(service);
    }
    let held = if service == 0 {
        workload.has(Workload::EGRESS)
    } else {
        policy.edge(&EdgeKey {
            workload: workload.id,
            service,
        })
    };
    if held {
        Verdict::allow(Action::Pass).about(service)
    } else {
        Verdict::deny(Reason::EdgeRemoved).about(service)
    }
}

#[inline(always)]
fn datagram<P: Policy>(policy: &P, workload: &Workload, peer: Endpoint) -> Verdict {
    let server = peer.is_some() && (workload.dns_4.same(peer) || workload.dns_6.same(peer));
    if server || direct(policy, workload, UDP, peer) {
        return Verdict::allow(Action::Pass);
    }
    Verdict::deny(Reason::UdpNotDeclared)
}

#[inline(always)]
fn direct<P: Policy>(policy: &P, workload: &Workload, protocol: u8, peer: Endpoint) -> bool {
    policy.direct(&DirectKey {
        workload: workload.id,
        address: peer.address,
        port: peer.port,
        protocol: protocol as u16,
    })
}

#[cfg(test)]
mod tests;
