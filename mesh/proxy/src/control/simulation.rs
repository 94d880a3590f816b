//! The client against simulated control planes on a simulated network: partitions, crashes, replicas, and any mixture.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use ringwall_mesh_api::v1::configuration_server::{Configuration, ConfigurationServer};
use ringwall_mesh_api::v1::proxy_message::Message;
use ringwall_mesh_api::v1::resource::Body;
use ringwall_mesh_api::v1::{self};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};

use super::policy::tests::{Signer, bundle};
use super::*;

const PORT: u16 = 7110;

/// What is true, and what proxies have said; survives every crash, as a database does.
#[derive(Clone)]
struct Truth {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    resources: BTreeMap<String, v1::Resource>,
    refusals: Vec<String>,
    reports: Vec<v1::EndpointReport>,
    uses: Vec<v1::PolicyUse>,
    hellos: Vec<u64>,
}

impl Truth {
    fn new() -> Self {
        Self {
            inner: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    fn set(&self, name: &str, body: Body) {
        let mut inner = self.inner.lock();
        inner.revision += 1;
        let resource = v1::Resource {
            name: name.to_owned(),
            revision: inner.revision,
            body: Some(body),
        };
        inner.resources.insert(name.to_owned(), resource);
        let revision = inner.revision;
        drop(inner);
        self.changed.send_replace(revision);
    }

    fn service(&self, name: &str, tier: u64) {
        let service = v1::Service {
            name: name.into(),
            spiffe_id: format!("spiffe://ringwall.local/{name}"),
            tier: tier.to_string(),
            ..v1::Service::default()
        };
        self.set(&format!("service/{name}"), Body::Service(service));
    }

    fn since(&self, known: u64) -> v1::ConfigMessage {
        let inner = self.inner.lock();
        let newer = |resource: &&v1::Resource| resource.revision > known;
        v1::ConfigMessage {
            nonce: inner.revision,
            revision: inner.revision,
            snapshot: known == 0,
            changed: inner.resources.values().filter(newer).cloned().collect(),
            base: known,
            ..v1::ConfigMessage::default()
        }
    }

    fn hear(&self, message: Message) {
        let mut inner = self.inner.lock();
        match message {
            Message::Nack(nack) => inner.refusals.push(nack.reason),
            Message::Endpoint(report) => inner.reports.push(report),
            Message::Usage(report) => inner.uses.extend(report.uses),
            Message::Hello(hello) => inner.hellos.push(hello.revision),
            Message::Ack(_) => {}
        }
    }

    /// The tiers of all services: what the client must end up with.
    fn tiers(&self) -> BTreeMap<String, String> {
        let inner = self.inner.lock();
        let services = inner
            .resources
            .values()
            .filter_map(|resource| match &resource.body {
                Some(Body::Service(service)) => Some((service.name.clone(), service.tier.clone())),
                _ => None,
            });
        services.collect()
    }
}

fn tiers(state: &State) -> BTreeMap<String, String> {
    let snapshot = state.snapshot.load();
    let services = snapshot.services.values();
    services
        .map(|service| (service.name.to_string(), service.tier.clone()))
        .collect()
}

#[tonic::async_trait]
impl Configuration for Truth {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::ConfigMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming
            .message()
            .await?
            .and_then(|message| message.message);
        let Some(Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let truth = self.clone();
        truth.hear(Message::Hello(hello.clone()));
        let listener = truth.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                message
                    .message
                    .into_iter()
                    .for_each(|message| listener.hear(message));
            }
        });
        let changes = truth.changed.subscribe();
        let messages = futures_util::stream::unfold(
            (truth, changes, hello.revision, true),
            |(truth, mut changes, known, first)| async move {
                if !first {
                    changes.changed().await.ok()?;
                }
                changes.borrow_and_update();
                let message = truth.since(known);
                let known = message.revision;
                Some((Ok(message), (truth, changes, known, false)))
            },
        );
        Ok(Response::new(Box::pin(messages)))
    }
}

struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn serve(truth: Truth) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let incoming = futures_util::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    });
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(ConfigurationServer::new(truth))
        .serve_with_incoming(incoming.boxed())
        .await?;
    Ok(())
}

/// As `ringwall_service::grpc::channel` makes one, over simulated TCP.
fn channel(host: &'static str) -> Channel {
    let connect = service_fn(move |_| async move {
        let limit = Duration::from_secs(2);
        let connecting = TcpStream::connect((host, PORT));
        let stream = tokio::time::timeout(limit, connecting).await??;
        Ok::<_, io::Error>(TokioIo::new(stream))
    });
    Endpoint::from_static("http://mesh")
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect)
}

