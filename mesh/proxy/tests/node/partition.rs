//! The node without its control plane: it serves, decides and starts again from what it knew last.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ringwall_secret::private_file;

use crate::world::{INVENTORY, World, until};

const ADMINS: [(&str, u16); 2] = [("orders", 7605), ("inventory", 7606)];
/// Longest time after which a healed connection is used again: the longest pause between two attempts, one attempt that
/// had begun before, and the kernel's own.
const CONVERGENCE: Duration = Duration::from_secs(20);

fn all(world: &World, gauge: &str, value: f64) {
    for (workload, port) in ADMINS {
        until(&format!("{gauge} of {workload} is {value}"), || {
            (world.gauge(workload, port, gauge) == Some(value)).then_some(())
        });
    }
}

#[test]
fn r57_a_partition_is_survived_with_restarts_and_made_up_for() {
    let mut world = World::start();
    all(&world, "mesh_policy_version", 1.0);
    let load = world.load();
    let stream = world.stream();
    // The state is saved within a second or two of a change.
    std::thread::sleep(Duration::from_secs(3));

    let cut = Instant::now();
    world.cut();
    all(&world, "mesh_control_connected", 0.0);
    println!("the partition was noticed after {:?}", cut.elapsed());
    let version = world.change_policy("/closed*", "/late*");
    assert_eq!(version, 2, "the control plane goes on as well");
    assert_eq!(
        world.get("/closed").0,
        403,
        "it decides as it was told last"
    );
    assert_eq!(world.get("/late").0, 200);
    assert!(!stream.is_finished(), "what was open stays open");
    load.ends_without_error("while the control plane is away");

    // Longer than any lease of an endpoint: the control plane has forgotten who served.
    let forgotten = cut + Duration::from_secs(20);
    for (name, workload, port) in [
        ("inventory-proxy", "inventory", INVENTORY),
        ("orders-proxy", "orders", 7105),
    ] {
        world.kill(name);
        world.start_proxy(workload, port, "");
        let took = world.until_status("/v1", 200);
        println!("{name} served from its disk after {took:?}");
        assert_eq!(world.get("/closed").0, 403, "{name} decides from its disk");
    }
    all(&world, "mesh_policy_version", 1.0);
    std::thread::sleep(forgotten.saturating_duration_since(Instant::now()));

    let load = world.load();
    let healed = Instant::now();
    world.heal();
    world.until_status("/late", 403);
    all(&world, "mesh_policy_version", 2.0);
    let took = healed.elapsed();
    println!("converged after {took:?}");
    assert!(took <= CONVERGENCE, "{took:?}");
    assert_eq!(world.get("/closed").0, 200);
    // One proxy may be back long before the other.
    std::thread::sleep(CONVERGENCE.saturating_sub(took));
    load.ends_without_error("when the control plane is back");
}

#[test]
fn r32_a_first_boot_without_control_plane_denies_everything() {
    let mut world = World::start();
    world.cut();
    for name in ["inventory-proxy", "orders-proxy"] {
        world.kill(name);
    }
    for proxy in ["inventory-proxy", "orders-proxy"] {
        // As on a new disk. It may not be there yet: it is written within a second or two.
        let _absent = std::fs::remove_file(world.path(&format!("{proxy}/mesh-state.json")));
    }
    world.start_proxy("inventory", INVENTORY, "");
    world.start_proxy("orders", 7105, "");
    until("it answers", || (world.get("/v1").0 == 503).then_some(()));
    for (workload, port) in ADMINS {
        let (status, text) = until("its admin listener answers", || {
            Some(world.admin(workload, port, "/readyz")).filter(|(status, _)| *status != 0)
        });
        assert_eq!(status, 503, "{workload}: {text}");
        assert!(text.contains("everything is denied"), "{text}");
    }
    world.heal();
    world.until_status("/v1", 200);
}

#[test]
fn attack_a_state_on_disk_that_somebody_changed_is_not_believed() {
    let mut world = World::start();
    std::thread::sleep(Duration::from_secs(3));
    world.cut();
    world.kill("inventory-proxy");
    let path = world.path("inventory-proxy/mesh-state.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    let resources = STANDARD.decode(state["resources"].as_str().unwrap());
    let mut resources = resources.unwrap();
    open_what_is_closed(&mut resources);
    state["resources"] = STANDARD.encode(&resources).into();
    // The memory of what this version said would give it away as well.
    state["policy"] = serde_json::Value::Null;
    private_file::write(&path, state.to_string().as_bytes()).unwrap();
    world.start_proxy("inventory", INVENTORY, "");
    let (workload, port) = ADMINS[1];
    until("it denies everything", || {
        let (status, text) = world.admin(workload, port, "/readyz");
        (status == 503 && text.contains("everything is denied")).then_some(())
    });
    assert_ne!(world.get("/v1").0, 200);
    assert!(
        world
            .log("inventory-proxy")
            .contains("a part of the last good state is not used")
    );
    world.heal();
    world.until_status("/v1", 200);
}

/// Changes what the signed policy says, and leaves its signature.
fn open_what_is_closed(resources: &mut [u8]) {
    let start = resources.windows(3).position(|three| three == b"eyJ");
    let start = start.expect("a JWS");
    let is_jws = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let length = resources[start..]
        .iter()
        .take_while(|byte| is_jws(byte))
        .count();
    let jws = String::from_utf8(resources[start..start + length].to_vec()).unwrap();
    let (head, rest) = jws.split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    let said = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert!(said.contains("/closed*"), "{said}");
    // As long as before, so that everything around it fits.
    let forged = URL_SAFE_NO_PAD.encode(said.replace("/closed*", "/nobody*"));
    let at = start + head.len() + 1;
    resources[at..at + forged.len()].copy_from_slice(forged.as_bytes());
}
