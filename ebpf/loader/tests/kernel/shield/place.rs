//! Two networks with a veth between them: the gateway's, whose end the shield is at, and a client's.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use ringwall_ebpf_loader::{Cause, Guard, Kernel, Mode, Prefix, Shield, ShieldOptions, Want};
use socket2::{Domain, Socket, Type};

use super::{guard, options};
use crate::world::{Helper, object};

/// Where the gateway listens.
pub(super) const PORT: u16 = 8443;
/// How long a packet may take that does come.
const SOON: u32 = 2000;
/// How long is waited for one that must not come.
const LONG_ENOUGH: u32 = 300;

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(super) struct Place {
    gateway: Helper,
    client: Helper,
    listener: String,
    pins: PathBuf,
    /// How the shield was attached last.
    pub(super) mode: Option<Mode>,
}

/// An open connection: numbers of both sockets.
pub(super) struct Kept {
    client: String,
    server: String,
}

impl Place {
    pub(super) fn new() -> Self {
        let mut gateway = Helper::start_as("-", "-");
        let mut client = Helper::start_as("-", "-");
        gateway.ok("new-network");
        client.ok("new-network");
        gateway.ok("run ip link set lo up");
        connect(&mut gateway, &mut client);
        let listener = gateway.ok(&format!("listen [::]:{PORT}")).remove(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringwall-shield-test-{}-{number}", std::process::id());
        Self {
            gateway,
            client,
            listener,
            pins: Path::new("/sys/fs/bpf").join(name),
            mode: None,
        }
    }

    /// Both ends of the veth go.
    pub(super) fn unplug(&mut self) {
        self.gateway.ok("run ip link delete v0");
    }

    /// Others come, with the same names and addresses.
    pub(super) fn plug(&mut self) {
        connect(&mut self.gateway, &mut self.client);
    }

    pub(super) fn pins(&self) -> &Path {
        &self.pins
    }

    /// Puts a frame onto the client's end.
    pub(super) fn sends(&self, frame: &[u8]) {
        let id = self.client.id();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                enter(id);
                let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
                crate::wire::bind_to_interface(&socket, "v1").unwrap();
                socket.send(frame).unwrap();
            });
        });
    }

    #[track_caller]
    pub(super) fn waits_until(&self, there: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_millis(SOON.into());
        while !there() {
            assert!(Instant::now() < end, "it does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Opens the shield at the gateway's end.
    pub(super) fn open(&mut self, guard: &Guard, want: Want) -> Shield {
        self.open_at("v0", guard, want)
    }

    pub(super) fn open_at(&mut self, interface: &str, guard: &Guard, want: Want) -> Shield {
        let shield = self.open_apart(guard);
        let attached = self.within(|| shield.attach(interface, want).unwrap());
        self.mode = Some(attached.mode);
        shield
    }

    /// Opens it, and attaches it to nothing: for frames that are handed to it.
    pub(super) fn open_apart(&self, guard: &Guard) -> Shield {
        self.open_with(guard, &options())
    }

    pub(super) fn open_with(&self, guard: &Guard, options: &ShieldOptions) -> Shield {
        let opened = Shield::open_with(&object(), &self.pins, guard, options);
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Does something in the gateway's network.
    pub(super) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let id = self.gateway.id();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(id);
                act()
            });
            inside.join().unwrap()
        })
    }

    /// An agent in a process of its own, which denies an address.
    pub(super) fn agent(&self, denied: &str) -> Helper {
        let mut agent = Helper::start_as("-", &self.gateway.id().to_string());
        let pins = self.pins.display();
        agent.ok(&format!("shield {pins} v0 {denied}"));
        agent
    }

    #[track_caller]
    pub(super) fn reaches(&mut self, host: &str) {
        self.client.ok(&format!("patience {SOON}"));
        self.client.ok(&format!("connect {host}:{PORT}"));
        self.gateway.ok(&format!("accept {}", self.listener));
    }

    #[track_caller]
    pub(super) fn is_dropped(&mut self, host: &str) {
        self.client.ok(&format!("patience {LONG_ENOUGH}"));
        self.client
            .refused(&format!("connect {host}:{PORT}"), "TimedOut");
    }

    /// Opens a connection with little patience; false where its SYN was dropped.
    pub(super) fn tries(&mut self, host: &str) -> bool {
        self.client.ok("patience 20");
        let answer = self.client.ask(&format!("connect {host}:{PORT}"));
        answer.starts_with("ok")
    }

    pub(super) fn connect(&mut self, host: &str) -> Kept {
        self.client.ok(&format!("patience {SOON}"));
        let client = self.client.ok(&format!("connect {host}:{PORT}")).remove(0);
        let accepted = self.gateway.ok(&format!("accept {}", self.listener));
        let server = accepted[0].clone();
        Kept { client, server }
    }

    /// So many messages over an open connection: each arrives.
    pub(super) fn talk(&mut self, kept: &Kept, messages: u32) {
        for message in 0..messages {
            self.client.ok(&format!("send {} {message}", kept.client));
            let heard = self.gateway.ok(&format!("receive {}", kept.server));
            assert_eq!(heard, [message.to_string()]);
        }
    }

    /// The gateway's network calls itself by its loopback.
    #[track_caller]
    pub(super) fn serves_itself(&mut self, port: u16, reached: bool) {
        if port != PORT {
            self.gateway.ok(&format!("listen [::]:{port}"));
        }
        self.gateway.ok(&format!("patience {LONG_ENOUGH}"));
        let answer = self.gateway.ask(&format!("connect 127.0.0.1:{port}"));
        assert_eq!(answer.starts_with("ok"), reached, "{port}: {answer}");
        self.gateway.ok(&format!("patience {SOON}"));
    }

    /// Datagrams from the client to the gateway's port, for so long.
    pub(super) fn flood(&self, lasts: Duration) -> Flood {
        let (gateway, client) = (self.gateway.id(), self.client.id());
        let end = Instant::now() + lasts;
        let receiver = std::thread::spawn(move || {
            enter(gateway);
            let socket = UdpSocket::bind(("10.77.0.1", PORT)).unwrap();
            let pause = Duration::from_millis(50);
            socket.set_read_timeout(Some(pause)).unwrap();
            let mut heard = 0;
            while Instant::now() < end + pause {
                heard += u32::from(socket.recv(&mut [0; 16]).is_ok());
            }
            heard
        });
        let sender = std::thread::spawn(move || {
            enter(client);
            let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
            let mut sent = 0;
            while Instant::now() < end {
                // An answer that the port is closed may come before the receiver has opened it.
                sent += u32::from(socket.send_to(b"flood", ("10.77.0.1", PORT)).is_ok());
                std::thread::sleep(Duration::from_micros(200));
            }
            sent
        });
        Flood { sender, receiver }
    }
}

