//! Who is whom: processes in and out of cgroups, and every way to pretend.

use std::fs;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Test;
use crate::cgroup::Cgroup;
use crate::client::{Caller, NOBODY, is, permission};
use crate::stack::{Settings, Stack, unique};

pub(crate) const TESTS: &[Test] = &[
    (
        "r60_a_process_in_a_workload_s_cgroup_is_that_workload",
        in_a_cgroup,
    ),
    (
        "attack_a_process_outside_or_that_moves_elsewhere_is_nobody",
        outside_or_moved,
    ),
    ("attack_a_workload_of_another_node_is_nobody", unregistered),
    (
        "attack_a_cgroup_that_somebody_else_made_names_nobody",
        foreign_cgroup,
    ),
    (
        "attack_a_cgroup_inside_another_workload_s_names_nobody",
        nested_cgroup,
    ),
    (
        "attack_pid_reuse_a_connection_outlives_its_process",
        reused_after_accept,
    ),
    (
        "attack_pid_reuse_a_process_ends_before_it_is_accepted",
        reused_before_accept,
    ),
    ("r60_the_supervisor_s_word_is_for_one_process", spawned),
    (
        "attack_nobody_but_the_supervisor_is_heard",
        not_the_supervisor,
    ),
];

fn slice(workload: &str) -> String {
    format!("ringwall-app-{workload}.slice")
}

fn with(workloads: &[&str]) -> Stack {
    Stack::start(&Settings {
        workloads,
        ..Settings::default()
    })
}

fn in_a_cgroup() {
    let (orders, payments) = (unique("orders"), unique("payments"));
    let selector = unique("engine");
    let stack = Stack::start(&Settings {
        workloads: &[&orders, &payments],
        extra: format!("  selectors: {{ {selector}.service: {payments} }}\n"),
        ..Settings::default()
    });
    let v2 = Cgroup::v2(&slice(&orders));
    let mut caller = Caller::placed(&stack, &v2);
    assert_eq!(caller.ask("svid"), is(&orders));
    assert_eq!(caller.ask("child"), is(&orders), "children are in it too");
    let below = v2.inside("container-1.scope");
    let mut contained = Caller::placed(&stack, &below);
    assert_eq!(contained.ask("svid"), is(&orders));
    let proxy = Cgroup::v2(&format!("ringwall-proxy-{orders}.slice"));
    assert_eq!(Caller::placed(&stack, &proxy).ask("svid"), is(&orders));
    let v1 = Cgroup::v1(&slice(&payments));
    assert_eq!(Caller::placed(&stack, &v1).ask("svid"), is(&payments));
    let declared = Cgroup::v2(&format!("{selector}.service"));
    assert_eq!(Caller::placed(&stack, &declared).ask("svid"), is(&payments));
    // Two hierarchies that disagree.
    let mut both = Caller::placed(&stack, &v1);
    v2.add(both.pid());
    assert_eq!(both.ask("svid"), NOBODY);
}

fn outside_or_moved() {
    let orders = unique("orders");
    let stack = Stack::start(&Settings {
        workloads: &[&orders],
        svid_ttl_s: 10,
        ..Settings::default()
    });
    let (own, other) = (
        Cgroup::v2(&slice(&orders)),
        Cgroup::v2(&unique("elsewhere")),
    );
    assert_eq!(Caller::spawn(&stack.socket()).ask("svid"), NOBODY);
    assert_eq!(Caller::placed(&stack, &other).ask("svid"), NOBODY);
    let mut caller = Caller::placed(&stack, &own);
    assert_eq!(caller.ask("hold"), is(&orders));
    assert_eq!(
        caller.ask("next"),
        is(&orders),
        "renewed at half of ten seconds"
    );
    other.add(caller.pid());
    assert_eq!(caller.ask("svid"), NOBODY);
    assert_eq!(
        caller.ask("next"),
        NOBODY,
        "the open stream is cut at its next push"
    );
}

fn unregistered() {
    let (orders, payments) = (unique("orders"), unique("payments"));
    let stack = with(&[&orders]);
    let cgroup = Cgroup::v2(&slice(&payments));
    assert_eq!(Caller::placed(&stack, &cgroup).ask("svid"), NOBODY);
}

