//! The list itself: how denials end, whose word stands, how full it may be, and the front.

use std::time::{Duration, Instant};

use ringwall_ebpf_loader::{
    Added, Cause, Count, Fill, Guard, List, Prefix, Shield, ShieldOptions, Want,
};

use super::frames::{self, Frame};
use super::place::{PORT, Place};
use super::{guard, of, options, prefix};
use crate::world::tests;

tests!(
    attack_shield_front_drops_no_longer_than_its_denials,
    attack_shield_front_drops_every_shape_of_a_packet_and_nothing_else,
    shield_denial_ends_by_itself_and_is_swept,
    shield_a_hundred_thousand_of_each_list,
    shield_full_list_says_so_and_loses_nothing,
    shield_operators_word_stands_before_the_gateways,
);

fn fill(shield: &Shield, list: List) -> Fill {
    let lists = shield.fill();
    lists
        .into_iter()
        .find(|(other, _)| *other == list)
        .unwrap()
        .1
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
    for _ in 0..128 {
        assert_eq!(try_all(&shield), [false; 3]);
    }
    assert_eq!(of(&shield, Count::Front), 3 * 128);
    let hits: u64 = shield.list().unwrap().iter().map(|row| row.hits).sum();
    // One in 128 on each CPU counts for all: two CPUs may have begun.
    assert!((30 + 128..=30 + 3 * 128).contains(&hits), "{hits}");
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
    assert!(before > 3 * 128);
    std::thread::sleep(Duration::from_millis(350));
    assert_eq!(try_all(&shield), [false, true, true]);
    assert_eq!(of(&shield, Count::Front), before);
    std::thread::sleep(Duration::from_millis(1010).saturating_sub(begun.elapsed()));
    assert_eq!(try_all(&shield), [true; 3]);
}

/// It reads most packets at a glance, and the others as everybody does.
fn attack_shield_front_drops_every_shape_of_a_packet_and_nothing_else() {
    let place = Place::new();
    let mut shield = place.open_apart(&guard());
    let denied = "192.0.2.7";
    shield.deny(prefix(denied), Cause::Operator, None).unwrap();
    let syn = |from: &str, port: u16| Frame::tcp(from, port, frames::SYN);
    let usual = syn(denied, PORT);
    for _ in 0..10 {
        assert!(!shield.rehearse(&usual.bytes()).unwrap());
    }
    shield.sweep().unwrap();
    let mut listed = 10;
    for (name, frame) in [
        ("usual", usual.bytes()),
        ("established", Frame::tcp(denied, PORT, frames::ACK).bytes()),
        ("a datagram", Frame::udp(denied, PORT).bytes()),
        ("a tag", usual.tagged(&[0x8100])),
        ("two tags", usual.tagged(&[0x88a8, 0x8100])),
        ("options", usual.with_options([1; 4])),
        ("a first fragment", usual.fragment(0)),
        ("cut off behind the ports", usual.bytes()[..38].to_vec()),
    ] {
        let before = of(&shield, Count::Front);
        for _ in 0..3 {
            assert!(!shield.rehearse(&frame).unwrap(), "{name}");
        }
        let seen = of(&shield, Count::Front) - before;
        assert_eq!(seen, 3, "{name}: by the front");
        listed += seen;
    }
    let mut icmp = usual.bytes();
    icmp[23] = 1;
    let [port, last] = PORT.to_be_bytes();
    for (name, frame) in [
        ("another port", syn(denied, 22).bytes()),
        ("no port", icmp),
        (
            "options that look like ports",
            syn(denied, 22).with_options([1, 1, port, last]),
        ),
        ("a later fragment", usual.fragment(185)),
        ("cut off before the ports", usual.bytes()[..37].to_vec()),
        ("a neighbour", syn("192.0.2.8", PORT).bytes()),
        ("its bytes turned", syn("7.2.0.192", PORT).bytes()),
        ("nobody's tag", syn("0.0.0.0", PORT).bytes()),
    ] {
        for _ in 0..3 {
            assert!(shield.rehearse(&frame).unwrap(), "{name}");
        }
    }
    assert_eq!(of(&shield, Count::Front), listed - 10);
    // Where all ports are guarded, the others as well.
    let everything = Guard {
        everything: true,
        ..guard()
    };
    shield.set(&everything).unwrap();
    shield.sweep().unwrap();
    for frame in [
        syn(denied, 22).bytes(),
        Frame::other(denied, 1).bytes(),
        usual.bytes(),
    ] {
        assert!(!shield.rehearse(&frame).unwrap());
    }
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
