//! What the control plane says arrives, and counts, within a second.

use std::time::{Duration, Instant};

use crate::world::{INVENTORY, World, until};

/// R31, R34.
const SECOND: Duration = Duration::from_secs(1);
/// Admin ports of the proxies.
const ORDERS_ADMIN: u16 = 7605;
const INVENTORY_ADMIN: u16 = 7606;

#[test]
fn r31_a_policy_counts_within_a_second_and_its_rollback_as_well() {
    let world = World::start();
    assert_eq!(world.get("/closed").0, 403, "the snapshot has the policy");
    assert_eq!(world.get("/late").0, 200);
    for (workload, port) in [("orders", ORDERS_ADMIN), ("inventory", INVENTORY_ADMIN)] {
        let version = world.gauge(workload, port, "mesh_policy_version");
        assert_eq!(version, Some(1.0), "{workload}");
    }
    let load = world.load();
    for (from, to, status) in [
        ("/closed*", "/late*", 403),
        ("/late*", "/closed*", 200),
        ("/closed*", "/late*", 403),
    ] {
        world.change_policy(from, to);
        let took = world.until_status("/late", status);
        println!("a change of the policy counted after {took:?}");
        assert!(took <= SECOND, "{took:?}");
    }
    load.ends_without_error("changes of what it does not ask for");
    let version = world.gauge("inventory", INVENTORY_ADMIN, "mesh_policy_version");
    assert_eq!(version, Some(4.0));
}

#[test]
fn r34_a_revocation_ends_live_streams_within_a_second_and_can_be_lifted() {
    let world = World::start();
    let stream = world.stream();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!stream.is_finished());
    let revoked = Instant::now();
    world.revoke("orders");
    until("the stream ends", || stream.is_finished().then_some(()));
    let took = revoked.elapsed();
    println!("a revocation ended a stream after {took:?}");
    assert!(took <= SECOND, "{took:?}");
    let (status, text) = world.get("/v1");
    assert_ne!(status, 200, "{text}");
    world.restore("orders");
    world.until_status("/v1", 200);
}

#[test]
fn r28_endpoints_come_and_go_without_a_failed_request() {
    let mut world = World::start();
    let load = world.load();
    world.start_instance("second-proxy", "inventory", INVENTORY, 7156, "");
    let requests = || {
        let log = std::fs::read_to_string(world.path("second-proxy.access.log"));
        log.unwrap_or_default().lines().count()
    };
    until("the second one is called as well", || {
        (requests() > 0).then_some(())
    });
    // It drains: the control plane hears of it, callers are told, and only then it ends.
    world.terminate("second-proxy");
    std::thread::sleep(SECOND);
    load.ends_without_error("an endpoint that comes and goes");
}

#[test]
fn r57_a_control_plane_that_dies_is_not_missed_and_found_again() {
    let mut world = World::start();
    let load = world.load();
    let stream = world.stream();
    world.kill("plane");
    let connected =
        |world: &World| world.gauge("inventory", INVENTORY_ADMIN, "mesh_control_connected");
    until("it is missed", || {
        (connected(&world) == Some(0.0)).then_some(())
    });
    assert_eq!(world.get("/closed").0, 403, "it still decides");
    world.start_plane();
    until("it is found again", || {
        (connected(&world) == Some(1.0)).then_some(())
    });
    // What it knows of endpoints it has only from us, and the other one may come later than this one.
    std::thread::sleep(Duration::from_secs(12));
    world.change_policy("/closed*", "/late*");
    world.until_status("/late", 403);
    assert!(!stream.is_finished(), "what was open stays open");
    load.ends_without_error("a restart of the control plane");
}

#[test]
fn the_operator_sees_flows_and_heads_of_the_running_proxy() {
    let world = World::start();
    assert_eq!(world.get("/closed?token=canary-1").0, 403);
    let (status, flows) = world.admin("inventory", INVENTORY_ADMIN, "/observe?verdict=denied");
    assert_eq!(status, 200);
    assert!(
        flows.contains(r#""caller":"orders""#) && flows.contains(r#""path":"/closed""#),
        "{flows}"
    );
    assert!(!flows.contains("canary-1"), "without the query: {flows}");
    let load = world.load();
    let (status, heads) = world.admin("inventory", INVENTORY_ADMIN, "/tap?max=2&seconds=20");
    assert_eq!(status, 200);
    let lines: Vec<serde_json::Value> = heads
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let count = |kind| lines.iter().filter(|line| line["message"] == kind).count();
    assert_eq!((count("request"), count("response")), (2, 2), "{heads}");
    load.ends_without_error("a tap");
}
