//! Where each subject is measured: a network namespace, control groups and programs of its own, all gone afterwards.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use ringwall_ebpf_loader::{
    Attach, Bind, ENFORCEMENT, Enrolment, Kernel, Listener, Options, Slice,
};

/// Where version 2 may be mounted.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// What the client calls; nobody listens there.
const SERVICE: &str = "127.0.0.9:80";
/// Longer than any measurement.
const LEASE: Duration = Duration::from_secs(24 * 3600);
const CLIENT_CORE: &str = "0";
const SERVER_CORE: &str = "1";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The client dials the server.
    Plain,
    /// nftables sends it there.
    Redirect,
    /// Our connect hooks and what belongs to them.
    Capture,
    /// The same with default-deny on every packet.
    Full,
    /// The same with bytes that go from socket to socket.
    Accelerated,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Redirect => "redirect",
            Self::Capture => "capture",
            Self::Full => "full",
            Self::Accelerated => "accelerated",
        }
    }
}

/// A subject, ready.
pub(crate) struct Ground {
    pub(crate) subject: Subject,
    client: Worker,
    /// Kept for its end alone; it answers nothing more.
    _server: Worker,
    network: Option<Network>,
    platform: Option<Platform>,
    /// Where connections are dropped, echoed and read.
    listeners: [SocketAddr; 3],
}

impl Ground {
    pub(crate) fn plain() -> Self {
        Self::outside(Subject::Plain)
    }

    pub(crate) fn redirected() -> Self {
        Self::outside(Subject::Redirect)
    }

    fn outside(subject: Subject) -> Self {
        let network = Network::new(subject);
        let mut server = Worker::start(&network, SERVER_CORE, "-");
        Self {
            subject,
            client: Worker::start(&network, CLIENT_CORE, "-"),
            listeners: server.listeners(),
            _server: server,
            network: Some(network),
            platform: None,
        }
    }

    /// By the programs of the object.
    pub(crate) fn intercepted(object: &[u8], subject: Subject) -> Self {
        let network = Network::new(subject);
        let platform = Platform::new(object, subject);
        let [app, proxy] = platform.groups();
        let mut server = Worker::start(&network, SERVER_CORE, &proxy.display().to_string());
        Self {
            subject,
            client: Worker::start(&network, CLIENT_CORE, &app.display().to_string()),
            listeners: server.listeners(),
            _server: server,
            network: Some(network),
            platform: Some(platform),
        }
    }

    /// Nanoseconds of a connect.
    pub(crate) fn connects(&mut self, count: u32) -> f64 {
        let to = self.lead_to(0);
        self.client.figure(&format!("connects {to} {count}"))
    }

    /// Nanoseconds of a message there and back.
    pub(crate) fn exchanges(&mut self, count: u32) -> f64 {
        let to = self.lead_to(1);
        self.client.figure(&format!("exchanges {to} {count}"))
    }

    /// Bytes a second.
    pub(crate) fn bulk(&mut self, milliseconds: u32) -> f64 {
        let to = self.lead_to(2);
        self.client.figure(&format!("bulk {to} {milliseconds}"))
    }

    /// What the client must dial to come to that listener.
    fn lead_to(&mut self, listener: usize) -> SocketAddr {
        let listener = self.listeners[listener];
        match (self.subject, &mut self.platform) {
            (Subject::Plain, _) => return listener,
            (Subject::Redirect, _) => self.network.as_ref().unwrap().redirect(listener.port()),
            (_, platform) => platform.as_mut().unwrap().capture(listener),
        }
        SERVICE.parse().unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Their groups and namespace go when they have.
        self.client.end();
        self._server.end();
        self.platform = None;
        self.network = None;
    }
}

/// A network namespace with a loopback interface.
struct Network(String);

impl Network {
    fn new(subject: Subject) -> Self {
        let name = format!("rw-cost-{}-{}", std::process::id(), subject.name());
        command("ip", &["netns", "add", &name]);
        let network = Self(name);
        network.within("ip", &["link", "set", "lo", "up"]);
        network
    }

    fn within(&self, program: &str, words: &[&str]) {
        // Not `ip netns exec`: that mounts /sys anew, without the control groups.
        let path = format!("--net=/run/netns/{}", self.0);
        command("nsenter", &[&[path.as_str(), program], words].concat());
    }

