//! The pool of connections to other proxies, and what it says when one fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use ringwall_data_path::log::LogBuffer;
use ringwall_service::Shell;
use ringwall_service::config::parse_yaml;
use ringwall_tls::{IdentitySource, PeerPolicy, mesh_server_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::world::{HOUR, HTTP, TCP, World, id, identity};
use crate::app::shared;
use crate::body::ProxyBody;
use crate::config::Config;
use crate::control::State;
use crate::resilience::fixture;
use crate::snapshot::{Endpoint, Port, Protocol, Revocations, Service, Snapshot};
use crate::tunnel::{H2Body, Moved, SendError, Switched, TunnelStream, Tunnels, splice};
use crate::worker::Worker;

impl Tunnels {
    async fn send(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        request: Request<ProxyBody>,
    ) -> Result<Response<H2Body>, SendError> {
        self.stream(service, endpoint).await?.send(request).await
    }

    pub(super) async fn connect(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        authority: &str,
    ) -> Result<TunnelStream, SendError> {
        let stream = self.stream(service, endpoint).await?;
        stream.connect(authority).await
    }

    async fn websocket(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        request: Request<()>,
    ) -> Result<Response<Switched>, SendError> {
        let stream = self.stream(service, endpoint).await?;
        stream.websocket(request).await
    }
}

/// A proxy of `gateway` that calls: one worker on the test's own runtime.
pub(super) struct Calling {
    pub(super) worker: Arc<Worker>,
    pub(super) state: Arc<State>,
    pub(super) identity: Arc<IdentitySource>,
    pub(super) service: Arc<Service>,
}

impl Calling {
    pub(super) fn new(world: &World, limits: &str) -> Self {
        let root = world.directory.path();
        let directory = identity(&world.authority, root, "gateway", HOUR);
        let text = format!(
            "service:\n  name: gateway-proxy\n  workload: gateway\n  trust_domain: ringwall.local\n  profile: demo\n  listen: 127.0.0.1:0\n  admin: 127.0.0.1:0\n  identity: {}\n  secrets: {{ provider: file, directory: {}/secrets }}\nlimits: {{ tunnels: {{ {limits} }} }}\n",
            directory.display(),
            root.display(),
        );
        let config: Config = parse_yaml(&text, "gateway-proxy.yaml".as_ref()).expect("parse");
        let shell = Shell::open("proxy", config.service.clone()).expect("shell");
        let state = State::new();
        let service = Arc::new(service("orders"));
        let shared = shared(&shell, &Arc::new(config), &state).expect("shared");
        let worker = Worker::new(Arc::new(shared), Arc::new(LogBuffer::new(false)));
        tokio::spawn(Arc::clone(&worker).run(Vec::new()));
        let calling = Self {
            worker,
            state,
            identity: Arc::clone(shell.identity().expect("identity")),
            service,
        };
        calling.publish(&["orders"], Revocations::default());
        calling
    }

    /// What the control plane says: these services, and who is revoked.
    pub(super) fn publish(&self, services: &[&str], revocations: Revocations) {
        let known = services
            .iter()
            .map(|name| ((*name).into(), Arc::clone(&self.service)));
        self.state.publish(Arc::new(Snapshot {
            revision: 1,
            services: known.collect(),
            policy: None,
            revocations: Arc::new(revocations),
        }));
    }

    pub(super) async fn get(&self, at: SocketAddr, path: &str) -> Result<Bytes, SendError> {
        let response = self.begin(at, path).await?;
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await;
        Ok(body.expect("body").to_bytes())
    }

    /// The head of the answer; its body is still to come.
    async fn begin(&self, at: SocketAddr, path: &str) -> Result<Response<H2Body>, SendError> {
        let request = Request::get(format!("http://orders{path}"));
        let request = request.body(ProxyBody::empty()).expect("request");
        let at = endpoint(at);
        let sent = self.worker.tunnels.send(&self.service, &at, request);
        sent.await
    }

    async fn settle(&self, open: usize) {
        for _ in 0..200 {
            if self.worker.tunnels.open() == open {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} connections, not {open}", self.worker.tunnels.open());
    }
}

fn service(name: &str) -> Service {
    Service {
        name: name.into(),
        identity: id(name),
        ports: vec![Port {
            number: HTTP,
            protocol: Protocol::Http,
        }],
        tier: String::new(),
        traffic: fixture::traffic(),
        direct: Vec::new(),
        endpoints: Vec::new(),
    }
}

pub(super) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        port: HTTP,
        zone: "local".into(),
        weight: 1,
        instance: "1".into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_shares_one_handshake_and_one_connection() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    let at = world.at(HTTP);
    let burst = (0..50).map(|_| calling.get(at, "/v1/orders"));
    for answer in futures_util::future::join_all(burst).await {
        assert!(
            String::from_utf8_lossy(&answer.expect("answer"))
                .contains("URI=spiffe://ringwall.local/gateway")
        );
    }
    assert_eq!(calling.worker.tunnels.open(), 1);
    assert_eq!(calling.worker.shared.metrics.tunnels_opened.get(), 1);
    assert!(
        calling
            .worker
            .tunnels
            .try_stream(&calling.service, &endpoint(at))
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_exhausted_open_a_second_connection_and_no_third() {
    let world = World::start_with(&[("header_timeout: 10s", "max_streams: 2")]).await;
    let calling = Calling::new(&world, "max_connections: 2, max_pending: 1");
    let at = world.at(HTTP);
    let mut held = Vec::new();
    for _ in 0..4 {
        let request = Request::get("http://orders/lingering").body(ProxyBody::empty());
        let to = endpoint(at);
        let sent = calling
            .worker
            .tunnels
            .send(&calling.service, &to, request.expect("request"));
        held.push(sent.await.expect("response"));
    }
    assert_eq!(calling.worker.tunnels.open(), 2);
    let waiting = calling.get(at, "/x");
    let mut waiting = std::pin::pin!(waiting);
    let soon = tokio::time::timeout(Duration::from_millis(100), waiting.as_mut()).await;
    assert!(soon.is_err(), "every stream is in use");
    let refused = calling.get(at, "/y").await.expect_err("one may wait");
    assert!(matches!(refused, SendError::Pending) && refused.is_unseen());
    held.pop();
    assert!(waiting.await.is_ok(), "a stream has become free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r71_another_workload_in_the_dialled_place_is_refused() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    let impostor = world.source("payments");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let at = listener.local_addr().expect("address");
    let everybody = PeerPolicy::AnyOf(vec![id("gateway")]);
    let tls = TlsAcceptor::from(mesh_server_config(&impostor, everybody).expect("tls"));
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("accept");
            if tls.accept(socket).await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let error = calling.get(at, "/x").await.expect_err("not orders");
    assert!(error.is_unseen() && error.is_fault_of_endpoint(), "{error}");
    assert!(error.to_string().contains("orders was dialled"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_peer_is_known_before_a_request_is_at_stake() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    // The gateway has no edge to the operator's port.
    let error = calling
        .get(world.at(super::world::ADMIN), "/x")
        .await
        .expect_err("no edge");
    assert!(error.is_unseen(), "{error:?}");
    let nobody = "127.0.0.1:1".parse().expect("address");
    let error = calling.get(nobody, "/x").await.expect_err("nobody");
    assert!(error.is_unseen() && error.is_fault_of_endpoint());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_a_rotated_identity_moves_to_a_new_connection_without_a_failed_request() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    let at = world.at(HTTP);
    let request = Request::get("http://orders/lingering").body(ProxyBody::empty());
    let to = endpoint(at);
    let sent = calling
        .worker
        .tunnels
        .send(&calling.service, &to, request.expect("request"));
    let mut held = sent.await.expect("response").into_body();
    held.frame().await.expect("first").expect("byte");
    identity(
        &world.authority,
        world.directory.path(),
        "gateway",
        2 * HOUR,
    );
    assert!(calling.identity.reload().expect("reload"));
    for _ in 0..20 {
        calling.get(at, "/x").await.expect("answer");
    }
    let opened = || calling.worker.shared.metrics.tunnels_opened.get();
    for _ in 0..100 {
        if opened() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(opened(), 2, "one with the new certificate");
    calling.settle(1).await;
    assert_eq!(
        calling.worker.shared.metrics.tunnels.get(),
        2,
        "the old one drains"
    );
    let more = tokio::time::timeout(Duration::from_millis(200), held.frame()).await;
    assert!(more.is_err(), "what the old one carries goes on");
    drop(held);
    for _ in 0..100 {
        if calling.worker.shared.metrics.tunnels.get() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the old connection is still open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_revoked_callee_is_cut_and_not_dialled_again() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    let at = world.at(HTTP);
    let request = Request::get("http://orders/lingering").body(ProxyBody::empty());
    let to = endpoint(at);
    let sent = calling
        .worker
        .tunnels
        .send(&calling.service, &to, request.expect("request"));
    let mut held = sent.await.expect("response").into_body();
    held.frame().await.expect("first").expect("byte");
    let mut revocations = Revocations::default();
    revocations.spiffe_ids.insert(id("orders").to_string());
    calling.publish(&["orders"], revocations);
    let cut = tokio::time::timeout(Duration::from_secs(1), held.frame()).await;
    assert!(cut.expect("within a second").expect("an end").is_err());
    let error = calling.get(at, "/x").await.expect_err("revoked");
    assert!(error.to_string().contains("revoked"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_service_that_is_no_longer_ours_to_call_is_cut() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    calling.get(world.at(HTTP), "/x").await.expect("answer");
    calling.publish(&[], Revocations::default());
    tokio::time::timeout(Duration::from_secs(1), calling.settle(0))
        .await
        .expect("within a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_drains_is_left_for_a_new_connection() {
    let mut world = World::start().await;
    let calling = Calling::new(&world, "");
    let at = world.at(HTTP);
    calling.get(at, "/x").await.expect("answer");
    let running = world.running.take().expect("running");
    running.drain(Duration::from_secs(5)).await;
    calling.settle(0).await;
    let error = calling.get(at, "/x").await.expect_err("nobody listens");
    assert!(error.is_unseen(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_let_go() {
    let world = World::start().await;
    let calling = Calling::new(&world, "idle_timeout: 1s");
    calling.get(world.at(HTTP), "/x").await.expect("answer");
    assert_eq!(calling.worker.tunnels.open(), 1);
    calling.settle(0).await;
    for _ in 0..100 {
        if calling.worker.shared.metrics.tunnels.get() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the connection is still open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_says_that_the_request_may_have_been_seen() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    let orders = Arc::clone(world.shell.identity().expect("identity"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let at = listener.local_addr().expect("address");
    let gateway = PeerPolicy::AnyOf(vec![id("gateway")]);
    let tls = TlsAcceptor::from(mesh_server_config(&orders, gateway).expect("tls"));
    // Answers `/refused` with REFUSED_STREAM, and breaks off at anything else.
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("accept");
            let stream = tls.accept(socket).await.expect("TLS");
            let mut server = h2::server::handshake(stream).await.expect("handshake");
            while let Some(Ok((request, mut respond))) = server.accept().await {
                if request.uri().path() != "/refused" {
                    break;
                }
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        }
    });
    let refused = calling.get(at, "/refused").await.expect_err("refused");
    assert!(
        matches!(refused, SendError::NotTaken(_)) && refused.is_unseen(),
        "{refused:?}"
    );
    let lost = calling.get(at, "/x").await.expect_err("lost");
    assert!(
        matches!(lost, SendError::Lost(_)) && !lost.is_unseen(),
        "{lost:?}"
    );
    let again = calling.get(at, "/refused").await.expect_err("refused");
    assert!(again.is_unseen(), "over a new connection: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_opaque_bytes_between_two_proxies() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    let (mut near, far) = tokio::io::duplex(1024);
    let target = format!("orders:{TCP}");
    let at = endpoint(world.at(HTTP));
    let tunnel = calling
        .worker
        .tunnels
        .connect(&calling.service, &at, &target)
        .await;
    let tunnel = tunnel.expect("tunnel");
    let moved = Arc::new(Moved::default());
    let counted = Arc::clone(&moved);
    let splicing = tokio::spawn(async move { splice(far, tunnel, &counted).await });
    let mut greeting = [0; 5];
    near.read_exact(&mut greeting)
        .await
        .expect("the server speaks first");
    assert_eq!(&greeting, b"hello");
    near.write_all(b"query").await.expect("write");
    near.read_exact(&mut greeting).await.expect("answer");
    assert_eq!(&greeting, b"QUERY");
    near.shutdown().await.expect("half-close");
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).await.expect("rest");
    assert_eq!(rest, b"bye");
    splicing
        .await
        .expect("splice")
        .expect("both directions ended");
    assert_eq!(
        (
            moved.up.load(Ordering::Relaxed),
            moved.down.load(Ordering::Relaxed)
        ),
        (5, 13)
    );
    let refused = calling
        .worker
        .tunnels
        .connect(&calling.service, &at, "orders:22")
        .await;
    assert!(matches!(refused, Err(SendError::Refused(status)) if status == 404));
    // The same for whoever reads and writes by itself.
    let tunnel = calling
        .worker
        .tunnels
        .connect(&calling.service, &at, &target)
        .await;
    let mut tunnel = tunnel.expect("tunnel");
    tunnel.read_exact(&mut greeting).await.expect("greeting");
    tunnel.write_all(b"again").await.expect("write");
    tunnel.read_exact(&mut greeting).await.expect("answer");
    assert_eq!(&greeting, b"AGAIN");
    tunnel.shutdown().await.expect("half-close");
    rest.clear();
    tunnel.read_to_end(&mut rest).await.expect("rest");
    assert_eq!(rest, b"bye");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_websocket_between_two_proxies() {
    let world = World::start().await;
    let calling = Calling::new(&world, "");
    let request = |path: &str| {
        Request::builder()
            .method(Method::CONNECT)
            .uri(format!("http://orders{path}"))
            .extension(h2::ext::Protocol::from_static("websocket"))
            .body(())
            .expect("request")
    };
    let at = endpoint(world.at(HTTP));
    let tunnels = &calling.worker.tunnels;
    let answer = tunnels
        .websocket(&calling.service, &at, request("/ws"))
        .await;
    let Switched::Stream(mut stream) = answer.expect("answer").into_body() else {
        panic!("declined")
    };
    stream.write_all(b"frame").await.expect("write");
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).await.expect("echo");
    assert_eq!(&echoed, b"frame");
    let answer = tunnels
        .websocket(&calling.service, &at, request("/forbidden"))
        .await;
    let answer = answer.expect("answer");
    assert_eq!(answer.status(), 403);
    assert!(matches!(answer.into_body(), Switched::Declined(_)));
}
