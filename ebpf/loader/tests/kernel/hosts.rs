//! Two hosts: a network namespace and a platform each, and a wire between them. An application calls one on the other host,
//! through both proxies, and nobody on the wire reads it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ringwall_identity::authority::Authority;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_secret::private_file;
use ringwall_tls::{IdentitySource, PeerPolicy, mesh_client_config, mesh_server_config};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use socket2::Socket;
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::world::tests;
use crate::world::{Helper, Pair, World, listener};

tests!(
    hosts_call_each_other_by_ipv4_and_the_wire_shows_nothing,
    hosts_call_each_other_by_ipv6_and_the_wire_shows_nothing,
    hosts_of_both_families_reach_each_other_by_either,
    escape_hosts_refuse_everything_beside_the_tunnel,
);

const MARKER: &str = "cleartext-marker";
const APP: &str = "127.0.0.1:17601";
const DOMAIN: &str = "ringwall.local";

/// Two namespaces with a wire: `10.98.0.1` and `fd00:98::1` in the first one, `.2` in the second one.
pub(crate) fn joined() -> (Helper, Helper) {
    let (mut first, mut second) = (Helper::start_as("-", "-"), Helper::start_as("-", "-"));
    first.ok("new-network");
    let other = second.ok("new-network").remove(0);
    first.ok("run ip link set lo up");
    second.ok("run ip link set lo up");
    first.ok(&format!(
        "run ip link add v0 type veth peer name v1 netns {other}"
    ));
    for (helper, interface, number) in [(&mut first, "v0", 1), (&mut second, "v1", 2)] {
        helper.ok(&format!(
            "run ip addr add 10.98.0.{number}/24 dev {interface}"
        ));
        helper.ok(&format!(
            "run ip -6 addr add fd00:98::{number}/64 dev {interface} nodad"
        ));
        helper.ok(&format!("run ip link set {interface} up"));
    }
    (first, second)
}

/// In a helper, as a proxy: what comes to the listener goes on `to` another place, message by message. `out` speaks mTLS
/// there, `in` expects it here, `plain` does neither.
pub(crate) fn relay(listener: Socket, way: &str, to: &str, folder: &str) -> io::Result<String> {
    let (way, folder) = (way.to_owned(), folder.to_owned());
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    thread::spawn(move || {
        loop {
            // It gives up after a while, which is no end.
            let Ok((near, _)) = listener.accept() else {
                continue;
            };
            let (way, folder) = (way.clone(), folder.clone());
            thread::spawn(move || serve(near.into(), &way, to, Path::new(&folder)));
        }
    });
    Ok(String::new())
}

fn serve(near: TcpStream, way: &str, to: SocketAddr, folder: &Path) -> io::Result<()> {
    let patience = Some(Duration::from_secs(60));
    near.set_read_timeout(patience)?;
    match way {
        "out" => {
            let identity = IdentitySource::load(folder).map_err(io::Error::other)?;
            let config =
                mesh_client_config(&identity, id("inventory")).map_err(io::Error::other)?;
            let name = ringwall_tls::mesh_server_name(to);
            let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
            let far = TcpStream::connect(to)?;
            far.set_read_timeout(patience)?;
            exchange(near, StreamOwned::new(tls, far))
        }
        "in" => {
            let identity = IdentitySource::load(folder).map_err(io::Error::other)?;
            let callers = PeerPolicy::AnyOf(vec![id("orders")]);
            let config = mesh_server_config(&identity, callers).map_err(io::Error::other)?;
            let tls = ServerConnection::new(config).map_err(io::Error::other)?;
            let mut near = StreamOwned::new(tls, near);
            // Nobody is dialled for who is not known.
            near.conn.complete_io(&mut near.sock)?;
            exchange(near, TcpStream::connect(to)?)
        }
        _ => exchange(near, TcpStream::connect(to)?),
    }
}

/// A message there, a message back, until one of them has no more to say.
fn exchange(mut near: impl Read + Write, mut far: impl Read + Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = near.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        far.write_all(&buffer[..read])?;
        far.flush()?;
        let read = far.read(&mut buffer)?;
        near.write_all(&buffer[..read])?;
        near.flush()?;
    }
}

fn id(workload: &str) -> SpiffeId {
    SpiffeId::workload(&TrustDomain::parse(DOMAIN).unwrap(), workload).unwrap()
}

/// An identity for each, by one authority.
fn identities() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let now = OffsetDateTime::now_utc();
    let root = Authority::generate(&TrustDomain::parse(DOMAIN).unwrap(), now).unwrap();
    for workload in ["orders", "inventory"] {
        let hour = Duration::from_secs(3600);
        let issued = root.issue_svid(&id(workload), &[], hour, now).unwrap();
        let own = folder.path().join(workload);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("svid.pem"), issued.chain_pem).unwrap();
        fs::write(own.join("bundle.pem"), root.cert_pem()).unwrap();
        private_file::write(&own.join("svid.key"), issued.key_pem.as_bytes()).unwrap();
    }
    folder
}

/// `orders` on the first host, `inventory` on the second one.
struct Hosts {
    caller: Pair,
    callee: Pair,
    /// The callee's application listens here.
    app: String,
    /// Whose sniffer has this number.
    wire: Helper,
    sniffer: String,
    first: Helper,
    caller_world: World,
    _callee_world: World,
    _identities: TempDir,
}

