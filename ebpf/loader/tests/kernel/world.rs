//! A slice of its own for each test, with groups, helpers and the programs; all gone afterwards, also after a panic.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use ringwall_ebpf_loader::{Attach, Bind, CAPTURE, Enrolment, Kernel, Listener, Options, Slice};

/// Where version 2 may be mounted.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The object that `cargo xtask ebpf` has built.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no configuration to read it from"
)]
pub(crate) fn object() -> Vec<u8> {
    let named = std::env::var_os("RINGWALL_EBPF_OBJECT").map(PathBuf::from);
    let path = named
        .unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("../ebpf/ringwall.bpf.o"));
    fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; build it with `cargo xtask ebpf`",
            path.display()
        )
    })
}

/// Programs that are to be left out, to see tests fail.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no configuration to read it from"
)]
pub(crate) fn without() -> Vec<String> {
    let words = std::env::var("RINGWALL_TEST_WITHOUT").unwrap_or_default();
    words.split(',').map(str::to_owned).collect()
}

/// Names of functions beside the functions.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        /// The tests of this file.
        pub(crate) const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name)),+];
    };
}

pub(crate) use tests;

/// A platform.
pub(crate) struct World {
    /// None after `lose_agent`.
    pub(crate) kernel: Option<Kernel>,
    pub(crate) slice: PathBuf,
    pub(crate) pins: PathBuf,
}

/// An application beside its proxy, both with a helper.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) app: Helper,
    pub(crate) proxy: Helper,
    pub(crate) app_group: PathBuf,
    pub(crate) proxy_group: PathBuf,
    /// The proxy's listeners: number of the socket, address.
    pub(crate) capture: (String, SocketAddr),
    pub(crate) capture_6: (String, SocketAddr),
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&Options {
            without: without(),
            ..Options::default()
        })
    }

    pub(crate) fn with(options: &Options) -> Self {
        let id = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let mount = MOUNTS
            .iter()
            .find(|mount| Path::new(mount).join("cgroup.controllers").exists())
            .expect("no cgroup2 at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount it");
        let mut world = Self {
            kernel: None,
            slice: Path::new(mount).join(format!("ringwall-test-{id}.slice")),
            pins: PathBuf::from(format!("/sys/fs/bpf/ringwall-test-{id}")),
        };
        fs::create_dir(&world.slice)
            .unwrap_or_else(|error| panic!("{}: {error}; run as root", world.slice.display()));
        let kernel = Kernel::open_with(&object(), world.place(), options);
        world.kernel = Some(kernel.unwrap_or_else(|error| panic!("{error}")));
        world
    }

    pub(crate) fn place(&self) -> Slice {
        Slice {
            path: self.slice.clone(),
            pins: self.pins.clone(),
            attach: Attach::Slice,
        }
    }

    pub(crate) fn kernel(&mut self) -> &mut Kernel {
        self.kernel.as_mut().expect("the agent was lost")
    }

    /// A group below the slice, not enrolled.
    pub(crate) fn group(&self, name: &str) -> PathBuf {
        let path = self.slice.join(format!("ringwall-{name}.slice"));
        fs::create_dir(&path).unwrap();
        path
    }

    /// A workload whose proxy listens and whose application may do nothing but what `change` says.
    pub(crate) fn pair(
        &mut self,
        name: &str,
        change: impl for<'a> FnOnce(&mut Enrolment<'a>),
    ) -> Pair {
        self.pair_in(name, "-", change)
    }

    /// The same in the network namespace of a process.
    pub(crate) fn pair_in(
        &mut self,
        name: &str,
        network: &str,
        change: impl for<'a> FnOnce(&mut Enrolment<'a>),
    ) -> Pair {
        let proxy_group = self.group(&format!("proxy-{name}"));
        let app_group = self.group(&format!("app-{name}"));
        let proxy = Enrolment::proxy(name, &proxy_group);
        self.kernel().enrol(&proxy).unwrap();
        let mut proxy = Helper::start(&proxy_group, network);
        let capture = listener(&mut proxy, "127.0.0.1:0");
        let capture_6 = listener(&mut proxy, "[::1]:0");
        let mut app = Enrolment {
            capture: Listener {
                v4: Some(capture.1),
                v6: Some(capture_6.1),
            },
            bind: Bind::Refuse,
            ..Enrolment::app(name, &app_group)
        };
        change(&mut app);
        self.kernel().enrol(&app).unwrap();
        Pair {
            name: name.to_owned(),
            app: Helper::start(&app_group, network),
            proxy,
            app_group,
            proxy_group,
            capture,
            capture_6,
        }
    }

    /// A workload's name, for edges of others than `orders`.
    pub(crate) fn edges(&mut self, from: &str, services: &[(&str, &[SocketAddr])]) {
        self.kernel()
            .set_services(services.iter().copied())
            .unwrap();
        let edges = services.iter().map(|(name, _)| (from, *name));
        self.kernel().set_edges(edges).unwrap();
    }

    /// Takes the programs of capture away, and waits until the kernel has let go of them.
    pub(crate) fn detach_capture(&self, pair: &mut Pair) {
        for entry in fs::read_dir(self.pins.join("links")).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if CAPTURE.iter().any(|program| name.starts_with(program)) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        pair.app.ok("patience 200");
        // With connect hooks it is refused or captured; without, its packets are dropped.
        for to in ["127.0.0.1:9", "[::1]:9"] {
            let gone = (0..500).any(|_| {
                thread::sleep(Duration::from_millis(2));
                pair.app.ask(&format!("connect {to}")) == "err TimedOut"
            });
            assert!(gone, "{to} is still captured");
        }
    }

    /// Takes everything away, and waits until the kernel has let go of it.
    pub(crate) fn remove_all(&mut self, pair: &mut Pair) {
        self.kernel = None;
        Kernel::remove(&self.pins).unwrap();
        pair.app.ok("patience 200");
        for question in ["connect 127.0.0.1:9", "socket 2 3 255", "udp 4"] {
            let free = (0..500).any(|_| {
                thread::sleep(Duration::from_millis(2));
                let answer = pair.app.ask(question);
                answer != "err EPERM" && answer != "err TimedOut"
            });
            assert!(free, "{question} is still refused");
        }
    }

    /// Services with edges from `orders` to all of them.
    pub(crate) fn services(&mut self, services: &[(&str, &str)]) {
        let addresses: Vec<(&str, [SocketAddr; 1])> = services
            .iter()
            .map(|(name, address)| (*name, [address.parse().unwrap()]))
            .collect();
        let listed = addresses
            .iter()
            .map(|(name, list)| (*name, list.as_slice()));
        self.kernel().set_services(listed).unwrap();
        let edges = services.iter().map(|(name, _)| ("orders", *name));
        self.kernel().set_edges(edges).unwrap();
    }
}