/// The proxy's side as a host of the simulation.
struct Proxy {
    state: Arc<State>,
    keys: watch::Sender<Arc<[u8]>>,
    health: watch::Sender<Health>,
    shutdown: watch::Sender<bool>,
}

impl Proxy {
    fn new(keys: Arc<[u8]>) -> Self {
        Self {
            state: State::new(),
            keys: watch::Sender::new(keys),
            health: watch::Sender::new(Health::Ready),
            shutdown: watch::Sender::new(false),
        }
    }

    fn run(
        &self,
        hosts: &'static [&'static str],
        seed: u64,
    ) -> impl Future<Output = turmoil::Result> + use<> {
        let (state, keys, health) = (
            Arc::clone(&self.state),
            self.keys.subscribe(),
            self.health.subscribe(),
        );
        let mut shutdown = self.shutdown.subscribe();
        async move {
            let mut chance = seed;
            let settings = Settings {
                domain: TrustDomain::parse("ringwall.local")?,
                instance: "a".into(),
                node: "local".into(),
                zone: "local".into(),
                replicas: hosts.iter().map(|host| channel(host)).collect(),
                endpoint: Some(Served {
                    place: Place::At("127.0.0.1:7105".parse()?),
                    port: 7105,
                    weight: 100,
                }),
                health,
                keys,
                store: None,
                chance: Box::new(move || {
                    chance = chance
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    chance >> 33
                }),
            };
            let ended = async move {
                let _closed = shutdown.wait_for(|shutdown| *shutdown).await;
            };
            Client::open(settings, state).run(ended).await;
            Ok(())
        }
    }
}

fn simulation<'a>(seed: u64) -> turmoil::Sim<'a> {
    turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(3600))
        .tick_duration(Duration::from_millis(10))
        .build()
}

fn add_server(sim: &mut turmoil::Sim<'_>, name: &'static str, truth: &Truth) {
    let truth = truth.clone();
    sim.host(name, move || serve(truth.clone()));
}

/// Runs the simulation for `seconds`.
fn pass(sim: &mut turmoil::Sim<'_>, seconds: u64) {
    let end = sim.elapsed() + Duration::from_secs(seconds);
    while sim.elapsed() < end {
        sim.step().unwrap();
    }
}

#[test]
fn r57_a_partition_changes_nothing_and_is_made_up_for_when_it_ends() {
    let (signer, truth) = (Signer::new(), Truth::new());
    truth.set("policy", Body::Policy(signer.sign(1, bundle("inventory"))));
    truth.service("inventory", 1);
    let mut sim = simulation(1);
    add_server(&mut sim, "control-plane", &truth);
    let proxy = Proxy::new(signer.jwks());
    sim.client("proxy", proxy.run(&["control-plane"], 1));
    pass(&mut sim, 2);
    assert_eq!(tiers(&proxy.state), truth.tiers());
    assert_eq!(proxy.state.policy_version(), 1);
    assert!(proxy.state.is_connected());

    sim.partition("proxy", "control-plane");
    truth.service("inventory", 2);
    truth.set("policy", Body::Policy(signer.sign(2, bundle("payments"))));
    pass(&mut sim, 120);
    assert!(
        !proxy.state.is_connected(),
        "a silent control plane is noticed"
    );
    assert_eq!(tiers(&proxy.state)["inventory"], "1");
    let snapshot = proxy.state.snapshot.load_full();
    assert!(
        snapshot
            .policy
            .as_ref()
            .unwrap()
            .allows_edge("orders", "inventory", 7106),
        "it still decides"
    );

    sim.repair("proxy", "control-plane");
    pass(&mut sim, 15);
    assert_eq!(tiers(&proxy.state)["inventory"], "2");
    assert_eq!(proxy.state.policy_version(), 2);
    let inner = truth.inner.lock();
    assert!(
        inner.hellos.contains(&2),
        "what it knew was not sent again: {:?}",
        inner.hellos
    );
    assert!(inner.refusals.is_empty());
}

