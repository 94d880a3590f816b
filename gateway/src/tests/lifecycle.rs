//! Configuration in, configuration changed, and the end.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ringwall_service::ComponentConfig as _;
use ringwall_service::config::parse_yaml;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::harness::{World, read_some};
use crate::config::Config;
use crate::reload::Reloader;
use crate::snapshot::compile;

fn demo() -> Config {
    let path = "examples/demo.yaml";
    let text = fs::read_to_string(path).expect("demo");
    parse_yaml(&text, path.as_ref()).expect("the demo parses")
}

#[test]
fn the_schema_is_the_published_one() {
    let path = "config.schema.json";
    let published = fs::read_to_string(path).expect("config.schema.json");
    let current = serde_json::to_string_pretty(&schemars::schema_for!(Config)).expect("schema");
    assert_eq!(
        published.trim_end(),
        current,
        "write it anew: ringwall-gateway --schema > gateway/config.schema.json"
    );
}

#[test]
fn the_demo_configuration_is_valid() {
    demo().validate().expect("valid");
    assert!(
        demo().production_refusals().is_empty(),
        "nothing in it is for the demo only"
    );
}

/// Changes the demo and says which fault follows.
fn fault(change: impl FnOnce(&mut Config)) -> (String, String) {
    let mut config = demo();
    change(&mut config);
    let fault = compile(&config, 1, &crate::plugins::Loaded::default()).expect_err("a fault");
    (fault.key, fault.seen)
}

#[test]
fn r56_a_route_without_policy_does_not_load() {
    let (key, _) = fault(|config| config.hosts[0].routes[0].policy = None);
    assert_eq!(key, "hosts[api.localhost].routes[catalogue].policy");
    let (key, seen) = fault(|config| config.hosts[0].routes[0].policy = Some("absent".into()));
    assert_eq!(
        (key.as_str(), seen.as_str()),
        (
            "hosts[api.localhost].routes[catalogue].policy",
            "\"absent\""
        )
    );
    let (key, _) = fault(|config| {
        config.policies.insert(
            "catalogue".into(),
            "permit (principal, action == Action::\"unknown\", resource);".into(),
        );
    });
    assert_eq!(key, "policies.catalogue");
    // `auth: none` with a policy that permits nobody.
    let (key, _) = fault(|config| config.hosts[1].routes[0].policy = Some("orders-read".into()));
    assert_eq!(key, "hosts[auth.localhost].routes[openid-discovery].policy");
}

/// A place, and the change that makes a fault there.
type Case = (String, Box<dyn FnOnce(&mut Config)>);

#[test]
fn faults_of_routes_name_their_place() {
    let routes = "hosts[api.localhost].routes[catalogue]";
    check(vec![
        (
            format!("{routes}.cluster"),
            Box::new(|c| c.hosts[0].routes[0].cluster = "absent".into()),
        ),
        (
            format!("{routes}.action"),
            Box::new(|c| c.hosts[0].routes[0].action = "absent".into()),
        ),
        (
            format!("{routes}.audience"),
            Box::new(|c| c.hosts[0].routes[0].audience = None),
        ),
        (
            format!("{routes}.match"),
            Box::new(|c| c.hosts[0].routes[0].matches.path = Some("/a/../b".into())),
        ),
        (
            format!("{routes}.match"),
            Box::new(|c| c.hosts[0].routes[0].matches.prefix = Some("/a".into())),
        ),
        (
            format!("{routes}.match.methods"),
            Box::new(|c| c.hosts[0].routes[0].matches.methods = vec!["get".into()]),
        ),
        (
            format!("{routes}.limits[0]"),
            Box::new(|c| c.hosts[0].routes[0].limits[0].rate = 0),
        ),
        (
            "hosts[api.localhost].routes[orders-read].match".into(),
            Box::new(|c| {
                c.hosts[0].routes[1].matches.path = Some("/v1/catalogue".into());
            }),
        ),
        (format!("{routes}.auth"), Box::new(|c| c.tokens = None)),
    ]);
}

#[test]
fn other_faults_name_their_place() {
    check(vec![
        (
            "hosts[app.localhost]".into(),
            Box::new(|c| {
                let twin = c.hosts[2].clone();
                c.hosts.push(twin);
            }),
        ),
        (
            "hosts[API.localhost]".into(),
            Box::new(|c| c.hosts[0].host = "API.localhost".into()),
        ),
        (
            "clusters.orders.upstream".into(),
            Box::new(|c| {
                c.clusters.get_mut("orders").expect("orders").upstream = Some("absent".into());
            }),
        ),
        (
            "listeners[0]".into(),
            Box::new(|c| c.listeners[0].tls = None),
        ),
        ("listeners".into(), Box::new(|c| c.listeners.clear())),
        (
            "tokens.upstream".into(),
            Box::new(|c| {
                c.tokens.as_mut().expect("tokens").upstream = "absent".into();
            }),
        ),
        (
            "tokens.introspection_max_age".into(),
            Box::new(|c| {
                c.tokens.as_mut().expect("tokens").introspection_max_age = Duration::from_secs(2);
            }),
        ),
        ("workers".into(), Box::new(|c| c.workers = Some(0))),
    ]);
}

