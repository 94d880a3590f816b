//! The agent dies, comes back, is upgraded, loses its capture, and goes.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringwall_ebpf_loader::{Attach, Enrolment, Kernel, Listener, Slice};

use crate::capture::dial;
use crate::world::tests;
use crate::world::{Helper, World, listener, object};

tests!(
    escape_kill_of_the_agent_changes_nothing,
    escape_kill_of_the_agent_at_random_moments_opens_nothing,
    escape_kill_of_the_proxy_stops_traffic,
    escape_detached_capture_stops_traffic,
    lifecycle_upgrade_keeps_connections_and_has_no_gap,
    lifecycle_a_new_agent_finds_what_was_there,
    lifecycle_attached_to_each_group_alone,
    lifecycle_removal_leaves_nothing,
    lifecycle_needs_three_capabilities_and_no_more,
    lifecycle_errors_name_what_was_seen,
);

/// In a helper that is killed afterwards: an agent.
pub(crate) fn open_and_hold(pins: &str, slice: &str) -> io::Result<String> {
    let slice = Slice {
        path: PathBuf::from(slice),
        pins: PathBuf::from(pins),
        attach: Attach::Slice,
    };
    let kernel = match Kernel::open(&object(), slice) {
        Ok(kernel) => kernel,
        Err(error) => return Ok(format!("not open: {error}")),
    };
    // Never closed by a destructor: the process is killed with it.
    std::mem::forget(kernel);
    Ok("open".into())
}

fn open(world: &World, helper: &mut Helper) {
    let (pins, slice) = (world.pins.display(), world.slice.display());
    assert_eq!(helper.ok(&format!("open {pins} {slice}")), ["open"]);
}

fn escape_kill_of_the_agent_changes_nothing() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    // From here on another process is the agent, and that one is killed.
    world.kernel = None;
    let mut agent = Helper::start_as("-", "-");
    open(&world, &mut agent);
    let (app, proxy, _) = dial(&mut pair, "10.99.0.1:8080", false);
    agent.kill();
    pair.app.ok(&format!("send {app} still"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["still"]);
    let (_, _, original) = dial(&mut pair, "10.99.0.1:8080", false);
    assert_eq!(original, "10.99.0.1:8080");
    pair.app.refused("connect 192.0.2.1:80", "EPERM");
    pair.app.refused("connect [2001:db8::1]:80", "EPERM");
    pair.app.refused("socket 2 3 255", "EPERM");
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app
        .refused(&format!("send-to {socket} 192.0.2.1:443 x"), "EPERM");
}

/// While it loads, while it takes over link by link, while it is idle.
fn escape_kill_of_the_agent_at_random_moments_opens_nothing() {
    const KILLS: u64 = 200;
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let (app, proxy, _) = dial(&mut pair, "10.99.0.1:8080", false);
    world.kernel = None;
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = outside.local_addr().unwrap();
    let udp = pair.app.ok("udp 4").remove(0);
    for kill in 0..KILLS {
        let mut agent = Helper::start_as("-", "-");
        let (pins, slice) = (world.pins.display(), world.slice.display());
        agent.say(&format!("open {pins} {slice}"));
        // Spread over the time that a take-over needs, in an order that does not follow it.
        let end = Instant::now() + Duration::from_micros(kill * 7919 % KILLS * 400);
        while Instant::now() < end {
            pair.app.refused(&format!("connect {outside}"), "EPERM");
            pair.app.refused("socket 2 3 255", "EPERM");
            pair.app
                .refused(&format!("send-to {udp} 127.0.0.1:9 x"), "EPERM");
        }
        agent.kill();
        pair.app.ok(&format!("send {app} {kill}"));
        let heard = pair.proxy.ok(&format!("receive {proxy}"));
        assert_eq!(
            heard,
            [kill.to_string()],
            "an established connection goes on"
        );
    }
    let (_, _, original) = dial(&mut pair, "10.99.0.1:8080", false);
    assert_eq!(original, "10.99.0.1:8080");
}

fn escape_kill_of_the_proxy_stops_traffic() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    dial(&mut pair, "10.99.0.1:8080", false);
    pair.proxy.kill();
    pair.app.refused("connect 10.99.0.1:8080", "ECONNREFUSED");
    pair.app
        .refused("connect [::ffff:10.99.0.1]:8080", "ECONNREFUSED");
}

fn escape_detached_capture_stops_traffic() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |app| app.egress = true);
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let four = outside.local_addr().unwrap();
    let outside = std::net::TcpListener::bind("[::1]:0").unwrap();
    let six = outside.local_addr().unwrap();
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagrams = receiver.local_addr().unwrap();
    world.detach_capture(&mut pair);
    // Dropped, not refused: nobody tells the application why.
    pair.app.refused(&format!("connect {four}"), "TimedOut");
    pair.app.refused(&format!("connect {six}"), "TimedOut");
    let socket = pair.app.ok("udp 4").remove(0);
    pair.app
        .refused(&format!("send-to {socket} {datagrams} x"), "EPERM");
}

