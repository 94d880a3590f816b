//! The edge shield: real packets over a veth between two networks, and frames through the driver's program.
//!
//! `shield/lists.rs` has the tests of the list itself; `shield/place.rs` makes the networks, `shield/frames.rs` the frames.

mod frames;
pub(crate) mod lists;
mod place;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use ringwall_ebpf_loader::{
    Cause, ConnectionRate, Count, Guard, Mode, Prefix, Shield, ShieldOptions, Want,
};

use self::frames::Frame;
pub(crate) use self::place::hold;
use self::place::{PORT, Place};
use crate::world::tests;
use crate::world::{object, without};

tests!(
    attack_shield_denied_source_reaches_nothing_by_ipv4_and_ipv6,
    attack_shield_denied_source_is_dropped_at_the_stacks_ingress,
    attack_shield_denied_source_behind_a_vlan_tag,
    attack_shield_denied_network_holds_all_its_addresses,
    attack_shield_expired_denial_hides_no_wider_one,
    attack_shield_extension_headers_do_not_hide_a_source,
    attack_shield_fragments_do_not_hide_a_source,
    attack_shield_connection_flood_is_limited_and_established_ones_go_on,
    attack_shield_connection_flood_is_seen_behind_headers_and_at_its_ports_alone,
    attack_shield_loopback_is_guarded_at_its_ports_alone,
    shield_allow_list_comes_first,
    shield_other_ports_are_touched_only_where_asked,
    shield_what_it_cannot_read_passes,
    shield_killed_agent_leaves_the_list_in_force,
    shield_upgrade_has_no_gap,
    shield_mode_can_be_changed_and_all_of_it_removed,
    shield_interface_that_comes_back_is_guarded_again,
    shield_errors_name_the_interface,
);

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn guard() -> Guard {
    Guard {
        ports: vec![PORT],
        ..Guard::default()
    }
}

fn rate(per_second: u32, burst: u32) -> Option<ConnectionRate> {
    Some(ConnectionRate {
        per_second: NonZeroU32::new(per_second).unwrap(),
        burst: NonZeroU32::new(burst).unwrap(),
    })
}

fn options() -> ShieldOptions {
    ShieldOptions {
        without: without(),
        ..ShieldOptions::default()
    }
}

fn of(shield: &Shield, count: Count) -> u64 {
    let counts = shield.counts().unwrap();
    counts
        .into_iter()
        .find(|(other, _)| *other == count)
        .unwrap()
        .1
}

fn attack_shield_denied_source_reaches_nothing_by_ipv4_and_ipv6() {
    let mut place = Place::new();
    let mut shield = place.open(&guard(), Want::Best);
    assert_eq!(place.mode, Some(Mode::Driver), "a veth has XDP of its own");
    place.reaches("10.77.0.1");
    place.reaches("[fd77::1]");
    shield
        .deny(prefix("10.77.0.2"), Cause::Operator, None)
        .unwrap();
    place.is_dropped("10.77.0.1");
    place.reaches("[fd77::1]");
    shield
        .deny(prefix("fd77::2"), Cause::Malformed, None)
        .unwrap();
    place.is_dropped("[fd77::1]");
    assert!(of(&shield, Count::DeniedOperator) >= 1);
    assert!(of(&shield, Count::DeniedMalformed) >= 1);
    let top = shield.top(10).unwrap();
    assert!(top.iter().all(|row| row.dropped >= 1), "{top:?}");
    assert_eq!(top.len(), 2);
    assert!(shield.forgive(prefix("10.77.0.2")).unwrap());
    assert!(!shield.forgive(prefix("10.77.0.2")).unwrap());
    place.reaches("10.77.0.1");
}

fn attack_shield_denied_source_is_dropped_at_the_stacks_ingress() {
    for mode in [Mode::Ingress, Mode::Generic] {
        let mut place = Place::new();
        let mut shield = place.open(&guard(), Want::Only(mode));
        assert_eq!(place.mode, Some(mode));
        place.reaches("10.77.0.1");
        shield
            .deny_all(
                &[prefix("10.77.0.2"), prefix("fd77::/64")],
                Cause::Operator,
                None,
            )
            .unwrap();
        place.is_dropped("10.77.0.1");
        place.is_dropped("[fd77::1]");
        assert!(of(&shield, Count::DeniedOperator) >= 2);
    }
}

