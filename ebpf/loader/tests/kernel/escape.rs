//! Ways around a connect(2) of TCP: other kinds of sockets, other calls, other places.

use std::net::TcpListener;

use ringwall_ebpf_loader::{Enrolment, Kernel, Reason};

use crate::world::tests;
use crate::world::{Helper, World, object};

tests!(
    escape_raw_sockets_are_denied,
    escape_other_protocols_are_denied,
    escape_tcp_fast_open_is_denied,
    tcp_fast_open_to_a_service_is_captured,
    escape_io_uring_connect_is_denied,
    io_uring_connect_to_a_service_is_captured,
    escape_mark_changes_nothing,
    escape_bind_to_device_changes_nothing,
    escape_child_group_is_its_parents,
    escape_reconnect_of_a_captured_socket_is_denied,
    escape_sockets_opened_before_enrolment_are_cut,
);

/// Where somebody listens whom nobody may reach; the connection would succeed.
fn forbidden() -> (TcpListener, TcpListener, [String; 3]) {
    let four = TcpListener::bind("127.0.0.1:0").unwrap();
    let six = TcpListener::bind("[::1]:0").unwrap();
    let port = four.local_addr().unwrap().port();
    let addresses = [
        format!("127.0.0.1:{port}"),
        six.local_addr().unwrap().to_string(),
        format!("[::ffff:127.0.0.1]:{port}"),
    ];
    (four, six, addresses)
}

fn escape_raw_sockets_are_denied() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    // AF_INET 2, AF_INET6 10; SOCK_RAW 3; ICMP, TCP, UDP, RAW.
    for protocol in [1, 6, 17, 255] {
        pair.app.refused(&format!("socket 2 3 {protocol}"), "EPERM");
        pair.app
            .refused(&format!("socket 10 3 {protocol}"), "EPERM");
    }
    assert_eq!(world.kernel().counters().unwrap().of(Reason::Protocol), 8);
    // What it may have.
    pair.app.ok("socket 2 1 6");
    pair.app.ok("socket 10 2 17");
}

fn escape_other_protocols_are_denied() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    // ICMP by datagrams, MPTCP, UDP-Lite.
    for socket in ["2 2 1", "10 2 58", "2 1 262", "10 1 262", "2 2 136"] {
        let answer = pair.app.ask(&format!("socket {socket}"));
        // EACCES where ping_group_range says so before; others where the kernel has no such protocol.
        let refused = ["err EPERM", "err EACCES", "err EPROTONOSUPPORT"];
        assert!(refused.contains(&answer.as_str()), "{socket}: {answer}");
    }
    assert!(world.kernel().counters().unwrap().of(Reason::Protocol) >= 3);
}

fn escape_tcp_fast_open_is_denied() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    let (_four, _six, addresses) = forbidden();
    for to in addresses {
        pair.app
            .refused(&format!("fastopen {to} cleartext"), "EPERM");
    }
}

fn tcp_fast_open_to_a_service_is_captured() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    pair.app.ok("fastopen 10.99.0.1:8080 early");
    let accepted = pair.proxy.ok(&format!("accept {}", pair.capture.0));
    assert_eq!(accepted[2], "10.99.0.1:8080");
    assert_eq!(
        pair.proxy.ok(&format!("receive {}", accepted[0])),
        ["early"]
    );
}

fn escape_io_uring_connect_is_denied() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    let (_four, _six, addresses) = forbidden();
    for to in addresses {
        pair.app.refused(&format!("uring {to}"), "EPERM");
    }
}

fn io_uring_connect_to_a_service_is_captured() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    assert_eq!(pair.app.ok("uring 10.99.0.1:8080")[1], "10.99.0.1:8080");
    let accepted = pair.proxy.ok(&format!("accept {}", pair.capture.0));
    assert_eq!(accepted[2], "10.99.0.1:8080");
}

fn escape_mark_changes_nothing() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    let (_four, _six, addresses) = forbidden();
    for to in addresses {
        pair.app.refused(&format!("connect-marked {to}"), "EPERM");
    }
}

fn escape_bind_to_device_changes_nothing() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    let (_four, _six, addresses) = forbidden();
    for to in addresses {
        pair.app.refused(&format!("connect-lo {to}"), "EPERM");
    }
}

fn escape_child_group_is_its_parents() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let child = pair.app_group.join("deeper").join("and-deeper");
    std::fs::create_dir_all(&child).unwrap();
    pair.app.ok(&format!("join {}", child.display()));
    let (_four, _six, addresses) = forbidden();
    for to in addresses {
        pair.app.refused(&format!("connect {to}"), "EPERM");
    }
    pair.app.ok("connect 10.99.0.1:8080");
    let accepted = pair.proxy.ok(&format!("accept {}", pair.capture.0));
    assert_eq!(accepted[2], "10.99.0.1:8080");
}

/// A socket that a hook has let through is judged again for its next connection.
fn escape_reconnect_of_a_captured_socket_is_denied() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app
        .refused(&format!("udp-connect {socket} 10.99.0.9:9"), "EPERM");
    let (_four, _six, addresses) = forbidden();
    pair.app.ok("connect 10.99.0.1:8080");
    pair.app.ok("disconnect 1");
    pair.app
        .refused(&format!("connect-reuse 1 {}", addresses[0]), "EPERM");
}

/// The agent comes late: groups and processes are there, with connections and all.
fn escape_sockets_opened_before_enrolment_are_cut() {
    let mut world = World::new();
    world.kernel = None;
    Kernel::remove(&world.pins).unwrap();
    let group = world.group("app-orders");
    let mut early = Helper::start(&group, "-");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let tcp = early.ok(&format!("connect {to}")).remove(0);
    let (mut end, _) = listener.accept().unwrap();
    end.set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let udp = early.ok("udp 4").remove(0);
    let datagrams = receiver.local_addr().unwrap();
    early.ok(&format!("udp-connect {udp} {datagrams}"));
    let mut kernel = Kernel::open_with(
        &object(),
        world.place(),
        &ringwall_ebpf_loader::Options {
            without: crate::world::without(),
            ..Default::default()
        },
    )
    .unwrap();
    kernel.enrol(&Enrolment::app("orders", &group)).unwrap();
    early.ask(&format!("send {tcp} cleartext"));
    early.refused(&format!("send {udp} cleartext"), "EPERM");
    let mut buffer = [0; 16];
    assert!(std::io::Read::read(&mut end, &mut buffer).is_err());
    assert!(receiver.recv(&mut buffer).is_err());
    let counters = kernel.counters().unwrap();
    assert!(counters.of(Reason::NoConnection) > 0);
    assert!(counters.of(Reason::UdpNotDeclared) > 0);
}
