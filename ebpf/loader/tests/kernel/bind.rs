//! Where an application may listen.

use ringwall_ebpf_loader::Bind;

use crate::world::tests;
use crate::world::{Pair, World};

tests!(
    bind_to_a_declared_port_on_loopback_passes,
    bind_to_an_undeclared_port_is_denied,
    escape_bind_to_a_public_address_is_denied,
    escape_bind_to_a_public_address_is_narrowed,
);

fn world(bind: Bind) -> (World, Pair) {
    let mut world = World::new();
    let pair = world.pair("orders", |app| {
        app.bind = bind;
        app.ports = &[17201, 17202, 17203, 17204];
    });
    (world, pair)
}

fn bind_to_a_declared_port_on_loopback_passes() {
    let (_world, mut pair) = world(Bind::Refuse);
    assert_eq!(
        pair.app.ok("bind tcp 127.0.0.1:17201")[1],
        "127.0.0.1:17201"
    );
    assert_eq!(pair.app.ok("bind tcp [::1]:17201")[1], "[::1]:17201");
    pair.app.ok("bind udp 127.0.0.1:0");
}

fn bind_to_an_undeclared_port_is_denied() {
    let (_world, mut pair) = world(Bind::Narrow);
    pair.app.refused("bind tcp 127.0.0.1:17299", "EPERM");
    pair.app.refused("bind tcp [::1]:17299", "EPERM");
    pair.app.refused("bind udp 127.0.0.1:17201", "EPERM");
}

fn escape_bind_to_a_public_address_is_denied() {
    let (_world, mut pair) = world(Bind::Refuse);
    for at in [
        "0.0.0.0:17202",
        "[::]:17202",
        "[::ffff:0.0.0.0]:17202",
        "0.0.0.0:0",
    ] {
        pair.app.refused(&format!("bind tcp {at}"), "EPERM");
        pair.app.refused(&format!("bind udp {at}"), "EPERM");
    }
}

fn escape_bind_to_a_public_address_is_narrowed() {
    let (_world, mut pair) = world(Bind::Narrow);
    assert_eq!(pair.app.ok("bind tcp 0.0.0.0:17203")[1], "127.0.0.1:17203");
    assert_eq!(
        pair.app.ok("bind tcp [::]:17204")[1],
        "[::ffff:127.0.0.1]:17204"
    );
    // As resolvers do before they ask.
    assert!(pair.app.ok("bind udp 0.0.0.0:0")[1].starts_with("127.0.0.1:"));
}