/// A driver sees the tag in the frame; before ingress, the stack has taken the outer one out of it.
fn attack_shield_denied_source_behind_a_vlan_tag() {
    for mode in [Mode::Driver, Mode::Ingress] {
        let mut place = Place::new();
        let mut shield = place.open(&guard(), Want::Only(mode));
        let both = [prefix("192.0.2.7"), prefix("2001:db8::/32")];
        shield.deny_all(&both, Cause::Operator, None).unwrap();
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            for from in ["192.0.2.7", "2001:db8::1"] {
                let before = of(&shield, Count::DeniedOperator);
                let denied = Frame::tcp(from, PORT, frames::SYN).tagged(tags);
                let other = Frame::tcp("198.51.100.1", PORT, frames::SYN).tagged(tags);
                place.sends(&other);
                place.sends(&denied);
                let dropped = || of(&shield, Count::DeniedOperator) - before;
                place.waits_until(|| dropped() > 0);
                assert_eq!(dropped(), 1, "{mode:?} {tags:x?} {from}");
            }
        }
    }
}

fn attack_shield_denied_network_holds_all_its_addresses() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    for (network, inside, outside) in [
        ("198.51.100.0/24", "198.51.100.255", "198.51.101.0"),
        ("203.0.113.64/26", "203.0.113.64", "203.0.113.63"),
        ("2001:db8:1::/48", "2001:db8:1:ffff::1", "2001:db8:2::1"),
        ("2001:db8:9::9", "2001:db8:9::9", "2001:db8:9::8"),
    ] {
        let passes = |shield: &Shield, from: &str| {
            let frame = Frame::tcp(from, PORT, frames::SYN);
            shield.rehearse(&frame.bytes()).unwrap()
        };
        assert!(passes(&shield, inside));
        shield.deny(prefix(network), Cause::Operator, None).unwrap();
        assert!(!passes(&shield, inside), "{inside}");
        assert!(passes(&shield, outside), "{outside}");
    }
}

fn attack_shield_expired_denial_hides_no_wider_one() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    let soon = Some(Duration::from_nanos(1));
    for (wide, narrow, from) in [
        (
            "10.0.0.0/8",
            ["10.1.0.0/16", "10.1.1.0/24", "10.1.1.1"],
            "10.1.1.1",
        ),
        (
            "fd00::/8",
            ["fd00:1::/32", "fd00:1::/64", "fd00:1::1"],
            "fd00:1::1",
        ),
    ] {
        let frame = Frame::tcp(from, PORT, frames::SYN).bytes();
        for narrow in narrow {
            shield.deny(prefix(narrow), Cause::RateLimit, soon).unwrap();
        }
        assert!(shield.rehearse(&frame).unwrap(), "all of them have expired");
        shield.deny(prefix(wide), Cause::Operator, None).unwrap();
        assert!(!shield.rehearse(&frame).unwrap(), "{wide} holds");
    }
    assert_eq!(shield.sweep().unwrap().ended, 6);
    assert_eq!(shield.list().unwrap().len(), 2);
}

fn attack_shield_extension_headers_do_not_hide_a_source() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    shield
        .deny(prefix("2001:db8::/32"), Cause::Operator, None)
        .unwrap();
    let frame = Frame::tcp("2001:db8::1", PORT, frames::SYN);
    for headers in [
        &[0_u8][..],
        &[0, 60, 43, 60],
        &[51],
        &[44],
        &[0, 60, 43, 51, 44],
    ] {
        let behind = frame.behind(headers);
        assert!(!shield.rehearse(&behind).unwrap(), "{headers:?}");
    }
    // More than any client sends are the stack's to judge; where all ports are guarded, the source is enough.
    let many = frame.behind(&[60; 7]);
    assert!(shield.rehearse(&many).unwrap());
    let everything = Guard {
        everything: true,
        ..guard()
    };
    shield.set(&everything).unwrap();
    assert!(!shield.rehearse(&many).unwrap());
}

