//! Steering: in a network namespace of the workload's own, what comes to its port from outside arrives at its proxy.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::libc;
use ringwall_ebpf_loader::{Kernel, Steering};

use crate::hosts::joined;
use crate::world::tests;
use crate::world::{Helper, World, listener, object};

tests!(
    steering_leads_what_comes_from_outside_to_the_proxy,
    steering_without_a_listener_leaves_nobody_to_answer,
    steering_goes_on_without_the_agent_and_is_taken_over,
);

/// A socket of another process, as a supervisor would hand it over.
fn borrowed(helper: &mut Helper, socket: &str) -> OwnedFd {
    let number: i64 = helper.ok(&format!("descriptor {socket}"))[0]
        .parse()
        .unwrap();
    // SAFETY: these calls take integers alone, and what they give is ours.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, i64::from(helper.id()), 0_i64);
        assert!(process >= 0, "{}", std::io::Error::last_os_error());
        let process = OwnedFd::from_raw_fd(process as i32);
        let socket = libc::syscall(libc::SYS_pidfd_getfd, process.as_fd(), number, 0_i64);
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(socket as i32)
    }
}

/// A namespace with a process that answers where nobody steers, and one beside it.
struct Pod {
    world: World,
    inside: Helper,
    outside: Helper,
    network: PathBuf,
    /// The application's and the proxy's listener.
    app: String,
    proxy: Helper,
    four: String,
    six: String,
}

const PORT: u16 = 17501;

/// As in a container of an engine whose groups are not ours: both are in no slice, and the application listens everywhere.
fn pod() -> Pod {
    let (mut inside, outside) = joined();
    let id = inside.id().to_string();
    let mut proxy = Helper::start_as("-", &id);
    let (app, _) = listener(&mut inside, &format!("[::]:{PORT}"));
    let (four, _) = listener(&mut proxy, "127.0.0.1:15006");
    let (six, _) = listener(&mut proxy, "[::1]:15006");
    Pod {
        world: World::new(),
        network: PathBuf::from(format!("/proc/{id}/ns/net")),
        inside,
        outside,
        app,
        proxy,
        four,
        six,
    }
}

impl Pod {
    fn steer(&mut self) {
        let four = borrowed(&mut self.proxy, &self.four);
        let six = borrowed(&mut self.proxy, &self.six);
        let steering = Steering {
            network: &self.network,
            port: PORT,
            listener_4: Some(four.as_fd()),
            listener_6: Some(six.as_fd()),
        };
        let network = self.network.clone();
        let steering = Steering {
            network: &network,
            ..steering
        };
        self.world.kernel().steer(&object(), &steering).unwrap();
    }

    /// From outside; who has accepted must be told where it was going.
    #[track_caller]
    fn reaches(&mut self, six: bool, whom: Whom) {
        let to = if six { "[fd00:98::1]" } else { "10.98.0.1" };
        let dialled = self.outside.ok(&format!("connect {to}:{PORT}")).remove(0);
        let (helper, socket) = match whom {
            Whom::App => (&mut self.inside, &self.app),
            Whom::Proxy if six => (&mut self.proxy, &self.six),
            Whom::Proxy => (&mut self.proxy, &self.four),
        };
        let accepted = helper.ok(&format!("accept {socket}")).remove(0);
        let local = helper.ok(&format!("local {accepted}")).remove(0);
        assert!(local.ends_with(&format!(":{PORT}")), "{local}");
        self.outside.ok(&format!("send {dialled} question"));
        assert_eq!(helper.ok(&format!("receive {accepted}")), ["question"]);
    }
}

#[derive(Clone, Copy)]
enum Whom {
    App,
    Proxy,
}

fn steering_leads_what_comes_from_outside_to_the_proxy() {
    let mut pod = pod();
    for six in [false, true] {
        pod.reaches(six, Whom::App);
    }
    pod.steer();
    for six in [false, true] {
        pod.reaches(six, Whom::Proxy);
    }
    // Loopback is the proxy's own way to its application.
    for to in ["127.0.0.1", "[::1]"] {
        let dialled = pod.proxy.ok(&format!("connect {to}:{PORT}")).remove(0);
        let accepted = pod.inside.ok(&format!("accept {}", pod.app)).remove(0);
        pod.proxy.ok(&format!("send {dialled} question"));
        assert_eq!(pod.inside.ok(&format!("receive {accepted}")), ["question"]);
    }
    // Other ports are none of ours.
    let (other, _) = listener(&mut pod.inside, "[::]:17502");
    pod.outside.ok("connect 10.98.0.1:17502");
    pod.inside.ok(&format!("accept {other}"));
    let network = pod.network.clone();
    pod.world.kernel().leave_network(&network).unwrap();
    for six in [false, true] {
        pod.reaches(six, Whom::App);
    }
}

fn steering_without_a_listener_leaves_nobody_to_answer() {
    let mut pod = pod();
    pod.steer();
    pod.reaches(false, Whom::Proxy);
    let (four, six) = (pod.four.clone(), pod.six.clone());
    for socket in [four, six] {
        pod.proxy.ok(&format!("close {socket}"));
    }
    // The application listens all the while, and does not answer in its proxy's place.
    for to in ["10.98.0.1", "[fd00:98::1]"] {
        pod.outside
            .refused(&format!("connect {to}:{PORT}"), "ECONNREFUSED");
    }
}

fn steering_goes_on_without_the_agent_and_is_taken_over() {
    let mut pod = pod();
    pod.steer();
    pod.world.kernel = None;
    pod.reaches(false, Whom::Proxy);
    let place = pod.world.place();
    pod.world.kernel = Some(Kernel::open(&object(), place).unwrap());
    pod.reaches(true, Whom::Proxy);
    // Another proxy takes over.
    pod.proxy = Helper::start_as("-", &pod.inside.id().to_string());
    pod.four = listener(&mut pod.proxy, "127.0.0.1:15007").0;
    pod.six = listener(&mut pod.proxy, "[::1]:15007").0;
    pod.steer();
    for six in [false, true] {
        pod.reaches(six, Whom::Proxy);
    }
    let links = fs::read_dir(pod.world.pins.join("links")).unwrap();
    let steering = links
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("rw_lookup"));
    assert_eq!(steering.count(), 1, "one program for the namespace");
}
