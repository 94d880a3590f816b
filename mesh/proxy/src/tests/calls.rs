//! Calls of an application through both proxies: app → outbound → mTLS → inbound → app.
//!
//! Read first: [`Pair`], what is started beside a [`World`].

mod bytes;
mod denied;
mod ends;
mod failures;
mod requests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use ::bytes::Bytes;
use h2::client::SendRequest;
use listenfd::ListenFd;
use ringwall_policy::mesh::Bundle;
use ringwall_service::Shell;
use ringwall_service::config::parse_yaml;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::peers::{Answer, read_answer};
use super::world::{ADMIN, Edit, HOUR, HTTP, HTTP2, TCP, TOKEN, World, bundle, id, identity};
use crate::app::{Running, shared};
use crate::config::Config;
use crate::control::State;
use crate::resilience::fixture;
use crate::snapshot::{Endpoint, Port, Protocol, Revocations, Service, Snapshot};

/// A service that has no proxy.
const DATABASE: u16 = 7432;

/// The proxy of `gateway`, which calls `orders` of the world.
pub(super) struct Pair {
    pub(super) world: World,
    pub(super) state: Arc<State>,
    pub(super) running: Running,
    /// Whose address is that of the service `database`.
    pub(super) database: tokio::net::TcpListener,
    log: std::path::PathBuf,
}

impl Pair {
    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A pair whose caller knows `orders` as `edit` leaves it.
    pub(super) async fn start_with(edit: impl FnOnce(&mut Service)) -> Self {
        let pair = Self::ignorant().await;
        let mut orders = pair.orders();
        edit(&mut orders);
        pair.publish(
            vec![orders, pair.database_service()],
            bundle_with_database(),
        );
        pair
    }

    /// A pair whose caller has another configuration.
    pub(super) async fn start_edited(edits: &[Edit]) -> Self {
        let pair = Self::make(edits).await;
        pair.publish(
            vec![pair.orders(), pair.database_service()],
            bundle_with_database(),
        );
        pair
    }

    /// A caller that nobody has told anything yet.
    pub(super) async fn ignorant() -> Self {
        Self::make(&[]).await
    }