/// A listener of a helper: number of the socket, address.
pub(crate) fn listener(helper: &mut Helper, at: &str) -> (String, SocketAddr) {
    let words = helper.ok(&format!("listen {at}"));
    (words[0].clone(), words[1].parse().unwrap())
}

impl Drop for World {
    fn drop(&mut self) {
        self.kernel = None;
        let _ = Kernel::remove(&self.pins);
        let end = Instant::now() + Duration::from_secs(5);
        while remove_groups(&self.slice).is_err() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A group goes when its last process has: helpers are waited for by their own drop.
fn remove_groups(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// A process that does as it is told (`helper.rs`).
pub(crate) struct Helper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Helper {
    pub(crate) fn start(group: &Path, network: &str) -> Self {
        Self::start_as(&group.display().to_string(), network)
    }

    /// `-` stays in the test's own group.
    pub(crate) fn start_as(group: &str, network: &str) -> Self {
        Self::start_under(&[], group, network)
    }

    /// By a command that changes something and starts the rest of its words.
    pub(crate) fn start_under(prefix: &[&str], group: &str, network: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let mut words = prefix.to_vec();
        words.extend([own, "helper", group, network]);
        let mut child = Command::new(words[0])
            .args(&words[1..])
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

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the helper has ended");
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    /// The words of a good answer.
    #[track_caller]
    pub(crate) fn ok(&mut self, line: &str) -> Vec<String> {
        let answer = self.ask(line);
        let words = answer.strip_prefix("ok");
        let words = words.unwrap_or_else(|| panic!("{line}: {answer}"));
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// The errno of a refusal must be this one.
    #[track_caller]
    pub(crate) fn refused(&mut self, line: &str, errno: &str) {
        assert_eq!(self.ask(line), format!("err {errno}"), "{line}");
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