fn attack_shield_fragments_do_not_hide_a_source() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    shield
        .deny(prefix("192.0.2.7"), Cause::Operator, None)
        .unwrap();
    let frame = Frame::tcp("192.0.2.7", PORT, frames::SYN);
    assert!(!shield.rehearse(&frame.fragment(0)).unwrap(), "the first");
    assert!(
        shield.rehearse(&frame.fragment(185)).unwrap(),
        "a later one has no port: without the first, it comes to nothing"
    );
    // A first fragment that ends before the flags counts as a SYN.
    let limited = Guard {
        rate: rate(1, 1),
        ..guard()
    };
    shield.set(&limited).unwrap();
    let tiny = Frame::tcp("192.0.2.8", PORT, frames::SYN).tiny_fragment();
    assert!(shield.rehearse(&tiny).unwrap());
    assert!(!shield.rehearse(&tiny).unwrap());
}

fn attack_shield_connection_flood_is_limited_and_established_ones_go_on() {
    let mut place = Place::new();
    let limited = Guard {
        rate: rate(1, 20),
        ..guard()
    };
    let shield = place.open(&limited, Want::Best);
    let kept = place.connect("10.77.0.1");
    let begun = Instant::now();
    let opened = (0..60).filter(|_| place.tries("10.77.0.1")).count();
    let most = 19 + begun.elapsed().as_secs() as usize + 1;
    assert!(opened <= most, "{opened} of at most {most}");
    assert!(opened >= 15, "{opened}: the burst is the source's");
    assert!(of(&shield, Count::SynRate) >= 30);
    // Thousands of packets of one that is open: none is lost.
    let lost = of(&shield, Count::SynRate);
    place.talk(&kept, 2000);
    // Retransmitted SYNs of the others may still come.
    assert!(of(&shield, Count::SynRate) - lost < 100);
    // Of IPv6, a host has its /64 for itself.
    let passed = |shield: &Shield, host: u32| {
        let from = format!("2001:db8::{host:x}");
        let frame = Frame::tcp(&from, PORT, frames::SYN);
        shield.rehearse(&frame.bytes()).unwrap()
    };
    let passed = (1..=100).filter(|host| passed(&shield, *host)).count();
    assert!((20..=22).contains(&passed), "{passed}");
    for flags in [
        frames::ACK,
        frames::SYN | frames::ACK,
        frames::RST,
        frames::FIN,
    ] {
        let frame = Frame::tcp("2001:db8::1", PORT, flags);
        assert!(shield.rehearse(&frame.bytes()).unwrap(), "{flags:#x}");
    }
    let top = shield.top(3).unwrap();
    assert_eq!(top[0].prefix, prefix("2001:db8::/64"));
    assert_eq!(top[0].cause, None);
}

fn attack_shield_connection_flood_is_seen_behind_headers_and_at_its_ports_alone() {
    let place = Place::new();
    let limited = Guard {
        rate: rate(1, 1),
        ..guard()
    };
    let shield = place.open_apart(&limited);
    let frame = |from: &str, port| Frame::tcp(from, port, frames::SYN);
    let dropped = |frame: &[u8]| {
        let tried = (0..10).map(|_| !shield.rehearse(frame).unwrap());
        tried.filter(|dropped| *dropped).count()
    };
    let six = |host: &str| frame(&format!("2001:db8:{host}::1"), PORT);
    for (name, hidden) in [
        ("options", frame("192.0.2.1", PORT).with_options([1; 4])),
        ("tags", frame("192.0.2.2", PORT).tagged(&[0x88a8, 0x8100])),
        ("one header", six("1").behind(&[60])),
        ("five headers", six("2").behind(&[0, 60, 43, 51, 44])),
    ] {
        // A second may pass meanwhile.
        let dropped = dropped(&hidden);
        assert!((8..=9).contains(&dropped), "{name}: {dropped}");
    }
    for (name, other) in [
        ("another port", frame("192.0.2.3", 22).bytes()),
        ("a datagram", Frame::udp("192.0.2.4", PORT).bytes()),
        ("another port of IPv6", frame("2001:db8:3::1", 22).bytes()),
    ] {
        assert_eq!(dropped(&other), 0, "{name}");
    }
}

