//! What is on the wire: every way out is tried in a network of its own, whose other end counts what arrives.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use socket2::Socket;

use crate::world::tests;
use crate::world::{Helper, World, listener};

tests!(
    escape_matrix_leaves_no_cleartext_on_the_wire,
    escape_kill_of_agent_and_proxy_at_random_moments_leaves_nothing_on_the_wire,
);

/// In every payload.
const MARKER: &str = "cleartext-marker";

/// Binds a packet socket to an interface of the process's own network namespace.
pub(crate) fn bind_to_interface(socket: &Socket, interface: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name is a string that ends by zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: integers alone, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = 0x0003_u16.to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the address is one, of the length that is given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `FRAMES BYTES`: frames of TCP and UDP that have come since the last time, and bytes of the marker in any frame.
pub(crate) fn count(mut socket: &Socket, text: &str) -> io::Result<String> {
    let (mut frames, mut bytes) = (0, 0);
    let mut buffer = [0; 65_536];
    loop {
        let read = match socket.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        let frame = &buffer[..read];
        let transport = match (frame.get(12), frame.get(13)) {
            (Some(0x08), Some(0x00)) => frame.get(23),
            (Some(0x86), Some(0xdd)) => frame.get(20),
            _ => None,
        };
        if matches!(transport, Some(6 | 17)) {
            frames += 1;
        }
        if frame
            .windows(text.len())
            .any(|window| window == text.as_bytes())
        {
            bytes += text.len();
        }
    }
    Ok(format!("{frames} {bytes}"))
}

/// A network with one way out, and the sniffer's socket at its other end.
fn network() -> (Helper, String) {
    let mut network = Helper::start_as("-", "-");
    network.ok("new-network");
    for command in [
        "ip link set lo up",
        "ip link add v0 type veth peer name v1",
        "ip addr add 10.99.0.100/24 dev v0",
        "ip -6 addr add fd00:99::100/64 dev v0 nodad",
        "ip link set v1 up",
        "ip link set v0 up",
        "ip neigh add 10.99.0.1 lladdr 02:00:00:00:00:01 dev v0 nud permanent",
        "ip -6 neigh add fd00:99::1 lladdr 02:00:00:00:00:01 dev v0 nud permanent",
        "ip route add default via 10.99.0.1 dev v0",
        "ip -6 route add default via fd00:99::1 dev v0",
    ] {
        network.ok(&format!("run {command}"));
    }
    // How long it waits for a last frame, whenever it counts.
    network.ok("patience 50");
    let sniffer = network.ok("sniff v1").remove(0);
    (network, sniffer)
}

/// Every way out, whatever comes of it.
fn try_everything(app: &mut Helper) {
    for to in [
        "10.99.0.1:80",
        "[fd00:99::1]:80",
        "[::ffff:10.99.0.1]:80",
        "169.254.169.254:80",
        "8.8.8.8:443",
    ] {
        app.ask(&format!("connect {to}"));
        app.ask(&format!("connect-marked {to}"));
        app.ask(&format!("uring {to}"));
        app.ask(&format!("fastopen {to} {MARKER}"));
    }
    for (domain, to) in [
        ("4", "10.99.0.1:443"),
        ("4", "10.99.0.1:53"),
        ("4", "224.0.0.251:5353"),
        ("6", "[fd00:99::1]:443"),
        ("6", "[fd00:99::1]:53"),
        ("6", "[::ffff:10.99.0.1]:443"),
        ("6", "[ff02::fb]:5353"),
    ] {
        let answer = app.ask(&format!("udp {domain}"));
        let Some(socket) = answer.strip_prefix("ok ") else {
            continue;
        };
        app.ask(&format!("send-to {socket} {to} {MARKER}"));
        app.ask(&format!("udp-connect {socket} {to}"));
        app.ask(&format!("send {socket} {MARKER}"));
    }
    for socket in ["2 3 253", "2 3 1", "10 3 253", "2 2 1"] {
        let answer = app.ask(&format!("socket {socket}"));
        if let Some(number) = answer.strip_prefix("ok ") {
            let to = if socket.starts_with("10") {
                "[fd00:99::1]:0"
            } else {
                "10.99.0.1:0"
            };
            app.ask(&format!("send-to {number} {to} {MARKER}"));
        }
    }
}

fn escape_matrix_leaves_no_cleartext_on_the_wire() {
    let (mut network, sniffer) = network();
    let id = network.id().to_string();
    let mut world = World::new();
    let mut pair = world.pair_in("orders", &id, |_| {});
    let count = format!("count {sniffer} {MARKER}");
    network.ask(&count);
    pair.app.ok("patience 200");
    try_everything(&mut pair.app);
    assert_eq!(network.ok(&count), ["0", "0"], "frames, bytes of cleartext");
    // Without capture the second wall alone.
    world.detach_capture(&mut pair);
    try_everything(&mut pair.app);
    assert_eq!(
        network.ok(&count),
        ["0", "0"],
        "frames, bytes without capture"
    );
    // And without any: the sniffer sees what it is there for.
    world.remove_all(&mut pair);
    try_everything(&mut pair.app);
    let seen = network.ok(&count);
    assert!(seen[0].parse::<u32>().unwrap() >= 10, "{seen:?}");
    assert!(
        seen[1].parse::<usize>().unwrap() >= 4 * MARKER.len(),
        "{seen:?}"
    );
}

/// Under load: connections through capture, and attempts around it, while both that could stop them are killed.
fn escape_kill_of_agent_and_proxy_at_random_moments_leaves_nothing_on_the_wire() {
    const KILLS: u64 = 200;
    let (mut network, sniffer) = network();
    let id = network.id().to_string();
    let mut world = World::new();
    let mut pair = world.pair_in("orders", &id, |app| app.egress = true);
    world.services(&[("inventory", "10.99.0.1:8080")]);
    world.kernel = None;
    let count = format!("count {sniffer} {MARKER}");
    network.ask(&count);
    pair.app.ok("patience 100");
    let (proxy_group, capture) = (pair.proxy_group.clone(), pair.capture.1);
    let mut served = 0;
    for kill in 0..KILLS {
        let mut agent = Helper::start_as("-", "-");
        let (pins, slice) = (world.pins.display(), world.slice.display());
        agent.say(&format!("open {pins} {slice}"));
        let both = [kill % 3 != 1, kill % 3 != 2];
        // Spread over a take-over and a connection, in an order that does not follow it.
        let after = Duration::from_micros(kill * 7919 % KILLS * 200);
        thread::scope(|scope| {
            let (app, proxy, listener) = (&mut pair.app, &mut pair.proxy, &pair.capture.0);
            let client = scope.spawn(move || {
                let mut served = 0;
                let end = Instant::now() + after + Duration::from_millis(5);
                while Instant::now() < end {
                    // Whatever comes of it.
                    let answer = app.ask("connect 10.99.0.1:8080");
                    if let Some(words) = answer.strip_prefix("ok ") {
                        let socket = words.split(' ').next().unwrap_or_default().to_owned();
                        app.ask(&format!("send {socket} {MARKER}"));
                        app.ok(&format!("close {socket}"));
                        served += 1;
                    }
                    app.ask(&format!("fastopen 10.99.0.1:80 {MARKER}"));
                    app.ask("socket 2 3 255");
                }
                served
            });
            if both[0] {
                proxy.say(&format!("accept {listener}"));
            }
            thread::sleep(after);
            if both[0] {
                proxy.kill();
            }
            if both[1] {
                agent.kill();
            }
            served += client.join().unwrap();
        });
        if both[0] {
            pair.proxy = Helper::start(&proxy_group, &id);
            pair.capture = listener(&mut pair.proxy, &capture.to_string());
        }
        if kill % 10 == 9 {
            let seen = network.ok(&count);
            assert_eq!(seen, ["0", "0"], "frames, bytes after kill {kill}");
        }
    }
    assert!(served >= KILLS, "only {served} connections were captured");
    world.remove_all(&mut pair);
    pair.app.ask(&format!("fastopen 10.99.0.1:80 {MARKER}"));
    let seen = network.ok(&count);
    assert_ne!(seen[0], "0", "the sniffer sees what leaves: {seen:?}");
}