    async fn make(edits: &[Edit]) -> Self {
        let world = World::start_with(&[]).await;
        let root = world.directory.path();
        let directory = identity(&world.authority, root, "gateway", HOUR);
        let log = root.join("caller.log");
        let text = format!(
            r#"
service:
  name: gateway-proxy
  workload: gateway
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:0
  admin: 127.0.0.1:0
  identity: {}
  drain: 5s
  secrets: {{ provider: file, directory: {}/secrets }}
zone: a
outbound:
  http: 127.0.0.1:0
  tcp:
    - {{ listen: "127.0.0.1:0", service: orders }}
    - {{ listen: "127.0.0.1:0", service: database }}
    - {{ listen: "127.0.0.1:0", service: payments }}
  captured: ["127.0.0.1:0", "[::1]:0"]
loopback_token: loopback-token
access_log: {{ file: {} }}
"#,
            directory.display(),
            root.display(),
            log.display(),
        );
        let text = edits.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "no {from:?} in the configuration");
            text.replacen(from, to, 1)
        });
        let config: Config = parse_yaml(&text, Path::new("gateway-proxy.yaml")).expect("parse");
        let shell = Shell::open("proxy", config.service.clone()).expect("shell");
        let state = State::new();
        let shared = shared(&shell, &Arc::new(config), &state).expect("shared");
        let running = Running::over(shared, ListenFd::empty()).expect("start");
        let database = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bind");
        Self {
            world,
            state,
            running,
            database,
            log,
        }
    }

    /// `orders` as the control plane would tell it.
    pub(super) fn orders(&self) -> Service {
        Self::orders_at(self.world.at(HTTP), self.world.at(HTTP2))
    }

    fn orders_at(http: SocketAddr, http2: SocketAddr) -> Service {
        let mut orders = fixture::service("orders", fixture::http(HTTP), &[]);
        orders.ports.extend([
            fixture::http(ADMIN),
            Port {
                number: HTTP2,
                protocol: Protocol::Http2,
            },
            Port {
                number: TCP,
                protocol: Protocol::Tcp,
            },
        ]);
        orders.endpoints = vec![
            fixture::endpoint(http, HTTP),
            fixture::endpoint(http2, HTTP2),
        ];
        orders
    }

    fn database_service(&self) -> Service {
        let port = Port {
            number: DATABASE,
            protocol: Protocol::Tcp,
        };
        let mut database = fixture::service("database", port, &[]);
        database.direct = vec![self.database.local_addr().expect("address").to_string()];
        database
    }

    /// Makes `services` and `bundle` what the caller's proxy knows.
    pub(super) fn publish(&self, services: Vec<Service>, bundle: Bundle) {
        let before = self.state.snapshot.load();
        let policy = bundle.check().expect("bundle");
        let named = |service: Service| (Arc::clone(&service.name), Arc::new(service));
        self.state.publish(Arc::new(Snapshot {
            revision: before.revision + 1,
            services: services.into_iter().map(named).collect(),
            policy: Some(Arc::new(policy)),
            revocations: Arc::new(Revocations::default()),
        }));
    }

    /// Where the application finds its proxy.
    pub(super) fn http(&self) -> SocketAddr {
        self.running.addresses[0]
    }

    /// The listener for opaque bytes number `index`, in the order of the configuration.
    pub(super) fn tcp(&self, index: usize) -> SocketAddr {
        self.running.addresses[1 + index]
    }

    /// The listeners to which the kernel leads, for each family of addresses.
    pub(super) fn captured(&self) -> &[SocketAddr] {
        &self.running.addresses[4..6]
    }

    pub(super) async fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.http()).await.expect("connect");
        socket.set_nodelay(true).expect("nodelay");
        socket
    }

    /// Sends `request` as it is over a new connection.
    pub(super) async fn send(&self, request: &str) -> Answer {
        let mut socket = self.connect().await;
        let _sent = socket.write_all(request.as_bytes()).await;
        read_answer(&mut socket).await
    }

    /// `GET path` of `host`, with `fields` and the proof.
    pub(super) async fn get(&self, host: &str, path: &str, fields: &str) -> Answer {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Ringwall-Loopback: {TOKEN}\r\n{fields}\r\n"
        ))
        .await
    }

    /// HTTP/2 with prior knowledge.
    pub(super) async fn http2(&self) -> SendRequest<Bytes> {
        let socket = self.connect().await;
        let (sender, mut connection) = h2::client::handshake(socket).await.expect("handshake");
        let mut pings = connection.ping_pong().expect("pings");
        tokio::spawn(connection);
        pings.ping(h2::Ping::opaque()).await.expect("pong");
        sender.ready().await.expect("ready")
    }

    /// The first line of the caller's access log for which `is` holds.
    pub(super) async fn line(&self, is: impl Fn(&Value) -> bool) -> Value {
        let mut lines = Vec::new();
        for _ in 0..100 {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            lines = text
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("JSON line"))
                .collect();
            if let Some(line) = lines.iter().find(|line| is(line)) {
                return line.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("not in the log: {lines:#?}");
    }
}

/// An endpoint that nobody serves.
async fn dead(port: u16) -> Arc<Endpoint> {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    fixture::endpoint(socket.local_addr().expect("address"), port)
}

/// The world's policy, in which `gateway` may also call the database, and `egress`.
fn bundle_with_database() -> Bundle {
    let mut bundle = serde_json::to_value(bundle()).expect("JSON");
    let edges = bundle["edges"].as_array_mut().expect("edges");
    edges.push(json!({ "caller": "gateway", "callee": "database" }));
    edges.push(json!({ "caller": "gateway", "callee": "egress" }));
    bundle["services"]["database"] = json!({ "ports": [DATABASE] });
    bundle["services"]["egress"] = json!({ "ports": [HTTP] });
    serde_json::from_value(bundle).expect("bundle")
}

/// The egress gateway, in whose place `orders` of the world stands.
fn egress(pair: &Pair) -> Service {
    let mut egress = fixture::service("egress", fixture::http(HTTP), &[pair.world.at(HTTP)]);
    egress.identity = id("orders");
    egress
}