/// The loopback of a network of its own: its XDP is the stack's, so that it is guarded at ingress.
fn attack_shield_loopback_is_guarded_at_its_ports_alone() {
    let mut place = Place::new();
    let mut shield = place.open_at("lo", &guard(), Want::Best);
    assert_eq!(place.mode, Some(Mode::Ingress));
    place.serves_itself(PORT, true);
    shield
        .deny(prefix("127.0.0.0/8"), Cause::Operator, None)
        .unwrap();
    place.serves_itself(PORT, false);
    place.serves_itself(PORT + 1, true);
}

fn shield_allow_list_comes_first() {
    let mut place = Place::new();
    let allowing = Guard {
        allow: vec![prefix("10.77.0.2"), prefix("fd77::/64")],
        rate: rate(1, 1),
        ..guard()
    };
    let mut shield = place.open(&allowing, Want::Best);
    let both = [prefix("10.77.0.0/24"), prefix("fd77::/16")];
    shield.deny_all(&both, Cause::Operator, None).unwrap();
    // Neither the list nor the rate.
    for _ in 0..5 {
        place.reaches("10.77.0.1");
        place.reaches("[fd77::1]");
    }
    assert!(of(&shield, Count::Allowed) >= 10);
    let alone = Guard {
        allow: vec![prefix("fd77::/64")],
        ..allowing
    };
    shield.set(&alone).unwrap();
    place.is_dropped("10.77.0.1");
    place.reaches("[fd77::1]");
}

fn shield_other_ports_are_touched_only_where_asked() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    shield
        .deny(prefix("192.0.2.7"), Cause::Operator, None)
        .unwrap();
    let other = Frame::tcp("192.0.2.7", 22, frames::SYN).bytes();
    let datagram = Frame::udp("192.0.2.7", PORT).bytes();
    let ping = Frame::other("192.0.2.7", 1).bytes();
    assert!(shield.rehearse(&other).unwrap());
    assert!(shield.rehearse(&ping).unwrap());
    assert!(
        !shield.rehearse(&datagram).unwrap(),
        "QUIC's port is the same"
    );
    let everything = Guard {
        everything: true,
        ..guard()
    };
    shield.set(&everything).unwrap();
    assert!(!shield.rehearse(&other).unwrap());
    assert!(!shield.rehearse(&ping).unwrap());
}

/// Every cut of a good frame, and rubbish: it passes, and nothing breaks.
fn shield_what_it_cannot_read_passes() {
    let place = Place::new();
    let shield = place.open_apart(&guard());
    let six = Frame::tcp("2001:db8::1", PORT, frames::SYN).behind(&[0, 43, 44]);
    for whole in [Frame::tcp("192.0.2.7", PORT, frames::SYN).bytes(), six] {
        for length in 14..whole.len() {
            assert!(shield.rehearse(&whole[..length]).unwrap(), "{length}");
        }
    }
    let before = of(&shield, Count::Unreadable);
    assert!(before > 0);
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..2000 {
        let mut frame: Vec<u8> = (0..64)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        frame[12..14].copy_from_slice(if random & 1 == 0 {
            &[8, 0]
        } else {
            &[0x86, 0xdd]
        });
        assert!(shield.rehearse(&frame).unwrap());
    }
    assert!(of(&shield, Count::Unreadable) > before);
}

fn shield_killed_agent_leaves_the_list_in_force() {
    let mut place = Place::new();
    let mut agent = place.agent("10.77.0.2");
    place.is_dropped("10.77.0.1");
    agent.kill();
    drop(agent);
    place.is_dropped("10.77.0.1");
    place.reaches("[fd77::1]");
    // Its successor finds the list, and what was counted.
    let mut shield = place.open(&guard(), Want::Best);
    place.is_dropped("10.77.0.1");
    let row = shield.list().unwrap()[0];
    assert_eq!(row.prefix, prefix("10.77.0.2"));
    assert!(row.hits >= 2, "{row:?}");
    assert!(shield.forgive(row.prefix).unwrap());
    place.reaches("10.77.0.1");
}

