//! Inbound: an application's port answers its own proxy, and nobody else on the machine.

use ringwall_ebpf_loader::{Hook, Reason};

use crate::policy::{next, runtime};
use crate::world::tests;
use crate::world::{Helper, Pair, World, listener};

tests!(
    inbound_own_proxy_reaches_the_application_by_ipv4,
    inbound_own_proxy_reaches_the_application_by_ipv6,
    escape_dial_from_outside_the_slice_gets_no_answer,
    escape_dial_by_another_workloads_application_is_denied,
    escape_dial_by_another_workloads_proxy_gets_no_answer,
    inbound_goes_on_when_the_proxy_has_closed_its_end,
);

/// An application that listens, on a port that is declared.
fn listening(world: &mut World, at: &'static str) -> (Pair, String) {
    let port: u16 = at.rsplit(':').next().unwrap().parse().unwrap();
    let mut pair = world.pair("orders", |app| app.ports = vec![port].leak());
    let (number, _) = listener(&mut pair.app, at);
    (pair, number)
}

fn talk(pair: &mut Pair, at: &str, number: &str) {
    let dialled = pair.proxy.ok(&format!("connect {at}"));
    let accepted = pair.app.ok(&format!("accept {number}"));
    pair.proxy.ok(&format!("send {} question", dialled[0]));
    assert_eq!(
        pair.app.ok(&format!("receive {}", accepted[0])),
        ["question"]
    );
    pair.app.ok(&format!("send {} answer", accepted[0]));
    assert_eq!(
        pair.proxy.ok(&format!("receive {}", dialled[0])),
        ["answer"]
    );
}

fn inbound_own_proxy_reaches_the_application_by_ipv4() {
    let mut world = World::new();
    let (mut pair, number) = listening(&mut world, "127.0.0.1:17101");
    talk(&mut pair, "127.0.0.1:17101", &number);
    let counters = world.kernel().counters().unwrap();
    let inbound = counters
        .pressure
        .iter()
        .find(|map| map.map == "INBOUND")
        .unwrap();
    assert_eq!(inbound.used, 0, "what is accepted is not waited for");
}

fn inbound_own_proxy_reaches_the_application_by_ipv6() {
    let mut world = World::new();
    let (mut pair, number) = listening(&mut world, "[::1]:17102");
    talk(&mut pair, "[::1]:17102", &number);
}

fn escape_dial_from_outside_the_slice_gets_no_answer() {
    let mut world = World::new();
    let (_pair, _) = listening(&mut world, "127.0.0.1:17103");
    let runtime = runtime();
    let mut events = {
        let _inside = runtime.enter();
        world.kernel().events().unwrap().unwrap()
    };
    let mut outside = Helper::start_as("-", "-");
    outside.refused("connect 127.0.0.1:17103", "TimedOut");
    // The SYN was not let in. (Without that wall the answer would not be let out.)
    let event = next(&runtime, &mut events);
    assert_eq!(
        (event.hook, event.reason),
        (Hook::Ingress, Reason::NoConnection)
    );
    assert_eq!(event.workload.as_deref(), Some("orders"));
    assert_eq!(event.process, None);
}

fn escape_dial_by_another_workloads_application_is_denied() {
    let mut world = World::new();
    let (_pair, _) = listening(&mut world, "127.0.0.1:17104");
    let mut other = world.pair("inventory", |_| {});
    other.app.refused("connect 127.0.0.1:17104", "EPERM");
    other
        .app
        .refused("connect [::ffff:127.0.0.1]:17104", "EPERM");
}

fn escape_dial_by_another_workloads_proxy_gets_no_answer() {
    let mut world = World::new();
    let (mut pair, number) = listening(&mut world, "127.0.0.1:17105");
    let mut other = world.pair("inventory", |app| app.ports = &[17105]);
    // It is let out as its own application's port, and not let in: that one is another workload's.
    other.proxy.refused("connect 127.0.0.1:17105", "TimedOut");
    talk(&mut pair, "127.0.0.1:17105", &number);
}

fn inbound_goes_on_when_the_proxy_has_closed_its_end() {
    let mut world = World::new();
    let (mut pair, number) = listening(&mut world, "127.0.0.1:17106");
    for _ in 0..200 {
        let dialled = pair.proxy.ok("connect 127.0.0.1:17106");
        pair.proxy.ok(&format!("send {} last", dialled[0]));
        pair.proxy.ok(&format!("close {}", dialled[0]));
        let accepted = pair.app.ok(&format!("accept {number}"));
        assert_eq!(pair.app.ok(&format!("receive {}", accepted[0])), ["last"]);
        pair.app.ok(&format!("close {}", accepted[0]));
    }
}
