//! Datagrams: queries for names go to the proxy's name server, and nothing else goes anywhere.

use std::net::{SocketAddr, UdpSocket};

use ringwall_ebpf_loader::Listener;

use crate::world::tests;
use crate::world::{Pair, World};

tests!(
    names_connected_query_goes_to_the_proxy_and_shows_the_server,
    names_unconnected_query_goes_to_the_proxy_and_back,
    names_by_ipv6_go_to_the_proxy,
    names_without_a_server_are_denied,
    escape_udp_connected_is_denied,
    escape_udp_unconnected_sendmsg_is_denied,
    escape_quic_is_denied,
    escape_udp_multicast_is_denied,
    escape_udp_answer_from_elsewhere_is_not_let_in,
    udp_that_is_declared_passes,
);

/// An orders application whose queries go to this socket, which stands for its proxy's name server.
fn world(at: &str) -> (World, Pair, UdpSocket) {
    let server = UdpSocket::bind(at).unwrap();
    server
        .set_read_timeout(Some(std::time::Duration::from_secs(1)))
        .unwrap();
    let address = server.local_addr().unwrap();
    let mut world = World::new();
    let pair = world.pair("orders", |app| {
        app.dns = Listener {
            v4: Some(address).filter(SocketAddr::is_ipv4),
            v6: Some(address).filter(SocketAddr::is_ipv6),
        };
    });
    (world, pair, server)
}

fn answer(server: &UdpSocket) {
    let mut buffer = [0; 64];
    let (read, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..read], b"who");
    server.send_to(b"you", from).unwrap();
}

fn names_connected_query_goes_to_the_proxy_and_shows_the_server() {
    let (_world, mut pair, server) = world("127.0.0.1:0");
    let socket = pair.app.ok("udp 4").remove(0);
    let seen = pair.app.ok(&format!("udp-connect {socket} 10.99.0.53:53"));
    assert_eq!(seen, ["10.99.0.53:53"]);
    pair.app.ok(&format!("send {socket} who"));
    answer(&server);
    assert_eq!(pair.app.ok(&format!("receive {socket}")), ["you"]);
}

fn names_unconnected_query_goes_to_the_proxy_and_back() {
    let (_world, mut pair, server) = world("127.0.0.1:0");
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app.ok(&format!("send-to {socket} 10.99.0.53:53 who"));
    answer(&server);
    let got = pair.app.ok(&format!("receive-from {socket}"));
    assert_eq!(got, ["10.99.0.53:53", "you"]);
}

fn names_by_ipv6_go_to_the_proxy() {
    let (_world, mut pair, server) = world("[::1]:0");
    let socket = pair.app.ok("udp 6").remove(0);
    pair.app
        .ok(&format!("send-to {socket} [fd00:99::53]:53 who"));
    answer(&server);
    let got = pair.app.ok(&format!("receive-from {socket}"));
    assert_eq!(got, ["[fd00:99::53]:53", "you"]);
    // There is no server of IPv4 for this workload.
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app
        .refused(&format!("send-to {socket} 10.99.0.53:53 who"), "EPERM");
}

fn names_without_a_server_are_denied() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app
        .refused(&format!("send-to {socket} 10.99.0.53:53 who"), "EPERM");
    pair.app
        .refused(&format!("udp-connect {socket} 127.0.0.1:53"), "EPERM");
}

fn denied(to: &[&str], connected: bool) {
    let (_world, mut pair, _server) = world("127.0.0.1:0");
    for to in to {
        let domain = if to.starts_with('[') { "6" } else { "4" };
        let socket = pair.app.ok(&format!("udp {domain}")).remove(0);
        if connected {
            pair.app
                .refused(&format!("udp-connect {socket} {to}"), "EPERM");
        } else {
            pair.app
                .refused(&format!("send-to {socket} {to} cleartext"), "EPERM");
        }
    }
}

const ELSEWHERE: [&str; 4] = [
    "10.99.0.1:9999",
    "127.0.0.1:9999",
    "[fd00:99::1]:9999",
    "[::ffff:10.99.0.1]:9999",
];

fn escape_udp_connected_is_denied() {
    denied(&ELSEWHERE, true);
}

fn escape_udp_unconnected_sendmsg_is_denied() {
    denied(&ELSEWHERE, false);
}

fn escape_quic_is_denied() {
    let quic = [
        "10.99.0.1:443",
        "[fd00:99::1]:443",
        "[::ffff:10.99.0.1]:443",
    ];
    denied(&quic, true);
    denied(&quic, false);
}

fn escape_udp_multicast_is_denied() {
    denied(
        &["224.0.0.251:5353", "[ff02::fb]:5353", "255.255.255.255:9"],
        false,
    );
}

fn escape_udp_answer_from_elsewhere_is_not_let_in() {
    let (_world, mut pair, server) = world("127.0.0.1:0");
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app.ok(&format!("send-to {socket} 10.99.0.53:53 who"));
    let mut buffer = [0; 8];
    let (_, application) = server.recv_from(&mut buffer).unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"evil", application).unwrap();
    pair.app
        .refused(&format!("receive-from {socket}"), "EAGAIN");
}

fn udp_that_is_declared_passes() {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap();
    let mut world = World::new();
    let mut pair = world.pair("orders", |app| app.udp = vec![address].leak());
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app.ok(&format!("send-to {socket} {address} hello"));
    let mut buffer = [0; 8];
    let (_, from) = peer.recv_from(&mut buffer).unwrap();
    peer.send_to(b"back", from).unwrap();
    let got = pair.app.ok(&format!("receive-from {socket}"));
    assert_eq!(got, [address.to_string().as_str(), "back"]);
}