fn check(cases: Vec<Case>) {
    for (expected, change) in cases {
        assert_eq!(fault(change).0, expected);
    }
}

#[test]
fn a_fault_is_reported_with_its_line() {
    let path = std::path::Path::new("examples/demo.yaml");
    let text = fs::read_to_string(path).expect("demo");
    let bad = text.replacen("        policy: catalogue\n", "        policy: absent\n", 1);
    let line = bad
        .lines()
        .position(|line| line.trim() == "policy: absent")
        .expect("changed")
        + 1;
    let config: Config = parse_yaml(&bad, path).expect("parses");
    let error =
        ringwall_service::config::place(config.validate().expect_err("a fault"), path, &bad);
    let said = error.to_string();
    assert!(
        said.contains(&format!("demo.yaml:{line}:")) && said.contains("absent"),
        "{said}"
    );
}

#[test]
fn plaintext_is_refused_in_production() {
    let mut config = demo();
    config.listeners[0].tls = None;
    config.listeners[0].plaintext = true;
    let cluster = config.clusters.get_mut("orders").expect("orders");
    cluster.upstream = None;
    cluster.plain = Some("127.0.0.1:1".parse().expect("address"));
    assert_eq!(config.production_refusals().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_fails_no_request_and_a_bad_one_changes_nothing() {
    let mut world = World::start().await;
    let good = fs::read_to_string(&world.config_file).expect("config");
    let config: Config = parse_yaml(&good, &world.config_file).expect("parse");
    let reloader = Reloader::new(
        world.shell.clone(),
        Arc::clone(&world.running().shared),
        world.config_file.clone(),
        config,
    );
    let watching = tokio::spawn(reloader.run());
    let load = Load::start(&world, 4);
    let added = good.replace("path: /small,", "path: /renamed,");
    replace(&world, &added);
    wait_for(&world, 2).await;
    assert_eq!(post(&world, "/renamed").await, 200);
    assert_eq!(post(&world, "/small").await, 405);

    replace(
        &world,
        &added.replace("policy: everybody, max_body: 10,", "max_body: 10,"),
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    replace(&world, "not: [yaml");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        world.running().shared.snapshot.load().version,
        2,
        "the last good one serves"
    );
    assert_eq!(post(&world, "/renamed").await, 200);

    replace(&world, &good);
    wait_for(&world, 3).await;
    assert!(load.finish().await > 50);
    watching.abort();
    world.finish().await;
}

/// Clients that repeat a request over one connection each; any failure ends the test.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(world: &World, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let address = world.plain_address();
        let client = || repeat(address, Arc::clone(&stop), Arc::clone(&served));
        let clients = (0..clients).map(|_| tokio::spawn(client())).collect();
        Self {
            stop,
            served,
            clients,
        }
    }

    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("no request failed");
        }
        self.served.load(Ordering::SeqCst)
    }
}

async fn repeat(address: SocketAddr, stop: Arc<AtomicBool>, served: Arc<AtomicUsize>) {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    while !stop.load(Ordering::SeqCst) {
        stream
            .write_all(b"GET /open/x HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
            .await
            .expect("write");
        let mut answer = Vec::new();
        assert!(read_some(&mut stream, &mut answer).await > 0);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        served.fetch_add(1, Ordering::SeqCst);
    }
}

async fn post(world: &World, path: &str) -> u16 {
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: 1\r\n\r\na");
    world.send_plain(request.as_bytes()).await.status
}

/// As editors and deployments do it: a new file, renamed over the old one.
fn replace(world: &World, text: &str) {
    let next = world.config_file.with_extension("next");
    fs::write(&next, text).expect("write");
    fs::rename(&next, &world.config_file).expect("rename");
}

async fn wait_for(world: &World, version: u64) {
    for _ in 0..100 {
        if world.running().shared.snapshot.load().version == version {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("version {version} was not taken over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_what_is_in_flight_and_accepts_nothing_new() {
    let mut world = World::start().await;
    let address = world.plain_address();
    let mut busy = TcpStream::connect(address).await.expect("connect");
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await
        .expect("write");
    let mut idle = TcpStream::connect(address).await.expect("connect");
    idle.write_all(b"GET /open HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await
        .expect("write");
    let mut some = Vec::new();
    assert!(read_some(&mut idle, &mut some).await > 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let finishing = tokio::spawn(async move { world.finish().await });
    let mut answer = Vec::new();
    while read_some(&mut busy, &mut answer).await > 0 {}
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(
        answer.starts_with("http/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(
        read_some(&mut idle, &mut some).await,
        0,
        "idle connections end"
    );
    let log = finishing.await.expect("finished");
    assert!(
        log.iter()
            .any(|line| line["path"] == "/slow" && line["status"] == 200)
    );
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}
