//! The policy in the maps: edges, live changes, events, full tables.

use std::time::{Duration, Instant};

use ringwall_ebpf_loader::{Enrolment, Events, Hook, Options, Reason, Refused};

use crate::capture::dial;
use crate::world::tests;
use crate::world::{Helper, World, without};

tests!(
    policy_denies_a_service_without_an_edge_and_tells,
    policy_denies_an_unknown_destination,
    policy_hands_egress_to_the_proxy_where_declared,
    policy_change_holds_at_once_and_cuts_what_is_connected,
    policy_change_touches_nothing_that_stays,
    policy_denies_everything_to_a_group_that_is_not_enrolled,
    policy_denies_everything_after_a_withdrawal,
    policy_of_a_full_table_of_flows_denies,
    policy_bounds_events_and_counts_the_rest,
    escape_metadata_address_is_denied,
);

/// The next event, or a panic after a second.
pub(crate) fn next(runtime: &tokio::runtime::Runtime, events: &mut Events) -> Refused {
    let wait = async { tokio::time::timeout(Duration::from_secs(1), events.next()).await };
    runtime.block_on(wait).expect("no event").unwrap()
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn policy_denies_a_service_without_an_edge_and_tells() {
    let mut world = World::new();
    let runtime = runtime();
    let mut events = {
        let _inside = runtime.enter();
        world.kernel().events().unwrap().unwrap()
    };
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("payments", "10.99.0.3:443")]);
    world.kernel().set_edges([]).unwrap();
    for to in ["10.99.0.3:443", "[::ffff:10.99.0.3]:443"] {
        pair.app.refused(&format!("connect {to}"), "EPERM");
        let event = next(&runtime, &mut events);
        assert_eq!(event.reason, Reason::NoEdge);
        assert_eq!(event.hook, Hook::Connect);
        assert_eq!(event.workload.as_deref(), Some("orders"));
        assert_eq!(event.service.as_deref(), Some("payments"));
        assert_eq!(event.process.as_ref().unwrap().0, pair.app.id());
        assert_eq!(event.protocol, 6);
        assert_eq!(event.destination.unwrap().to_string(), "10.99.0.3:443");
    }
    assert_eq!(world.kernel().counters().unwrap().of(Reason::NoEdge), 2);
}

fn policy_denies_an_unknown_destination() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    for to in [
        "192.0.2.1:80",
        "[2001:db8::1]:80",
        "[::ffff:192.0.2.1]:80",
        "127.0.0.1:1",
    ] {
        pair.app.refused(&format!("connect {to}"), "EPERM");
    }
    // Not even its own capture listener: there is no destination that the proxy could learn.
    let capture = pair.capture.1;
    pair.app.refused(&format!("connect {capture}"), "EPERM");
}

fn escape_metadata_address_is_denied() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    for to in [
        "169.254.169.254:80",
        "[fd00:ec2::254]:80",
        "[fe80::a9fe:a9fe]:80",
    ] {
        pair.app.refused(&format!("connect {to}"), "EPERM");
    }
}

fn policy_hands_egress_to_the_proxy_where_declared() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |app| app.egress = true);
    let (_, _, original) = dial(&mut pair, "192.0.2.1:443", false);
    assert_eq!(original, "192.0.2.1:443");
}

fn policy_change_holds_at_once_and_cuts_what_is_connected() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let (app, proxy, _) = dial(&mut pair, "10.99.0.1:8080", false);
    pair.app.ok(&format!("send {app} before"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["before"]);
    let changed = Instant::now();
    world.kernel().set_edges([]).unwrap();
    pair.app.refused("connect 10.99.0.1:8080", "EPERM");
    assert!(changed.elapsed() < Duration::from_secs(1));
    pair.app.say(&format!("send {app} after"));
    pair.app.hear();
    pair.proxy.refused(&format!("receive {proxy}"), "EAGAIN");
    assert!(world.kernel().counters().unwrap().of(Reason::EdgeRemoved) > 0);
    // The edge again: TCP sends once more what was dropped.
    world.kernel().set_edges([("orders", "inventory")]).unwrap();
    let again = (0..5).find_map(|_| {
        let answer = pair.proxy.ask(&format!("receive {proxy}"));
        answer.strip_prefix("ok ").map(str::to_owned)
    });
    assert_eq!(again.as_deref(), Some("after"));
}