impl Hosts {
    fn new(encrypted: bool) -> Self {
        let (first, mut wire) = joined();
        let networks = [first.id().to_string(), wire.id().to_string()];
        let (mut caller_world, mut callee_world) = (World::new(), World::new());
        let mut caller = caller_world.pair_in("orders", &networks[0], |_| {});
        let mut callee =
            callee_world.pair_in("inventory", &networks[1], |app| app.ports = &[17601]);
        let addresses = ["10.98.0.2:8443", "[fd00:98::2]:8443"].map(|at| at.parse().unwrap());
        caller_world.edges("orders", &[("inventory", &addresses)]);
        let (app, _) = listener(&mut callee.app, APP);
        let identities = identities();
        let folder = |name: &str| identities.path().join(name).display().to_string();
        let [out, into] = if encrypted {
            ["out", "in"]
        } else {
            ["plain"; 2]
        };
        let (tunnel, _) = listener(&mut callee.proxy, "[::]:15008");
        callee.proxy.ok(&format!(
            "relay {tunnel} {into} {APP} {}",
            folder("inventory")
        ));
        let own = folder("orders");
        for (capture, to) in [
            (&caller.capture.0, "10.98.0.2:15008"),
            (&caller.capture_6.0, "[fd00:98::2]:15008"),
        ] {
            caller
                .proxy
                .ok(&format!("relay {capture} {out} {to} {own}"));
        }
        wire.ok("patience 50");
        let sniffer = wire.ok("sniff v1").remove(0);
        Self {
            caller,
            callee,
            app,
            wire,
            sniffer,
            first,
            caller_world,
            _callee_world: callee_world,
            _identities: identities,
        }
    }

    /// From application to application and back.
    #[track_caller]
    fn call(&mut self, to: &str) {
        let dialled = self.caller.app.ok(&format!("connect {to}")).remove(0);
        self.caller
            .app
            .ok(&format!("send {dialled} {MARKER}-question"));
        let accepted = self
            .callee
            .app
            .ok(&format!("accept {}", self.app))
            .remove(0);
        let heard = self.callee.app.ok(&format!("receive {accepted}"));
        assert_eq!(heard, [format!("{MARKER}-question")]);
        self.callee
            .app
            .ok(&format!("send {accepted} {MARKER}-answer"));
        let heard = self.caller.app.ok(&format!("receive {dialled}"));
        assert_eq!(heard, [format!("{MARKER}-answer")]);
    }

    /// Frames since the last time, and bytes of the marker in them.
    fn on_the_wire(&mut self) -> (u64, u64) {
        let seen = self.wire.ok(&format!("count {} {MARKER}", self.sniffer));
        (seen[0].parse().unwrap(), seen[1].parse().unwrap())
    }
}

fn hosts_call(to: &str) {
    let mut hosts = Hosts::new(true);
    hosts.call(to);
    let (frames, marker) = hosts.on_the_wire();
    assert!(frames > 0, "the sniffer sees the tunnel");
    assert_eq!(marker, 0, "of {frames} frames");
    drop(hosts);
    // Proxies that do not encrypt: the sniffer would have seen it.
    let mut hosts = Hosts::new(false);
    hosts.call(to);
    assert!(hosts.on_the_wire().1 > 0);
}

fn hosts_call_each_other_by_ipv4_and_the_wire_shows_nothing() {
    hosts_call("10.98.0.2:8443");
}

fn hosts_call_each_other_by_ipv6_and_the_wire_shows_nothing() {
    hosts_call("[fd00:98::2]:8443");
}

fn hosts_of_both_families_reach_each_other_by_either() {
    let mut hosts = Hosts::new(true);
    for to in [
        "10.98.0.2:8443",
        "[fd00:98::2]:8443",
        "[::ffff:10.98.0.2]:8443",
        "10.98.0.2:8443",
    ] {
        hosts.call(to);
    }
    assert_eq!(hosts.on_the_wire().1, 0);
}

fn escape_hosts_refuse_everything_beside_the_tunnel() {
    let mut hosts = Hosts::new(true);
    hosts.call("10.98.0.2:8443");
    hosts.on_the_wire();
    // Neither application leaves its host but by what it has an edge to.
    for to in [
        "10.98.0.2:15008",
        "[fd00:98::2]:15008",
        "10.98.0.2:17601",
        "[fd00:98::2]:17601",
    ] {
        hosts.caller.app.refused(&format!("connect {to}"), "EPERM");
    }
    for to in ["10.98.0.1:8443", "[fd00:98::1]:15008", "10.98.0.2:8443"] {
        hosts.callee.app.refused(&format!("connect {to}"), "EPERM");
    }
    assert_eq!(hosts.on_the_wire(), (0, 0));
    // The other host's proxy does not reach the application past its own proxy.
    for to in ["10.98.0.2:17601", "[fd00:98::2]:17601"] {
        hosts
            .caller
            .proxy
            .refused(&format!("connect {to}"), "ECONNREFUSED");
    }
    // Who has no identity is not let through.
    let mut stranger = Helper::start_as("-", &hosts.first.id().to_string());
    let dialled = stranger.ok("connect 10.98.0.2:15008").remove(0);
    stranger.ok(&format!("send {dialled} {MARKER}"));
    hosts
        .callee
        .app
        .refused(&format!("accept {}", hosts.app), "EAGAIN");
    // Nor is who has lost the edge.
    hosts.on_the_wire();
    hosts.caller_world.kernel().set_edges([]).unwrap();
    for to in ["10.98.0.2:8443", "[fd00:98::2]:8443"] {
        hosts.caller.app.refused(&format!("connect {to}"), "EPERM");
    }
    assert_eq!(hosts.on_the_wire(), (0, 0));
}