#[test]
fn r31_changes_arrive_at_once_and_reports_go_back() {
    let (signer, truth) = (Signer::new(), Truth::new());
    truth.set("policy", Body::Policy(signer.sign(1, bundle("inventory"))));
    let mut sim = simulation(2);
    add_server(&mut sim, "control-plane", &truth);
    let proxy = Proxy::new(signer.jwks());
    proxy.health.send_replace(Health::Unspecified);
    sim.client("proxy", proxy.run(&["control-plane"], 2));
    pass(&mut sim, 2);
    assert!(truth.inner.lock().reports.is_empty(), "nothing is known");
    proxy.health.send_replace(Health::Ready);
    truth.service("inventory", 1);
    pass(&mut sim, 1);
    assert_eq!(tiers(&proxy.state), truth.tiers(), "within a second");

    proxy.state.usage.counter("orders").unwrap().decided(true);
    proxy.health.send_replace(Health::NotReady);
    pass(&mut sim, 11);
    proxy.shutdown.send_replace(true);
    pass(&mut sim, 1);
    let inner = truth.inner.lock();
    let health: Vec<i32> = inner.reports.iter().map(|report| report.health).collect();
    let expected = [Health::Ready, Health::NotReady, Health::Draining];
    assert_eq!(health, expected.map(i32::from));
    assert_eq!(inner.reports[0].address, "127.0.0.1:7105");
    assert_eq!(
        (inner.uses[0].policy.as_str(), inner.uses[0].permitted),
        ("orders", 1)
    );
}

#[test]
fn another_replica_is_asked_when_one_is_gone() {
    let (signer, truth) = (Signer::new(), Truth::new());
    truth.set("policy", Body::Policy(signer.sign(1, bundle("inventory"))));
    let mut sim = simulation(3);
    add_server(&mut sim, "one", &truth);
    add_server(&mut sim, "two", &truth);
    let proxy = Proxy::new(signer.jwks());
    sim.client("proxy", proxy.run(&["one", "two"], 3));
    pass(&mut sim, 2);
    sim.crash("one");
    truth.service("inventory", 5);
    pass(&mut sim, 20);
    assert_eq!(tiers(&proxy.state), truth.tiers());
    sim.bounce("one");
    sim.crash("two");
    truth.service("inventory", 6);
    pass(&mut sim, 20);
    assert_eq!(tiers(&proxy.state), truth.tiers());
}

#[test]
fn r32_nothing_is_believed_before_the_keys_have_come() {
    let (signer, truth) = (Signer::new(), Truth::new());
    truth.set("policy", Body::Policy(signer.sign(1, bundle("inventory"))));
    let mut sim = simulation(4);
    add_server(&mut sim, "control-plane", &truth);
    let proxy = Proxy::new(Arc::from([]));
    sim.client("proxy", proxy.run(&["control-plane"], 4));
    pass(&mut sim, 5);
    assert!(proxy.state.snapshot.load().policy.is_none());
    assert!(truth.inner.lock().refusals[0].contains("no keys"));
    proxy.keys.send_replace(signer.jwks());
    pass(&mut sim, 2);
    assert_eq!(proxy.state.policy_version(), 1);
}

/// Any mixture of changes, partitions and crashes of two replicas ends in the truth.
#[test]
fn whatever_happens_to_the_network_the_proxy_converges() {
    let signer = Signer::new();
    let policies: Vec<_> = (1..=30)
        .map(|version| signer.sign(version, bundle(&format!("c{version}"))))
        .collect();
    for seed in 1..=6_u64 {
        let truth = Truth::new();
        truth.set("policy", Body::Policy(policies[0].clone()));
        let mut sim = simulation(seed);
        add_server(&mut sim, "one", &truth);
        add_server(&mut sim, "two", &truth);
        let proxy = Proxy::new(signer.jwks());
        sim.client("proxy", proxy.run(&["one", "two"], seed));
        let (mut chance, mut version, mut newest) = (seed, 0, 0);
        for round in 0..30 {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let host = if (chance >> 40) & 1 == 0 {
                "one"
            } else {
                "two"
            };
            match (chance >> 33) % 6 {
                0 => sim.partition("proxy", host),
                1 => sim.repair("proxy", host),
                2 => sim.bounce(host),
                3 if version + 1 < policies.len() => {
                    version += 1;
                    truth.set("policy", Body::Policy(policies[version].clone()));
                }
                _ => truth.service(&format!("s{}", round % 5), chance),
            }
            pass(&mut sim, (chance >> 50) % 12);
            assert!(
                proxy.state.policy_version() >= newest,
                "seed {seed}: never back"
            );
            newest = proxy.state.policy_version();
        }
        for host in ["one", "two"] {
            sim.repair("proxy", host);
            sim.bounce(host);
        }
        pass(&mut sim, 60);
        assert_eq!(tiers(&proxy.state), truth.tiers(), "seed {seed}");
        assert_eq!(
            proxy.state.policy_version(),
            version as u64 + 1,
            "seed {seed}"
        );
        assert!(truth.inner.lock().refusals.is_empty(), "seed {seed}");
    }
}
