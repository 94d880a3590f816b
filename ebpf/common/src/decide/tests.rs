//! What each decision refuses. Generated flows against a model of its own are in ebpf/loader/tests/kernel.

use core::net::SocketAddr;

use super::*;
use crate::map::Role;

const ORDERS: u32 = 7;
const PAYMENTS: u32 = 9;

/// An edge to `PAYMENTS` at 10.0.0.1:443, one direct address, one port.
struct Small {
    edge: bool,
}

impl Policy for Small {
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        let at = at("10.0.0.1:443");
        (key.address == at.address && key.port == 443).then_some(PAYMENTS)
    }
    fn edge(&self, key: &EdgeKey) -> bool {
        self.edge && key.workload == ORDERS && key.service == PAYMENTS
    }
    fn direct(&self, key: &DirectKey) -> bool {
        key.protocol == 6 && key.address == at("127.0.0.1:9").address && key.port == 9
    }
    fn port(&self, key: &PortKey) -> bool {
        key.workload == ORDERS && key.port == 8080
    }
}

fn at(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().unwrap().into()
}

fn workload(role: Role, flags: u8) -> Workload {
    Workload {
        id: ORDERS,
        role: role as u8,
        flags,
        padding: 0,
        capture_4: at("127.0.0.1:15001"),
        capture_6: Endpoint::NONE,
        dns_4: Endpoint::NONE,
        dns_6: Endpoint::NONE,
    }
}

fn connection(kind: Kind) -> Connection {
    Connection {
        workload: ORDERS,
        service: PAYMENTS,
        kind: kind as u8,
        mapped: 1,
        padding: 0,
        original: at("10.0.0.1:443"),
    }
}

/// A packet between a socket of this history and a peer.
fn reason(edge: bool, peer: &str, connection: &Connection) -> Reason {
    let app = workload(Role::App, 0);
    let nobody = || panic!("a socket with a history is not asked for a dial");
    packet(
        &Small { edge },
        Some(&app),
        TCP,
        at(peer),
        Some(connection),
        nobody,
    )
    .reason
}

#[test]
fn nobody_passes_without_an_enrolment() {
    let policy = Small { edge: true };
    let to = at("10.0.0.1:443");
    assert_eq!(
        connect(&policy, None, TCP, false, to).reason,
        Reason::NotEnrolled
    );
    assert_eq!(bind(&policy, None, TCP, to).reason, Reason::NotEnrolled);
    assert_eq!(create(None, 1, 6).reason, Reason::NotEnrolled);
    let seen = packet(&policy, None, TCP, to, None, || Some(ORDERS));
    assert_eq!(seen.reason, Reason::NotEnrolled);
}

#[test]
fn a_captured_connection_speaks_to_the_listener_while_its_edge_stands() {
    let captured = connection(Kind::Captured);
    let listener = "127.0.0.1:15001";
    assert_eq!(reason(true, listener, &captured), Reason::Allowed);
    assert_eq!(reason(false, listener, &captured), Reason::EdgeRemoved);
    assert_eq!(reason(true, "10.0.0.1:443", &captured), Reason::NotThePeer);
    let unmapped = Connection {
        mapped: 0,
        ..captured
    };
    assert_eq!(reason(true, listener, &unmapped), Reason::TableFull);
    let unknown = Connection {
        service: 0,
        ..captured
    };
    assert_eq!(reason(true, listener, &unknown), Reason::EdgeRemoved);
}

#[test]
fn a_direct_connection_ends_with_its_declaration() {
    let direct = connection(Kind::Direct);
    assert_eq!(reason(true, "127.0.0.1:9", &direct), Reason::Allowed);
    assert_eq!(reason(true, "127.0.0.1:10", &direct), Reason::NotThePeer);
}

#[test]
fn another_workloads_socket_is_of_no_use() {
    let stolen = Connection {
        workload: PAYMENTS,
        ..connection(Kind::Inbound)
    };
    assert_eq!(
        reason(true, "127.0.0.1:15001", &stolen),
        Reason::NoConnection
    );
    // The proxy's kinds are nothing for an application.
    for kind in [Kind::Accepted, Kind::Dialled, Kind::Names] {
        assert_eq!(
            reason(true, "127.0.0.1:15001", &connection(kind)),
            Reason::NotThePeer
        );
    }
}

#[test]
fn a_listener_answers_its_own_proxy_alone() {
    let app = workload(Role::App, 0);
    let policy = Small { edge: true };
    let ask = |dialled: Option<u32>| {
        packet(&policy, Some(&app), TCP, at("127.0.0.1:1"), None, || {
            dialled
        })
        .reason
    };
    assert_eq!(ask(Some(ORDERS)), Reason::Allowed);
    assert_eq!(ask(Some(PAYMENTS)), Reason::NotItsProxy);
    assert_eq!(ask(None), Reason::NoConnection);
}

#[test]
fn a_proxys_call_of_its_application_is_told_apart() {
    let proxy = workload(Role::Proxy, 0);
    let policy = Small { edge: false };
    let action =
        |to: &str, protocol| connect(&policy, Some(&proxy), protocol, false, at(to)).action;
    assert_eq!(action("127.0.0.1:8080", TCP), Action::Dial);
    assert_eq!(action("[::1]:8080", TCP), Action::Dial);
    assert_eq!(action("127.0.0.1:8081", TCP), Action::Pass);
    assert_eq!(action("10.0.0.1:8080", TCP), Action::Pass);
    assert_eq!(action("127.0.0.1:8080", UDP), Action::Pass);
}

#[test]
fn what_is_no_proxy_is_an_application() {
    let mut odd = workload(Role::App, 0);
    odd.role = 77;
    let seen = connect(
        &Small { edge: false },
        Some(&odd),
        TCP,
        false,
        at("8.8.8.8:1"),
    );
    assert_eq!(seen.reason, Reason::UnknownDestination);
}

#[test]
fn only_streams_of_tcp_and_datagrams_of_udp_are_made() {
    let app = workload(Role::App, 0);
    assert!(!create(Some(&app), 1, 6).denies());
    assert!(!create(Some(&app), 2, 17).denies());
    for (kind, protocol) in [
        (3, 6),
        (3, 17),
        (3, 255),
        (2, 1),
        (1, 262),
        (1, 132),
        (2, 136),
    ] {
        assert!(
            create(Some(&app), kind, protocol).denies(),
            "{kind} {protocol}"
        );
    }
}
