//! What the agent may still do to its machine, by the kernel's word about each of its threads.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Test;
use crate::cgroup::Cgroup;
use crate::stack::{Settings, Stack, unique, until};

pub(crate) const TESTS: &[Test] = &[
    ("agent_without_the_kernel_keeps_no_capability", nothing),
    ("agent_keeps_what_files_of_others_take", files_of_others),
    ("agent_with_the_kernel_keeps_three_capabilities", kernel),
    ("agent_that_tries_acceleration_keeps_one_more", acceleration),
    (
        "agent_that_lacks_a_capability_says_so_and_ends_with_77",
        lacking,
    ),
];

/// linux/capability.h
const CHOWN: u64 = 1 << 0;
const DAC_OVERRIDE: u64 = 1 << 1;
const KILL: u64 = 1 << 5;
const NET_ADMIN: u64 = 1 << 12;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// Of every thread: what it can have (bounding), has (permitted, effective), and hands on (inheritable, ambient).
fn assert_keeps(stack: &Stack, kept: u64) {
    let tasks = fs::read_dir(format!("/proc/{}/task", stack.agent_pid())).unwrap();
    let mut threads = 0;
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        for (set, expected) in [
            ("CapBnd", kept),
            ("CapPrm", kept),
            ("CapEff", kept),
            ("CapInh", 0),
            ("CapAmb", 0),
        ] {
            let line = status.lines().find_map(|line| line.strip_prefix(set));
            let bits = line.unwrap().trim_start_matches(':').trim();
            let bits = u64::from_str_radix(bits, 16).unwrap();
            assert_eq!(bits, expected, "{set} is {bits:x}, expected {expected:x}");
        }
        threads += 1;
    }
    assert!(threads > 1, "the runtime has threads");
}

fn nothing() {
    let stack = Stack::start(&Settings::default());
    assert_keeps(&stack, 0);
}

fn files_of_others() {
    let postgres = unique("postgres");
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("postmaster.pid");
    let stack = Stack::start(&Settings {
        workloads: &[&postgres],
        extra: format!(
            "deliver:\n  - {{ kind: server, workload: {postgres}, dns: [{postgres}.test], directory: {}, owner: {{ uid: 1, gid: 1 }}, reload: \
             {{ sighup: {} }} }}\n",
            folder.path().join("tls").display(),
            pid_file.display()
        ),
        ..Settings::default()
    });
    assert!(folder.path().join("tls/server.key").is_file());
    assert_keeps(&stack, CHOWN | DAC_OVERRIDE | KILL);
}

/// The object that `cargo xtask ebpf` has built.
fn object() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../ebpf/ringwall.bpf.o");
    let there = fs::canonicalize(&path);
    there.unwrap_or_else(|error| {
        panic!(
            "{}: {error}; build it with `cargo xtask ebpf`",
            path.display()
        )
    })
}

/// Pins that go with the test.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with_kernel(slice: &Cgroup, pins: &Pins, acceleration: &str) -> Settings<'static> {
    Settings {
        extra: format!(
            "kernel: {{ object: {}, slice: {}, pins: {}, acceleration: {acceleration} }}\n",
            object().display(),
            slice.path().display(),
            pins.0.display()
        ),
        ..Settings::default()
    }
}

fn kernel() {
    let name = unique("ringwall-privileges");
    let slice = Cgroup::v2(&name);
    let pins = Pins(Path::new("/sys/fs/bpf").join(&name));
    let stack = with_programs(&with_kernel(&slice, &pins, "off"));
    assert_keeps(&stack, BPF | NET_ADMIN | PERFMON);
}

/// An agent whose programs are at work.
fn with_programs(settings: &Settings<'_>) -> Stack {
    let mut stack = Stack::prepare(settings);
    stack.start_plane();
    stack.start_agent();
    until("the kernel takes part", || {
        stack
            .log("agent")
            .contains("the kernel captures and enforces")
            .then_some(())
    });
    stack
}

fn acceleration() {
    let name = unique("ringwall-privileges");
    let slice = Cgroup::v2(&name);
    let pins = Pins(Path::new("/sys/fs/bpf").join(&name));
    let mut stack = with_programs(&with_kernel(&slice, &pins, "auto"));
    assert_keeps(&stack, BPF | NET_ADMIN | PERFMON | DAC_OVERRIDE);
    // They are enough for the trial of acceleration, which is another process; what comes of it is the kernel's.
    let told = until("the trial has ended", || {
        let log = stack.log("agent");
        let mut lines = log.lines().filter(|line| line.contains("acceleration"));
        lines
            .find(|line| line.contains("ping-pong") || line.contains("applications would notice"))
            .map(str::to_owned)
    });
    assert!(
        !told.contains("EPERM") && !told.contains("not permitted"),
        "{told}"
    );
    stack.kill_agent();
    let groups: BTreeSet<_> = fs::read_dir(slice.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    for group in groups.iter().filter(|path| path.is_dir()) {
        until("the canary has gone", || fs::remove_dir(group).ok());
    }
}

fn lacking() {
    let name = unique("ringwall-privileges");
    let slice = Cgroup::v2(&name);
    let pins = Pins(Path::new("/sys/fs/bpf").join(&name));
    let mut stack = Stack::prepare(&with_kernel(&slice, &pins, "off"));
    stack.start_plane();
    stack.start_agent_under(&["setpriv", "--bounding-set=-all,+bpf,+perfmon,+setpcap"]);
    assert_eq!(stack.agent_ends(), Some(77));
    let log = stack.log("agent");
    assert!(
        log.contains("lacks CAP_NET_ADMIN (attaching them to control groups)"),
        "{log}"
    );
}