fn lifecycle_upgrade_keeps_connections_and_has_no_gap() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let (app, proxy, _) = dial(&mut pair, "10.99.0.1:8080", false);
    // Somebody tries to get out all the while.
    let mut attacker = Helper::start(&pair.app_group, "-");
    let attack = std::thread::spawn(move || {
        let mut tried = 0_u32;
        while !DONE.load(Ordering::Relaxed) || tried < 100 {
            attacker.refused("connect 127.0.0.1:9", "EPERM");
            attacker.refused("socket 2 3 255", "EPERM");
            tried += 1;
        }
        tried
    });
    for _ in 0..5 {
        let place = world.place();
        world.kernel = Some(Kernel::open(&object(), place).unwrap());
        pair.app.ok(&format!("send {app} on"));
        assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["on"]);
        let (_, _, original) = dial(&mut pair, "10.99.0.1:8080", false);
        assert_eq!(original, "10.99.0.1:8080");
    }
    DONE.store(true, Ordering::Relaxed);
    assert!(attack.join().unwrap() >= 100);
}

fn lifecycle_a_new_agent_finds_what_was_there() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.services(&[("inventory", "10.99.0.1:8080")]);
    let place = world.place();
    world.kernel = Some(Kernel::open(&object(), place).unwrap());
    // What it says anew takes the place of what was there, name by name.
    world.services(&[("payments", "10.99.0.3:443")]);
    pair.app.refused("connect 10.99.0.1:8080", "EPERM");
    let (_, _, original) = dial(&mut pair, "10.99.0.3:443", false);
    assert_eq!(original, "10.99.0.3:443");
    world.kernel().retain(&[]).unwrap();
    pair.app.refused("connect 10.99.0.3:443", "EPERM");
}

fn lifecycle_attached_to_each_group_alone() {
    let mut world = World::new();
    world.kernel = None;
    Kernel::remove(&world.pins).unwrap();
    let place = Slice {
        attach: Attach::Each,
        ..world.place()
    };
    let mut kernel = Kernel::open(&object(), place).unwrap();
    let (app, proxy) = (world.group("app-orders"), world.group("proxy-orders"));
    kernel.enrol(&Enrolment::proxy("orders", &proxy)).unwrap();
    let mut proxy = Helper::start(&proxy, "-");
    let (number, capture) = listener(&mut proxy, "127.0.0.1:0");
    let enrolment = Enrolment {
        capture: Listener {
            v4: Some(capture),
            v6: None,
        },
        egress: true,
        ..Enrolment::app("orders", &app)
    };
    kernel.enrol(&enrolment).unwrap();
    let mut helper = Helper::start(&app, "-");
    helper.ok("connect 192.0.2.1:80");
    assert_eq!(proxy.ok(&format!("accept {number}"))[2], "192.0.2.1:80");
    // IPv6 by the only listener there is.
    helper.ok("connect [2001:db8::1]:80");
    assert_eq!(proxy.ok(&format!("accept {number}"))[2], "[2001:db8::1]:80");
    // Others beside them are none of ours.
    let stranger = world.group("stranger");
    Helper::start(&stranger, "-").ok("udp 4");
    drop(helper);
    kernel.withdraw(&app).unwrap();
}

fn lifecycle_removal_leaves_nothing() {
    let mut world = World::new();
    let mut pair = world.pair("orders", |_| {});
    world.remove_all(&mut pair);
    assert!(!world.pins.exists());
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    pair.app
        .ok(&format!("connect {}", outside.local_addr().unwrap()));
    // Twice is fine.
    Kernel::remove(&world.pins).unwrap();
}

/// A helper with these capabilities and no others.
fn with_capabilities(names: &str) -> Helper {
    let set = format!("--bounding-set=-all{names}");
    Helper::start_under(&["setpriv", &set], "-", "-")
}

fn lifecycle_needs_three_capabilities_and_no_more() {
    // Mounting bpffs, where that is still to do, takes more.
    let mut world = World::new();
    world.kernel = None;
    Kernel::remove(&world.pins).unwrap();
    open(&world, &mut with_capabilities(",+bpf,+net_admin,+perfmon"));
    let (pins, slice) = (world.pins.display(), world.slice.display());
    for (names, lacks) in [
        (",+bpf,+perfmon", "CAP_NET_ADMIN"),
        (",+bpf,+net_admin", "CAP_PERFMON"),
        (",+net_admin,+perfmon", "CAP_BPF"),
    ] {
        let mut helper = with_capabilities(names);
        let said = helper.ok(&format!("open {pins} {slice}")).join(" ");
        assert!(said.contains(&format!("lacks {lacks};")), "{said}");
    }
}

fn lifecycle_errors_name_what_was_seen() {
    let world = World::new();
    let error = |object: &[u8], slice: Slice| {
        let opened = Kernel::open(object, slice);
        opened.err().expect("it opened").to_string()
    };
    let elsewhere = Slice {
        path: PathBuf::from("/tmp"),
        ..world.place()
    };
    let said = error(&object(), elsewhere);
    assert!(said.contains("/tmp is no control group"), "{said}");
    let said = error(b"no object", world.place());
    assert!(said.contains("cargo xtask ebpf"), "{said}");
    let unmounted = Slice {
        pins: PathBuf::from("/proc/ringwall/pins"),
        ..world.place()
    };
    let said = error(&object(), unmounted);
    assert!(said.contains("mount -t bpf bpf /proc/ringwall"), "{said}");
}
