//! Two networks, each with one end of a veth; the receiving end is polled by a thread of the kernel.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::unistd::Pid;

/// The receiving end and the sending one.
pub(crate) const RECEIVER: &str = "rwbench0";
pub(crate) const SENDER: &str = "rwbench1";
/// Both sides take turns on one core, so that no time goes into waking another one.
pub(crate) const CORE: usize = 1;

const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGRO: u32 = 0x2c;

pub(crate) struct Network {
    receiving: File,
    sending: File,
    pub(crate) pins: PathBuf,
}

/// The threads that poll the receiving end.
pub(crate) struct Receiver(Vec<i32>);

impl Network {
    pub(crate) fn new() -> Self {
        let sending = apart(|| ());
        let other = format!("/proc/{}/fd/{}", std::process::id(), sending.as_raw_fd());
        let receiving = apart(move || {
            run(&[
                "ip", "link", "add", RECEIVER, "type", "veth", "peer", "name", SENDER,
            ]);
            run(&["ip", "link", "set", SENDER, "netns", &other]);
            run(&["ip", "addr", "add", "10.200.0.1/24", "dev", RECEIVER]);
            run(&[
                "ip",
                "link",
                "set",
                RECEIVER,
                "address",
                "02:00:00:00:00:01",
            ]);
            // Without a program of its own, a veth polls where it merges segments.
            set_feature(RECEIVER, ETHTOOL_SGRO, true);
            // Any source is plausible: the list decides, not the route back.
            for name in ["all", RECEIVER] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
            }
            run(&["ip", "link", "set", RECEIVER, "up"]);
        });
        let network = Self {
            receiving,
            sending,
            pins: Path::new("/sys/fs/bpf").join(format!("ringwall-bench-{}", std::process::id())),
        };
        network.sending(|| {
            // What a socket sends is polled too, where the sending end leaves segments to nobody.
            set_feature(SENDER, ETHTOOL_STSO, false);
            run(&["ip", "link", "set", SENDER, "up"]);
        });
        network
    }

    /// Does something on the receiving side.
    pub(crate) fn receiving<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        within(&self.receiving, act)
    }

    /// Does something on the sending side.
    pub(crate) fn sending<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        within(&self.sending, act)
    }

    pub(crate) fn sender(&self) -> File {
        self.sending.try_clone().unwrap()
    }

    /// Frames that its XDP has seen.
    pub(crate) fn received(&self) -> u64 {
        let devices = self.receiving(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let mut lines = devices.lines().filter_map(|line| line.split_once(':'));
        let (_, numbers) = lines.find(|(name, _)| name.trim() == RECEIVER).unwrap();
        numbers.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Makes the receiving end's polling a thread, and finds that. Attaching a program makes new ones.
    pub(crate) fn receiver(&self, at_once: bool) -> Receiver {
        let own = self.receiving.try_clone().unwrap();
        std::thread::spawn(move || {
            setns(own, CloneFlags::CLONE_NEWNET).unwrap();
            // A view of the devices of this network, for this thread alone.
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
            let threaded = format!("/sys/class/net/{RECEIVER}/threaded");
            fs::write(&threaded, "0").unwrap();
            fs::write(&threaded, "1").unwrap();
        })
        .join()
        .unwrap();
        // The name of a thread holds 15 bytes.
        let start = format!("napi/{RECEIVER}");
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if let Ok(id) = entry.file_name().to_string_lossy().parse()
                && name.starts_with(&start)
            {
                place(id, at_once);
                found.push(id);
            }
        }
        assert!(!found.is_empty(), "no thread is called {start}");
        Receiver(found)
    }
}

impl Receiver {
    /// How long they have run.
    pub(crate) fn time(&self) -> Duration {
        let of = |id: &i32| {
            let text = fs::read_to_string(format!("/proc/{id}/schedstat")).unwrap();
            let nanoseconds = text.split(' ').next().unwrap();
            Duration::from_nanos(nanoseconds.parse().unwrap())
        };
        self.0.iter().map(of).sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ringwall_ebpf_loader::Kernel::remove(&self.pins);
    }
}

/// Runs a thread of the kernel on the core; at once, or when it is its turn.
fn place(id: i32, at_once: bool) {
    pin(id, CORE);
    let (policy, sched_priority) = if at_once {
        (libc::SCHED_FIFO, 1)
    } else {
        // Which waits for its turn, also when it wakes up.
        (libc::SCHED_BATCH, 0)
    };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the parameters outlive the call.
    let set = unsafe { libc::sched_setscheduler(id, policy, &raw const parameters) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Binds a thread to one core; 0 is the calling one.
pub(crate) fn pin(id: i32, core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).unwrap();
    sched_setaffinity(Pid::from_raw(id), &cores).unwrap();
}

pub(crate) fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status();
    let status = status.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert!(status.success(), "{words:?}: {status}");
}

/// A network of its own, in which something was done.
fn apart(act: impl FnOnce() + Send + 'static) -> File {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        act();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    made.join().unwrap()
}

fn within<T: Send>(network: &File, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            act()
        });
        inside.join().unwrap()
    })
}

/// Turns a feature of an interface on or off.
fn set_feature(interface: &str, feature: u32, on: bool) {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut value = [feature, u32::from(on)];
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: integers, pointers and arrays of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request reads the name and two integers behind the pointer.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
