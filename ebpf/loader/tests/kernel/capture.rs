//! Outbound capture: what an application dials arrives at its proxy, which learns where it was going.

use crate::world::tests;
use crate::world::{Pair, World};

tests!(
    capture_ipv4_connection_arrives_at_the_proxy_with_its_destination,
    capture_ipv6_connection_arrives_at_the_proxy_with_its_destination,
    capture_v4_mapped_connection_is_one_of_ipv4,
    capture_of_a_loopback_service_takes_both_loopbacks,
    capture_serves_a_client_that_has_already_closed,
    capture_shows_the_application_its_real_peer,
    capture_lets_direct_addresses_pass,
    capture_counts_bytes_of_ended_connections,
    capture_of_a_thousand_connections_leaves_no_flow_behind,
    capture_is_told_to_a_listener_by_where_it_was_made,
);

/// The application dials; gives the socket's number at both ends, and what the proxy was told.
pub(crate) fn dial(pair: &mut Pair, to: &str, six: bool) -> (String, String, String) {
    let app = pair.app.ok(&format!("connect {to}"));
    let listener = if six {
        &pair.capture_6.0
    } else {
        &pair.capture.0
    };
    let proxy = pair.proxy.ok(&format!("accept {listener}"));
    (app[0].clone(), proxy[0].clone(), proxy[2].clone())
}