fn foreign_cgroup() {
    let orders = unique("orders");
    let stack = with(&[&orders]);
    let delegated = Cgroup::v2(&unique("user"));
    let made = delegated.inside(&slice(&orders));
    let mut caller = Caller::placed(&stack, &made);
    assert_eq!(caller.ask("svid"), is(&orders));
    // As where a cgroup is delegated: its owner can make others below it, and move processes.
    chown(delegated.path(), Some(65_534), Some(65_534)).unwrap();
    assert_eq!(caller.ask("svid"), NOBODY);
    chown(delegated.path(), Some(0), Some(0)).unwrap();
    assert_eq!(caller.ask("svid"), is(&orders));
    chown(made.path().join("cgroup.procs"), Some(65_534), None).unwrap();
    assert_eq!(caller.ask("svid"), NOBODY);
}

fn nested_cgroup() {
    let (orders, payments) = (unique("orders"), unique("payments"));
    let stack = with(&[&orders, &payments]);
    let own = Cgroup::v2(&slice(&orders));
    let pretended = own.inside(&slice(&payments));
    assert_eq!(Caller::placed(&stack, &pretended).ask("svid"), NOBODY);
}

/// A process with exactly this id, which waits in `cgroup`.
fn process_with_id(pid: u32, cgroup: &Cgroup) -> std::process::Child {
    for _ in 0..2000 {
        // Other tests start processes too: try until ours gets the number.
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        if child.id() == pid {
            cgroup.add(pid);
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("no process got the id {pid}");
}

/// An attacker connects, leaves the connection to a child and ends; a workload's process gets its id.
fn reused(stack: &Stack, orders: &str, between: impl Fn(&Stack), after: impl Fn(&Stack)) -> String {
    let cgroup = Cgroup::v2(&slice(orders));
    let socket = stack.socket();
    let mut attacker = Caller::with(&["connect", socket.to_str().unwrap()]);
    let permission = permission(stack);
    between(stack);
    attacker.tell(permission.to_str().unwrap());
    attacker.ends();
    // What is accepted is accepted.
    std::thread::sleep(Duration::from_millis(300));
    let mut workload = process_with_id(attacker.pid(), &cgroup);
    after(stack);
    fs::write(&permission, b"").unwrap();
    let heard = attacker.hear();
    workload.kill().unwrap();
    workload.wait().unwrap();
    heard
}

fn reused_after_accept() {
    let orders = unique("orders");
    let stack = with(&[&orders]);
    assert_eq!(reused(&stack, &orders, |_| {}, |_| {}), NOBODY);
}

fn reused_before_accept() {
    let orders = unique("orders");
    let stack = with(&[&orders]);
    let heard = reused(
        &stack,
        &orders,
        |stack| stack.signal_agent("STOP"),
        |stack| stack.signal_agent("CONT"),
    );
    assert_eq!(heard, NOBODY);
}

fn spawned() {
    let (orders, payments) = (unique("orders"), unique("payments"));
    let stack = with(&[&orders, &payments]);
    let mut caller = Caller::spawn(&stack.socket());
    assert_eq!(caller.ask("svid"), NOBODY);
    assert_eq!(stack.vouch(caller.pid(), &orders).trim(), r#"{"ok":true}"#);
    assert_eq!(caller.ask("svid"), is(&orders));
    assert_eq!(caller.ask("child"), NOBODY, "children inherit nothing");
    let again = stack.vouch(caller.pid(), &payments);
    assert!(again.contains("another workload already"), "{again}");
    // Another life of the same id.
    let late = format!(
        r#"{{"pid":{},"started":1,"workload":"{orders}"}}"#,
        caller.pid()
    );
    assert!(stack.say(&late).contains("no process has this id"));
    for wrong in [
        "{}",
        "not JSON",
        r#"{"pid":1,"started":1,"workload":"a b"}"#,
    ] {
        assert!(stack.say(wrong).contains(r#""ok":false"#), "{wrong}");
    }
    // The cgroup says something else.
    let cgroup = Cgroup::v2(&slice(&payments));
    cgroup.add(caller.pid());
    assert_eq!(caller.ask("svid"), NOBODY);
}

fn not_the_supervisor() {
    let orders = unique("orders");
    let stack = with(&[&orders]);
    let meta = fs::metadata(stack.path("run/control.sock")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
    assert_eq!(mode & 0o777, 0o600);
    // The same user, but not the agent's parent: what a workload on a machine of one user is.
    let mut caller = Caller::spawn(&stack.socket());
    let line = format!(
        r#"{{"pid":{},"started":{},"workload":"{orders}"}}"#,
        caller.pid(),
        crate::stack::started(caller.pid()),
    );
    let control = stack.path("run/control.sock");
    let mut stranger = Caller::with(&["say", control.to_str().unwrap(), &line]);
    let heard = stranger.hear();
    assert!(!heard.contains("true"), "{heard}");
    assert_eq!(caller.ask("svid"), NOBODY);
    assert!(stack.log("agent").contains("is not the supervisor"));
}
