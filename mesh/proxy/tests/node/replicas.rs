//! Two control planes over one PostgreSQL: either may die, and so may what they share.

use std::time::{Duration, Instant};

use crate::world::{INVENTORY, World, until};

const ADMINS: [(&str, u16); 2] = [("orders", 7605), ("inventory", 7606)];
/// How long a lease lasts at most, and one look at it after that.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// The other control plane's mesh listener.
const SECOND: u16 = 7120;

fn connected(world: &World, to: f64) {
    for (workload, port) in ADMINS {
        until(&format!("{workload} is connected: {to}"), || {
            (world.gauge(workload, port, "mesh_control_connected") == Some(to)).then_some(())
        });
    }
}

/// Waits until the proxy before `inventory` serves another certificate than at first.
fn certificates_rotate(world: &World) {
    let serial = world.served_serial("inventory", INVENTORY);
    until("another certificate is served", || {
        (world.served_serial("inventory", INVENTORY) != serial).then_some(())
    });
}

#[test]
fn r57_the_leading_control_plane_dies_under_load_and_nobody_misses_it() {
    let mut world = World::start_replicated();
    connected(&world, 1.0);
    let load = world.load();
    let stream = world.stream();
    world.kill("plane");
    let died = Instant::now();
    assert_eq!(world.get("/closed").0, 403, "it still decides");
    // The other one leads once the lease of the first is over, and the proxies find it by themselves.
    world.leader = SECOND;
    until("the other one leads", || {
        world.try_change("/closed*", "/late*").ok()
    });
    let took = died.elapsed();
    println!("the other control plane took a policy after {took:?}");
    assert!(took <= TAKE_OVER, "{took:?}");
    world.until_status("/late", 403);
    println!("and it counted after {:?}", died.elapsed());
    connected(&world, 1.0);
    // The agent asks the other one, too: everybody's certificate is renewed at half of forty seconds.
    certificates_rotate(&world);
    assert!(
        !stream.is_finished(),
        "what was open stays open while its certificates last"
    );
    certificates_rotate(&world);
    let log = world.log("agent");
    assert!(log.contains("another control plane is asked"), "{log}");
    // The first one comes back and follows; a proxy that starts now is told by the first to ask the other.
    world.start_plane();
    world.start_instance("second-proxy", "inventory", INVENTORY, 7156, "");
    until("the newcomer is called as well", || {
        let log = std::fs::read_to_string(world.path("second-proxy.access.log"));
        (log.unwrap_or_default().lines().count() > 0).then_some(())
    });
    let good = load.ends_without_error("the death of the leading control plane");
    println!("{good} requests");
}

#[test]
fn r31_without_its_database_the_control_plane_refuses_changes_and_the_mesh_goes_on() {
    let mut world = World::start_replicated();
    connected(&world, 1.0);
    let load = world.load();
    let stream = world.stream();
    world.kill_database();
    let refused = until("a change is refused", || {
        world.try_change("/closed*", "/late*").err()
    });
    assert!(
        refused.0 == 503 && refused.1.contains("store does not answer"),
        "{refused:?}"
    );
    // Longer than the leader's lease: nobody leads, and proxies have nobody to ask.
    std::thread::sleep(Duration::from_secs(8));
    let (status, text) = world.try_change("/closed*", "/late*").unwrap_err();
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("store does not answer"), "{text}");
    assert_eq!(
        world.get("/closed").0,
        403,
        "proxies decide as they were told last"
    );
    assert_eq!(world.get("/late").0, 200);
    assert!(!stream.is_finished(), "what was open stays open");
    world.start_database();
    let back = Instant::now();
    let ports = [7110, SECOND];
    let version = until("one of them leads again", || {
        ports.iter().find_map(|port| {
            world.leader = *port;
            world.try_change("/closed*", "/late*").ok()
        })
    });
    assert_eq!(version, 2, "what was refused was not made");
    world.until_status("/late", 403);
    println!(
        "all was well {:?} after the database was back",
        back.elapsed()
    );
    connected(&world, 1.0);
    certificates_rotate(&world);
    let good = load.ends_without_error("the restart of the control planes' database");
    println!("{good} requests");
}