fn shield_upgrade_has_no_gap() {
    let mut place = Place::new();
    let mut shield = place.open(&guard(), Want::Best);
    shield
        .deny(prefix("10.77.0.2"), Cause::Operator, None)
        .unwrap();
    let flood = place.flood(Duration::from_secs(2));
    for _ in 0..10 {
        shield = place.open(&guard(), Want::Best);
    }
    let (sent, heard) = flood.join();
    assert!(sent > 1000, "{sent}");
    assert_eq!(heard, 0, "of {sent} datagrams of a denied source");
    shield.retain(&[]).unwrap();
    place.reaches("10.77.0.1");
}

fn shield_mode_can_be_changed_and_all_of_it_removed() {
    let mut place = Place::new();
    let mut shield = place.open(&guard(), Want::Only(Mode::Ingress));
    shield
        .deny(prefix("10.77.0.2"), Cause::Operator, None)
        .unwrap();
    place.is_dropped("10.77.0.1");
    // Whoever has no wish keeps what is there.
    place.open(&guard(), Want::Best);
    assert_eq!(place.mode, Some(Mode::Ingress));
    place.open(&guard(), Want::Only(Mode::Driver));
    assert_eq!(place.mode, Some(Mode::Driver));
    place.is_dropped("10.77.0.1");
    let links = std::fs::read_dir(place.pins().join("shield/links")).unwrap();
    assert_eq!(links.count(), 1);
    drop(shield);
    Shield::remove(place.pins()).unwrap();
    place.reaches("10.77.0.1");
    Shield::remove(place.pins()).unwrap();
}

fn shield_interface_that_comes_back_is_guarded_again() {
    let mut place = Place::new();
    let mut shield = place.open(&guard(), Want::Best);
    shield
        .deny(prefix("10.77.0.2"), Cause::Operator, None)
        .unwrap();
    place.is_dropped("10.77.0.1");
    place.unplug();
    let gone = place.within(|| shield.attach("v0", Want::Best));
    let said = gone.unwrap_err().to_string();
    assert!(said.contains("interface v0: "), "{said}");
    place.plug();
    place.reaches("10.77.0.1");
    let back = place.within(|| {
        let attached = shield.attach("v0", Want::Best).unwrap();
        shield.retain(&["v0"]).unwrap();
        attached
    });
    assert_eq!(back.mode, Mode::Driver);
    place.is_dropped("10.77.0.1");
    let links = std::fs::read_dir(place.pins().join("shield/links")).unwrap();
    assert_eq!(links.count(), 1, "the old one stands for nothing");
}

fn shield_errors_name_the_interface() {
    let place = Place::new();
    let shield = place.open_apart(&guard());
    let said = place.within(|| {
        shield
            .attach("nowhere0", Want::Best)
            .unwrap_err()
            .to_string()
    });
    assert!(
        said.starts_with("the shield at interface nowhere0: "),
        "{said}"
    );
    for (interface, want, reason) in [
        ("", Want::Best, "no name"),
        ("a-name-that-is-too-long", Want::Best, "no name"),
        ("lo", Want::Only(Mode::Driver), "driver: "),
        ("t0", Want::Best, "does not carry Ethernet"),
    ] {
        let said = place.within(|| {
            if interface == "t0" {
                place::ip("tuntap add t0 mode tun");
            }
            shield.attach(interface, want).unwrap_err().to_string()
        });
        assert!(said.contains(reason), "{interface}: {said}");
    }
    // Why not in the driver is told where it works otherwise.
    let told = place.within(|| shield.attach("lo", Want::Best).unwrap());
    assert!(
        told.reason
            .is_some_and(|reason| reason.contains("driver: "))
    );
    let said = Shield::open(b"no object", place.pins(), &guard());
    assert!(said.err().unwrap().to_string().contains("cargo xtask ebpf"));
    let _ = object();
}