    fn redirect(&self, port: u16) {
        let service: SocketAddr = SERVICE.parse().unwrap();
        let rules = format!(
            "add table ip cost; flush table ip cost; \
             add chain ip cost output {{ type nat hook output priority -100; }}; \
             add rule ip cost output ip daddr {} tcp dport {} redirect to :{port}",
            service.ip(),
            service.port()
        );
        self.within("nft", &[&rules]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        command("ip", &["netns", "delete", &self.0]);
    }
}

/// A slice with the groups of one application and its proxy.
struct Platform {
    kernel: Option<Kernel>,
    slice: PathBuf,
    pins: PathBuf,
}

impl Platform {
    fn new(object: &[u8], subject: Subject) -> Self {
        let mut mounts = MOUNTS.iter().map(Path::new);
        let mount = mounts
            .find(|mount| mount.join("cgroup.controllers").exists())
            .expect("no cgroup2 at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount it");
        let id = format!("cost-{}-{}", std::process::id(), subject.name());
        let mut platform = Self {
            kernel: None,
            slice: mount.join(format!("ringwall-{id}.slice")),
            pins: PathBuf::from(format!("/sys/fs/bpf/ringwall-{id}")),
        };
        fs::create_dir(&platform.slice)
            .unwrap_or_else(|error| panic!("{:?}: {error}; run as root", platform.slice));
        for group in platform.groups() {
            fs::create_dir(group).unwrap();
        }
        let place = Slice {
            path: platform.slice.clone(),
            pins: platform.pins.clone(),
            attach: Attach::Slice,
        };
        let mut options = Options::default();
        if subject == Subject::Capture {
            options.without = ENFORCEMENT.map(str::to_owned).to_vec();
        }
        let mut kernel = Kernel::open_with(object, place, &options).unwrap();
        let [_, proxy] = platform.groups();
        kernel.enrol(&Enrolment::proxy("caller", &proxy)).unwrap();
        let service = [SERVICE.parse().unwrap()];
        let services = [("callee", service.as_slice())];
        kernel.set_services(services).unwrap();
        kernel.set_edges([("caller", "callee")]).unwrap();
        if subject == Subject::Accelerated {
            kernel.accelerate(LEASE).unwrap();
        }
        platform.kernel = Some(kernel);
        // Where to is said before each figure; nobody is in the group before it is enrolled.
        platform.capture(SERVICE.parse().unwrap());
        platform
    }

    fn groups(&self) -> [PathBuf; 2] {
        ["app", "proxy"].map(|side| self.slice.join(format!("ringwall-{side}-caller.slice")))
    }

    fn capture(&mut self, listener: SocketAddr) {
        let [app, _] = self.groups();
        let enrolment = Enrolment {
            capture: Listener {
                v4: Some(listener),
                v6: None,
            },
            bind: Bind::Refuse,
            ..Enrolment::app("caller", &app)
        };
        self.kernel.as_mut().unwrap().enrol(&enrolment).unwrap();
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.kernel = None;
        let _ = Kernel::remove(&self.pins);
        let end = Instant::now() + Duration::from_secs(5);
        let gone = || {
            let groups = self.groups();
            groups
                .iter()
                .chain([&self.slice])
                .all(|path| !path.exists() || fs::remove_dir(path).is_ok())
        };
        while !gone() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process that does as it is told (`worker.rs`).
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(network: &Network, core: &str, group: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", network.0))
            .arg(own)
            .args(["worker", core, group])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let answer = answer.trim_end().strip_prefix("ok ");
        answer
            .unwrap_or_else(|| panic!("{line}: the worker has ended"))
            .to_owned()
    }

    fn figure(&mut self, line: &str) -> f64 {
        self.ask(line).parse().unwrap()
    }

    fn listeners(&mut self) -> [SocketAddr; 3] {
        ["drop", "echo", "sink"].map(|kind| self.ask(kind).parse().unwrap())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(program: &str, words: &[&str]) {
    let status = Command::new(program).args(words).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}; install it"));
    assert!(status.success(), "{program} {words:?}: {status}");
}
