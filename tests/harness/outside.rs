//! A network outside this machine: an interface that leads to it, and clients in it with addresses of their own.
//!
//! Owns: the network namespace and the veth, which go with it (also when this process is killed: nobody else holds the
//! namespace). Must not: know what its clients say.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::{TcpSocket, TcpStream};

/// The other end, in the namespace.
const FAR: &str = "outside";
/// The first number of a client's address.
const FIRST_CLIENT: u8 = 2;
/// Clients that it has: the rest of a /28.
const CLIENTS: u8 = 13;

/// The network. It needs root.
#[derive(Debug)]
pub struct Outside {
    namespace: File,
    interface: String,
    /// The first three numbers of all its addresses, and the first of the last one.
    base: Ipv4Addr,
}

impl Outside {
    /// Makes one whose interface and addresses are of this process alone (198.18.0.0/15 is for tests: RFC 2544).
    pub fn new() -> Result<Self> {
        let process = std::process::id();
        let [_, _, high, low] = process.wrapping_mul(16).to_be_bytes();
        let base = Ipv4Addr::new(198, 18 + u8::from(process & 0x1000 != 0), high, low & 0xf0);
        let namespace = apart(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        })?;
        let outside = Self {
            interface: format!("rwe2e{process}"),
            namespace,
            base,
        };
        outside.build().context(
            "cannot make a network outside: it needs root, and `ip` of Debian's package iproute2",
        )?;
        Ok(outside)
    }

    fn build(&self) -> Result<()> {
        let near = &self.interface;
        let descriptor = self.namespace.as_raw_fd();
        let namespace = format!("/proc/{}/fd/{descriptor}", std::process::id());
        ip(&format!("link add {near} type veth peer name {FAR}"))?;
        ip(&format!("link set {FAR} netns {namespace}"))?;
        ip(&format!("addr add {}/28 dev {near}", self.near()))?;
        ip(&format!("link set {near} up"))?;
        let clients: Vec<Ipv4Addr> = (0..CLIENTS).map(|number| self.client(number)).collect();
        self.inside(move || {
            for client in clients {
                ip(&format!("addr add {client}/28 dev {FAR}"))?;
            }
            ip(&format!("link set {FAR} up"))
        })
    }

    /// The interface of this machine that leads there.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// This machine's address in it.
    pub fn near(&self) -> Ipv4Addr {
        self.host(1)
    }

    /// The address of a client.
    pub fn client(&self, number: u8) -> Ipv4Addr {
        self.host(FIRST_CLIENT + number % CLIENTS)
    }

    fn host(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + u32::from(number))
    }

    /// A client connects; none where no answer comes in time.
    pub async fn dial(
        &self,
        client: Ipv4Addr,
        port: u16,
        patience: Duration,
    ) -> Result<Option<TcpStream>> {
        // A socket is of the network that it was made in, whoever uses it.
        let socket = self.inside(move || {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(IpAddr::V4(client), 0))?;
            Ok(socket)
        })?;
        let to = SocketAddr::new(IpAddr::V4(self.near()), port);
        let connecting = tokio::time::timeout(patience, socket.connect(to));
        let Ok(connected) = connecting.await else {
            return Ok(None);
        };
        let stream = connected.with_context(|| format!("{client} cannot connect to {to}"))?;
        Ok(Some(stream))
    }

    /// The interface goes, as when a cable's card is taken out.
    pub fn take_away(&self) -> Result<()> {
        ip(&format!("link delete {}", self.interface))
    }

    /// And comes back.
    pub fn bring_back(&self) -> Result<()> {
        self.build()
    }

    fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
                act()
            });
            joined(thread.join())
        })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have been taken away.
        let _ = Command::new("ip")
            .args(["link", "delete", &self.interface])
            .output();
    }
}

/// Does something in a thread that ends with it: what it joins or leaves, nobody else does.
fn apart<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| joined(scope.spawn(act).join()))
}

fn joined<T>(outcome: std::thread::Result<Result<T>>) -> Result<T> {
    outcome.ok().context("a thread outside has panicked")?
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.with_context(|| format!("cannot run ip {words}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {words}: {said}");
    Ok(())
}
