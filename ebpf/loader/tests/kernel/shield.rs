//! The edge shield: real packets over a veth between two networks, and frames through the driver's program.
//!
//! `shield/place.rs` makes the networks, `shield/frames.rs` the frames.

mod frames;
mod place;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use ringwall_ebpf_loader::{
    Added, Cause, ConnectionRate, Count, Fill, Guard, List, Mode, Prefix, Shield, ShieldOptions,
    Want,
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
    attack_shield_loopback_is_guarded_at_its_ports_alone,
    attack_shield_front_drops_no_longer_than_its_denials,
    shield_denial_ends_by_itself_and_is_swept,
    shield_allow_list_comes_first,
    shield_other_ports_are_touched_only_where_asked,
    shield_what_it_cannot_read_passes,
    shield_a_hundred_thousand_of_each_list,
    shield_full_list_says_so_and_loses_nothing,
    shield_operators_word_stands_before_the_gateways,
    shield_killed_agent_leaves_the_list_in_force,
    shield_upgrade_has_no_gap,
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

fn fill(shield: &Shield, list: List) -> Fill {
    let lists = shield.fill();
    lists
        .into_iter()
        .find(|(other, _)| *other == list)
        .unwrap()
        .1
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

/// What is dropped often is dropped by the front; it keeps nobody who was forgiven, allowed, or whose denial ends while the
/// agent is dead.
fn attack_shield_front_drops_no_longer_than_its_denials() {
    let place = Place::new();
    let short = ShieldOptions {
        lease: Some(Duration::from_millis(300)),
        ..options()
    };
    let mut shield = place.open_with(&guard(), &short);
    let hosts = ["192.0.2.7", "192.0.2.8", "192.0.2.9"];
    let try_all = |shield: &Shield| {
        hosts.map(|host| {
            let frame = Frame::tcp(host, PORT, frames::SYN).bytes();
            shield.rehearse(&frame).unwrap()
        })
    };
    let begun = Instant::now();
    let second = Some(Duration::from_millis(1000));
    for host in hosts {
        shield.deny(prefix(host), Cause::RateLimit, second).unwrap();
    }
    for _ in 0..10 {
        assert_eq!(try_all(&shield), [false; 3]);
    }
    assert_eq!(of(&shield, Count::Front), 0);
    shield.sweep().unwrap();
    for _ in 0..64 {
        assert_eq!(try_all(&shield), [false; 3]);
    }
    assert_eq!(of(&shield, Count::Front), 3 * 64);
    let hits: u64 = shield.list().unwrap().iter().map(|row| row.hits).sum();
    assert_eq!(
        hits,
        3 * (10 + 64),
        "each of the sampled ones counts for all"
    );
    // Forgiven, and allowed.
    assert!(shield.forgive(prefix(hosts[1])).unwrap());
    assert_eq!(try_all(&shield), [false, true, false]);
    let allowing = Guard {
        allow: vec![prefix(hosts[2])],
        ..guard()
    };
    shield.set(&allowing).unwrap();
    shield.sweep().unwrap();
    assert_eq!(try_all(&shield), [false, true, true]);
    // Nobody sweeps any more: first the front is left alone, then the denial ends.
    let before = of(&shield, Count::Front);
    assert!(before > 3 * 64);
    std::thread::sleep(Duration::from_millis(350));
    assert_eq!(try_all(&shield), [false, true, true]);
    assert_eq!(of(&shield, Count::Front), before);
    std::thread::sleep(Duration::from_millis(1010).saturating_sub(begun.elapsed()));
    assert_eq!(try_all(&shield), [true; 3]);
}

fn shield_denial_ends_by_itself_and_is_swept() {
    let mut place = Place::new();
    let mut shield = place.open(&guard(), Want::Best);
    let lasts = Duration::from_millis(1500);
    shield
        .deny(prefix("10.77.0.2"), Cause::Handshake, Some(lasts))
        .unwrap();
    let begun = Instant::now();
    place.is_dropped("10.77.0.1");
    let row = shield.list().unwrap()[0];
    assert!(row.left.unwrap() <= lasts);
    assert_eq!(row.cause, Cause::Handshake);
    assert_eq!(shield.sweep().unwrap().ended, 0);
    std::thread::sleep(lasts.saturating_sub(begun.elapsed()) + Duration::from_millis(20));
    place.reaches("10.77.0.1");
    assert!(of(&shield, Count::Expired) >= 1);
    assert!(
        shield.list().unwrap().is_empty(),
        "what has expired is not listed"
    );
    assert_eq!(fill(&shield, List::Hosts4).used, 1);
    assert_eq!(shield.sweep().unwrap().ended, 1);
    assert_eq!(fill(&shield, List::Hosts4).used, 0);
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

fn shield_a_hundred_thousand_of_each_list() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    let four = |bits: u32, length: u8| {
        Prefix::new(std::net::Ipv4Addr::from_bits(bits).into(), length).unwrap()
    };
    let six = |bits: u128, length: u8| {
        Prefix::new(std::net::Ipv6Addr::from_bits(bits).into(), length).unwrap()
    };
    let prefixes: Vec<Prefix> = (0..100_000_u32)
        .flat_map(|n| {
            let base = 0x2001_0db8_u128 << 96;
            [
                four(0x0b00_0000 + n * 7, 32),
                four(0x1000_0000 + (n << 8), 24),
                six(base | u128::from(n) << 64, 64),
                six(0x2a00 << 112 | u128::from(n) << 80, 48),
            ]
        })
        .collect();
    let begun = Instant::now();
    let lasts = Some(Duration::from_secs(3600));
    shield.deny_all(&prefixes, Cause::RateLimit, lasts).unwrap();
    let inserted = begun.elapsed();
    for (list, fill) in shield.fill() {
        assert_eq!((fill.used, fill.capacity), (100_000, 100_000), "{list:?}");
    }
    let listed = shield.list().unwrap();
    let all = begun.elapsed();
    assert_eq!(listed.len(), 400_000);
    eprintln!(
        "400,000 networks: inserted in {inserted:?}, listed in {:?}",
        all - inserted
    );
    assert!(inserted < Duration::from_secs(20), "{inserted:?}");
    for (from, passes) in [
        ("11.0.0.7", false),
        ("11.10.174.89", false),
        ("11.0.0.8", true),
        ("16.0.1.255", false),
        ("17.134.159.1", false),
        ("17.134.160.1", true),
        ("2001:db8:0:7::1", false),
        ("2001:db8:1:869f::ffff", false),
        ("2001:db8:1:86a0::1", true),
        ("2a00:1:869f:1::1", false),
        ("2a00:1:86a0:1::1", true),
    ] {
        let frame = Frame::tcp(from, PORT, frames::SYN).bytes();
        assert_eq!(shield.rehearse(&frame).unwrap(), passes, "{from}");
    }
}

fn shield_full_list_says_so_and_loses_nothing() {
    let place = Place::new();
    let small = ShieldOptions {
        capacities: vec![("SHIELD_HOSTS_4", 10), ("SHIELD_DENY_4", 2)],
        ..options()
    };
    let mut shield = place.open_with(&guard(), &small);
    let network = |n: u8| prefix(&format!("192.0.2.{n}"));
    let eight: Vec<Prefix> = (0..8).map(network).collect();
    shield.deny_all(&eight, Cause::Operator, None).unwrap();
    let five: Vec<Prefix> = (5..13).map(network).collect();
    let said = shield.deny_all(&five, Cause::Operator, None);
    let said = said.unwrap_err().to_string();
    assert!(
        said.contains("8 of 10 hosts of IPv4, and 5 more do not fit"),
        "{said}"
    );
    assert_eq!(shield.list().unwrap().len(), 8, "all or none");
    for n in [20, 21] {
        shield.deny(network(n), Cause::Operator, None).unwrap();
    }
    let said = shield.deny(network(22), Cause::Operator, None);
    assert!(said.unwrap_err().to_string().contains("10 of 10"));
    for n in ["198.51.100.0/24", "203.0.113.0/24"] {
        shield.deny(prefix(n), Cause::Operator, None).unwrap();
    }
    let said = shield.deny(prefix("10.0.0.0/8"), Cause::Operator, None);
    let said = said.unwrap_err().to_string();
    assert!(said.contains("2 of 2 networks of IPv4"), "{said}");
    // What is there can be changed, is in force, and the other lists have room of their own.
    let renewed = shield.deny(network(20), Cause::Operator, Some(Duration::from_secs(60)));
    assert_eq!(renewed.unwrap(), Added::Renewed);
    let six = shield.deny(prefix("2001:db8::1"), Cause::Operator, None);
    assert_eq!(six.unwrap(), Added::New);
    for n in (0..8).chain([20, 21]) {
        let frame = Frame::tcp(&format!("192.0.2.{n}"), PORT, frames::SYN);
        assert!(!shield.rehearse(&frame.bytes()).unwrap());
    }
    assert!(shield.forgive(network(21)).unwrap());
    assert_eq!(
        shield.deny(network(22), Cause::Operator, None).unwrap(),
        Added::New
    );
}

fn shield_operators_word_stands_before_the_gateways() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    let one = prefix("192.0.2.7");
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    let mut say = |cause, lasts| shield.deny(one, cause, lasts).unwrap();
    assert_eq!(say(Cause::RateLimit, minutes(10)), Added::New);
    assert_eq!(say(Cause::Malformed, minutes(5)), Added::Kept);
    assert_eq!(say(Cause::Malformed, minutes(20)), Added::Renewed);
    assert_eq!(say(Cause::Operator, minutes(1)), Added::Renewed);
    assert_eq!(say(Cause::RateLimit, minutes(60)), Added::Kept);
    assert_eq!(say(Cause::Operator, None), Added::Renewed);
    let row = shield.list().unwrap()[0];
    assert_eq!((row.cause, row.left), (Cause::Operator, None));
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
    let said = Shield::open(b"no object", place.pins(), &guard());
    assert!(said.err().unwrap().to_string().contains("cargo xtask ebpf"));
    let _ = object();
}