/// Something goes either way.
pub(crate) fn talk(pair: &mut Pair, app: &str, proxy: &str) {
    pair.app.ok(&format!("send {app} question"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["question"]);
    pair.proxy.ok(&format!("send {proxy} answer"));
    assert_eq!(pair.app.ok(&format!("receive {app}")), ["answer"]);
}

/// Five bytes go to the proxy and seven come back; the proxy closes, and then the application.
pub(crate) fn talk_and_close(pair: &mut Pair, app: &str, proxy: &str) {
    pair.app.ok(&format!("send {app} 12345"));
    pair.proxy.ok(&format!("receive {proxy}"));
    pair.proxy.ok(&format!("send {proxy} 1234567"));
    pair.app.ok(&format!("receive {app}"));
    pair.proxy.ok(&format!("close {proxy}"));
    pair.app.ok(&format!("receive {app}"));
    pair.app.ok(&format!("close {app}"));
}

fn world() -> (World, Pair) {
    let mut world = World::new();
    let pair = world.pair("orders", |_| {});
    world.services(&[
        ("inventory", "10.99.0.1:8080"),
        ("payments", "[fd00:99::1]:8443"),
        ("local", "127.0.0.1:7777"),
    ]);
    (world, pair)
}

fn capture_ipv4_connection_arrives_at_the_proxy_with_its_destination() {
    let (_world, mut pair) = world();
    let (app, proxy, original) = dial(&mut pair, "10.99.0.1:8080", false);
    assert_eq!(original, "10.99.0.1:8080");
    talk(&mut pair, &app, &proxy);
}

fn capture_ipv6_connection_arrives_at_the_proxy_with_its_destination() {
    let (_world, mut pair) = world();
    let (app, proxy, original) = dial(&mut pair, "[fd00:99::1]:8443", true);
    assert_eq!(original, "[fd00:99::1]:8443");
    pair.app.ok(&format!("send {app} question"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["question"]);
}

fn capture_v4_mapped_connection_is_one_of_ipv4() {
    let (_world, mut pair) = world();
    let (_, _, original) = dial(&mut pair, "[::ffff:10.99.0.1]:8080", false);
    assert_eq!(original, "10.99.0.1:8080");
}

fn capture_of_a_loopback_service_takes_both_loopbacks() {
    let (_world, mut pair) = world();
    for (to, six) in [
        ("127.0.0.1:7777", false),
        ("0.0.0.0:7777", false),
        ("[::1]:7777", true),
        ("[::]:7777", true),
        ("[::ffff:127.0.0.1]:7777", false),
    ] {
        let (_, _, original) = dial(&mut pair, to, six);
        assert!(original.ends_with(":7777"), "{to} → {original}");
    }
}

fn capture_serves_a_client_that_has_already_closed() {
    let (_world, mut pair) = world();
    let app = pair.app.ok("connect 10.99.0.1:8080");
    pair.app.ok(&format!("send {} hasty", app[0]));
    pair.app.ok(&format!("close {}", app[0]));
    let proxy = pair.proxy.ok(&format!("accept {}", pair.capture.0));
    assert_eq!(proxy[2], "10.99.0.1:8080");
    assert_eq!(pair.proxy.ok(&format!("receive {}", proxy[0])), ["hasty"]);
}

fn capture_shows_the_application_its_real_peer() {
    let (_world, mut pair) = world();
    for (to, seen) in [
        ("10.99.0.1:8080", "10.99.0.1:8080"),
        ("[fd00:99::1]:8443", "[fd00:99::1]:8443"),
        ("[::ffff:10.99.0.1]:8080", "[::ffff:10.99.0.1]:8080"),
    ] {
        assert_eq!(pair.app.ok(&format!("connect {to}"))[1], seen);
    }
}

fn capture_lets_direct_addresses_pass() {
    let mut world = World::new();
    let group = world.group("proxy-other");
    let other = ringwall_ebpf_loader::Enrolment::proxy("other", &group);
    world.kernel().enrol(&other).unwrap();
    let mut admin = crate::world::Helper::start(&group, "-");
    let (listener, at) = crate::world::listener(&mut admin, "127.0.0.1:0");
    let mut pair = world.pair("orders", |app| app.direct = vec![at].leak());
    let app = pair.app.ok(&format!("connect {at}"));
    let accepted = admin.ok(&format!("accept {listener}"));
    // Where connections are tracked (netfilter), the answer is the address itself.
    let direct = ["-".to_owned(), at.to_string()];
    assert!(direct.contains(&accepted[2]), "redirected: {accepted:?}");
    pair.app.ok(&format!("send {} plain", app[0]));
    assert_eq!(admin.ok(&format!("receive {}", accepted[0])), ["plain"]);
    // The other loopback is another address, where somebody else may listen.
    pair.app
        .refused(&format!("connect [::1]:{}", at.port()), "EPERM");
}

fn capture_counts_bytes_of_ended_connections() {
    let (mut world, mut pair) = world();
    let (app, proxy, _) = dial(&mut pair, "10.99.0.1:8080", false);
    talk_and_close(&mut pair, &app, &proxy);
    let counters = world.kernel().counters().unwrap();
    let row = counters
        .traffic
        .iter()
        .find(|row| row.kind == "captured" && row.service.as_deref() == Some("inventory"))
        .unwrap();
    assert_eq!(row.workload.as_deref(), Some("orders"));
    assert_eq!(row.sums.connections, 1);
    // SYN and FIN have numbers too.
    assert_eq!(
        (row.sums.sent_bytes, row.sums.received_bytes),
        (5 + 2, 7 + 1)
    );
    assert!(row.sums.rtt_sum_us > 0 && row.sums.rtt_max_us > 0);
}

fn capture_of_a_thousand_connections_leaves_no_flow_behind() {
    let (mut world, mut pair) = world();
    for _ in 0..1000 {
        let (app, proxy, original) = dial(&mut pair, "10.99.0.1:8080", false);
        assert_eq!(original, "10.99.0.1:8080");
        pair.app.ok(&format!("close {app}"));
        pair.proxy.ok(&format!("close {proxy}"));
    }
    let counters = world.kernel().counters().unwrap();
    let flows = counters
        .pressure
        .iter()
        .find(|map| map.map == "FLOWS")
        .unwrap();
    assert_eq!((flows.used, flows.capacity), (0, 65_536));
}

/// What docs/ebpf.md says of listeners that others hand over: hooks follow the group in which a socket was made.
fn capture_is_told_to_a_listener_by_where_it_was_made() {
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = outside.local_addr().unwrap();
    let mut world = World::new();
    let mut pair = world.pair("orders", |app| app.capture.v4 = Some(at));
    world.services(&[("inventory", "10.99.0.1:8080")]);
    pair.app.ok("connect 10.99.0.1:8080");
    let (accepted, _) = outside.accept().unwrap();
    let accepted = socket2::Socket::from(accepted);
    // Where connections are tracked (netfilter), the answer is the listener itself.
    let told = accepted
        .original_dst_v4()
        .ok()
        .and_then(|told| told.as_socket());
    assert!(told.is_none() || told == Some(at), "{told:?}");
    // Made in the proxy's group, it may go where it likes.
    let group = world.slice.join("ringwall-proxy-orders.slice");
    let mut maker = crate::world::Helper::start(&group, "-");
    let (listener, at) = crate::world::listener(&mut maker, "127.0.0.1:0");
    let app = ringwall_ebpf_loader::Enrolment {
        capture: ringwall_ebpf_loader::Listener {
            v4: Some(at),
            v6: None,
        },
        ..ringwall_ebpf_loader::Enrolment::app("orders", &pair.app_group)
    };
    world.kernel().enrol(&app).unwrap();
    // Not even the process that accepts has to be there.
    maker.ok(&format!("join {}", world.slice.parent().unwrap().display()));
    pair.app.ok("connect 10.99.0.1:8080");
    let accepted = maker.ok(&format!("accept {listener}"));
    assert_eq!(accepted[2], "10.99.0.1:8080");
}