pub(super) struct Flood {
    sender: JoinHandle<u32>,
    receiver: JoinHandle<u32>,
}

impl Flood {
    /// How many were sent, and how many arrived.
    pub(super) fn join(self) -> (u32, u32) {
        (self.sender.join().unwrap(), self.receiver.join().unwrap())
    }
}

fn connect(gateway: &mut Helper, client: &mut Helper) {
    let peer = client.id();
    for command in [
        format!("ip link add v0 type veth peer name v1 netns {peer}"),
        "ip addr add 10.77.0.1/24 dev v0".to_owned(),
        "ip -6 addr add fd77::1/64 dev v0 nodad".to_owned(),
        "ip link set v0 up".to_owned(),
    ] {
        gateway.ok(&format!("run {command}"));
    }
    for command in [
        "ip addr add 10.77.0.2/24 dev v1",
        "ip -6 addr add fd77::2/64 dev v1 nodad",
        "ip link set v1 up",
    ] {
        client.ok(&format!("run {command}"));
    }
}

/// In the network of the calling thread.
pub(super) fn ip(words: &str) {
    let status = std::process::Command::new("ip")
        .args(words.split(' '))
        .status();
    assert!(status.unwrap().success(), "ip {words}");
}

/// The calling thread joins the network of a process.
fn enter(id: u32) {
    let network = File::open(format!("/proc/{id}/ns/net")).unwrap();
    setns(network, CloneFlags::CLONE_NEWNET).unwrap();
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Kernel::remove(&self.pins);
    }
}

/// In a helper that is killed afterwards: an agent that has attached the shield and denied an address.
pub(crate) fn hold(pins: &str, interface: &str, denied: &str) -> io::Result<String> {
    let open = || -> ringwall_ebpf_loader::Result<Shield> {
        let mut shield = Shield::open_with(&object(), Path::new(pins), &guard(), &options())?;
        shield.attach(interface, Want::Best)?;
        let denied: Prefix = denied.parse().unwrap();
        shield.deny(denied, Cause::Operator, None)?;
        Ok(shield)
    };
    // Never closed by a destructor: the process is killed with it.
    std::mem::forget(open().map_err(io::Error::other)?);
    Ok("open".into())
}
