//! The node's own identity, and what is left while its parts are away.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::Test;
use crate::client::{Caller, is};
use crate::stack::{PATIENCE, Settings, Stack, runtime, unique, until};

pub(crate) const TESTS: &[Test] = &[
    (
        "r33_a_node_joins_once_keeps_its_identity_and_renews_it",
        joins_and_renews,
    ),
    ("attack_a_join_token_is_good_for_one_node_once", used_token),
    ("r33_a_machine_that_slept_joins_again", slept),
    ("r33_agent_and_control_plane_end_and_come_back", restarts),
    (
        "r33_a_node_whose_identity_has_ended_meanwhile_joins_again",
        away_too_long,
    ),
    ("r33_files_are_delivered_and_follow", delivered),
];

fn joins_and_renews() {
    let mut stack = Stack::start(&Settings {
        svid_ttl_s: 10,
        ..Settings::default()
    });
    for file in ["svid.pem", "svid.key", "bundle.pem"] {
        let mode = stack
            .path("agent/identity")
            .join(file)
            .metadata()
            .unwrap()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let first = stack.own().unwrap();
    assert_eq!(first.spiffe_id().path(), "agent/local");
    until("it is renewed", || {
        stack
            .own()
            .filter(|own| own.not_after() > first.not_after())
    });
    // The token is spent; what was kept is enough.
    stack.kill_agent();
    stack.start_agent();
    stack.wait_ready();
    let log = stack.log("agent");
    assert_eq!(
        log.matches("this node has joined").count(),
        0,
        "before the log begins"
    );
    assert!(
        !log.contains("join-token-of-a-test"),
        "a token is in the log"
    );
    assert!(log.contains("the node's identity is renewed"), "{log}");
}

fn used_token() {
    let mut stack = Stack::start(&Settings::default());
    stack.kill_agent();
    std::fs::remove_dir_all(stack.path("agent/identity")).unwrap();
    stack.start_agent();
    assert_eq!(stack.agent_ends(), Some(69));
    let log = stack.log("agent");
    assert!(log.contains("the control plane refuses"), "{log}");
    assert!(log.contains("give this node a new join token"), "{log}");
    stack.new_token();
    stack.start_agent();
    stack.wait_ready();
}

fn slept() {
    let orders = unique("orders");
    let stack = Stack::start(&Settings {
        workloads: &[&orders],
        svid_ttl_s: 10,
        ..Settings::default()
    });
    let mut caller = Caller::spawn(&stack.socket());
    stack.vouch(caller.pid(), &orders);
    assert_eq!(caller.ask("hold"), is(&orders));
    let before = stack.own().unwrap().not_after();
    stack.signal_agent("STOP");
    std::thread::sleep(Duration::from_secs(13));
    assert!(stack.own().is_none(), "it has expired");
    stack.new_token();
    stack.signal_agent("CONT");
    let again = until("it has joined again", || stack.own());
    assert!(again.not_after() > before);
    assert!(stack.log("agent").contains("joining again"));
    assert_eq!(caller.ask("svid"), is(&orders));
    assert_eq!(caller.ask("next"), is(&orders), "the stream goes on");
}

fn restarts() {
    let orders = unique("orders");
    let mut stack = Stack::start(&Settings {
        workloads: &[&orders],
        svid_ttl_s: 20,
        ..Settings::default()
    });
    let runtime = runtime();
    stack.vouch(std::process::id(), &orders);
    let socket = stack.socket();
    let source = runtime
        .block_on(ringwall_workload_api::identity(&socket, PATIENCE))
        .unwrap();
    assert_eq!(source.spiffe_id().path(), orders);
    let renewed = |after: time::OffsetDateTime| {
        until("a new SVID", || {
            (source.not_after() > after).then(|| source.not_after())
        })
    };
    // The agent dies: what was delivered stays; it is back, and the stream too.
    let first = source.not_after();
    stack.kill_agent();
    assert_eq!(source.not_after(), first);
    stack.start_agent();
    stack.wait_ready();
    stack.vouch(std::process::id(), &orders);
    let second = renewed(first);
    // The control plane dies: the agent serves on, readiness included.
    stack.kill_plane();
    let mut caller = Caller::spawn(&socket);
    stack.vouch(caller.pid(), &orders);
    assert_eq!(caller.ask("svid"), is(&orders));
    assert!(stack.is_healthy());
    stack.start_plane();
    let begun = Instant::now();
    renewed(second);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "before the old one ends"
    );
}

/// The control plane is away until everything has expired: the node needs a new token, its workloads
/// need nothing.
fn away_too_long() {
    let orders = unique("orders");
    let mut stack = Stack::start(&Settings {
        workloads: &[&orders],
        svid_ttl_s: 10,
        ..Settings::default()
    });
    let mut caller = Caller::spawn(&stack.socket());
    stack.vouch(caller.pid(), &orders);
    assert_eq!(caller.ask("hold"), is(&orders));
    stack.kill_plane();
    until("the node's identity ends", || {
        stack.own().is_none().then_some(())
    });
    assert!(!stack.is_healthy(), "it says so");
    stack.new_token();
    stack.start_plane();
    until("it has joined again", || stack.own());
    assert_eq!(caller.ask("next"), is(&orders), "the stream goes on");
    until("it is ready", || stack.is_healthy().then_some(()));
}

fn delivered() {
    let orders = unique("orders");
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("orders");
    let stack = Stack::start(&Settings {
        workloads: &[&orders],
        svid_ttl_s: 10,
        extra: format!(
            "deliver:\n  - {{ kind: svid, workload: {orders}, directory: {} }}\n",
            directory.display()
        ),
    });
    // Readiness has waited for it.
    let source = ringwall_tls::IdentitySource::load(&directory).unwrap();
    let first = source.not_after();
    until("the files are renewed", || {
        (source.reload().ok()? && source.not_after() > first).then_some(())
    });
    drop(stack);
}