fn policy_change_touches_nothing_that_stays() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    for round in 0..200 {
        let other = format!("10.99.1.{}:80", round % 250);
        world.services(&[("inventory", "10.99.0.1:8080"), ("other", &other)]);
        let (app, proxy, _) = dial(&mut pair, "10.99.0.1:8080", false);
        pair.app.ok(&format!("close {app}"));
        pair.proxy.ok(&format!("close {proxy}"));
    }
    pair.app.refused("connect 10.99.1.0:80", "EPERM");
}

fn policy_denies_everything_to_a_group_that_is_not_enrolled() {
    let mut world = World::new();
    let group = world.group("stranger");
    let mut stranger = Helper::start(&group, "-");
    stranger.refused("connect 127.0.0.1:1", "EPERM");
    stranger.refused("udp 4", "EPERM");
    stranger.refused("socket 10 1 0", "EPERM");
    assert!(world.kernel().counters().unwrap().of(Reason::NotEnrolled) >= 3);
}

fn policy_denies_everything_after_a_withdrawal() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let (app, proxy, _) = dial(&mut pair, "10.99.0.1:8080", false);
    let group = pair.app_group.clone();
    world.kernel().withdraw(&group).unwrap();
    pair.app.refused("connect 10.99.0.1:8080", "EPERM");
    pair.app.ask(&format!("send {app} after"));
    pair.proxy.refused(&format!("receive {proxy}"), "EAGAIN");
    // The same name again, in the same group.
    let capture = pair.capture.1;
    let again = Enrolment {
        capture: ringwall_ebpf_loader::Listener {
            v4: Some(capture),
            v6: None,
        },
        ..Enrolment::app(&pair.name, &group)
    };
    world.kernel().enrol(&again).unwrap();
    pair.app.ok("connect 10.99.0.1:8080");
}

fn policy_of_a_full_table_of_flows_denies() {
    let mut world = World::with(&Options {
        without: without(),
        capacities: vec![("FLOWS", 2)],
    });
    // A listener that answers no SYN: another application's, which its own proxy alone may dial.
    let mut silent = world.pair("silent", |app| app.ports = &[17301]);
    let (_, at) = crate::world::listener(&mut silent.app, "127.0.0.1:17301");
    let pair = world.pair("orders", |app| app.capture.v4 = Some(at));
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let mut helpers: Vec<Helper> = (0..3)
        .map(|_| Helper::start(&pair.app_group, "-"))
        .collect();
    for helper in &mut helpers {
        helper.say("connect 10.99.0.1:8080");
    }
    for helper in &mut helpers {
        assert_eq!(helper.hear(), "err TimedOut");
    }
    // Two wait in the table; the third one's SYN has not left.
    let counters = world.kernel().counters().unwrap();
    assert!(counters.of(Reason::TableFull) > 0);
    let flows = counters
        .pressure
        .iter()
        .find(|map| map.map == "FLOWS")
        .unwrap();
    assert_eq!(
        (flows.used, flows.capacity),
        (0, 2),
        "what is given up leaves no flow"
    );
}

fn policy_bounds_events_and_counts_the_rest() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    for _ in 0..1000 {
        pair.app.refused("connect 192.0.2.1:80", "EPERM");
    }
    let counters = world.kernel().counters().unwrap();
    assert_eq!(counters.of(Reason::UnknownDestination), 1000);
    assert!(counters.of(Reason::EventSuppressed) > 0);
    assert_eq!(counters.of(Reason::EventLost), 0);
}
