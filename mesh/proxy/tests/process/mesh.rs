//! An authority, the files of workloads, and a control plane that says what it is told to say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use ringwall_identity::authority::Authority;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_mesh_api::v1;
use ringwall_mesh_api::v1::configuration_server::{Configuration, ConfigurationServer};
use ringwall_mesh_api::v1::proxy_message::Message;
use ringwall_mesh_api::v1::resource::Body;
use ringwall_policy::mesh::JWS_TYPE;
use ringwall_secret::private_file;
use ringwall_tls::{IdentitySource, PeerPolicy, mesh_server_config};
use ringwall_token::{Algorithm, KeyRing};
use serde_json::json;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const TOKEN: &str = "tests-only-0123456789abcdef0123456789abcdef0";
/// What edges and policies call the ports of `orders`.
pub(crate) const HTTP: u16 = 7105;
pub(crate) const TCP: u16 = 5432;

const POLICY: &str = r#"
@id("gateway-calls") permit (principal == Workload::"gateway", action, resource == Service::"orders")
unless { context.path like "/forbidden*" };
"#;

/// One trust domain on this machine.
pub(crate) struct Mesh {
    pub(crate) directory: TempDir,
    authority: Authority,
    keys: KeyRing,
    pub(crate) plane: Plane,
    pub(crate) address: SocketAddr,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        ringwall_tls::install_crypto_provider();
        let domain = TrustDomain::parse("ringwall.local").expect("domain");
        let authority =
            Authority::generate(&domain, OffsetDateTime::now_utc() - HOUR).expect("authority");
        let mut mesh = Self {
            directory: tempfile::tempdir().expect("directory"),
            authority,
            keys: KeyRing::generate(Algorithm::Es256).expect("keys"),
            plane: Plane::default(),
            address: "127.0.0.1:0".parse().expect("address"),
            serving: None,
        };
        let secrets = mesh.root().join("secrets");
        std::fs::create_dir(&secrets).expect("secrets");
        private_file::write(&secrets.join("loopback-token"), TOKEN.as_bytes()).expect("secret");
        let source = IdentitySource::load(&mesh.identity("control-plane")).expect("identity");
        let listener = TcpListener::bind(mesh.address).await.expect("bind");
        mesh.address = listener.local_addr().expect("address");
        mesh.serving = Some(tokio::spawn(serve(listener, source, mesh.plane.clone())));
        mesh.policy(1, true);
        mesh
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of a workload's certificate, with the keys that policies are signed by.
    pub(crate) fn identity(&self, name: &str) -> PathBuf {
        let directory = self.root().join(format!("identity-{name}"));
        std::fs::create_dir_all(&directory).expect("directory");
        let id = SpiffeId::workload(self.authority.trust_domain(), name).expect("id");
        let issued = self
            .authority
            .issue_svid(&id, &[], HOUR, OffsetDateTime::now_utc())
            .expect("svid");
        let keys = serde_json::to_string(&self.keys.jwks()).expect("JSON");
        for (file, text) in [
            ("bundle.pem", self.authority.cert_pem()),
            ("svid.key", issued.key_pem.as_str()),
            ("svid.pem", issued.chain_pem.as_str()),
            ("jwks.json", keys.as_str()),
        ] {
            private_file::write(&directory.join(file), text.as_bytes()).expect("write");
        }
        directory
    }

    /// Signs and sends a policy, with the edge from `gateway` to `orders` or without.
    pub(crate) fn policy(&self, version: u64, edge: bool) {
        let edges = if edge {
            json!([{ "caller": "gateway", "callee": "orders", "ports": [HTTP, TCP] }])
        } else {
            json!([])
        };
        let bundle = json!({
            "edges": edges,
            "policies": { "main.cedar": POLICY },
            "services": { "gateway": {}, "orders": { "ports": [HTTP, TCP] } },
        });
        let payload = json!({ "version": version, "bundle": bundle });
        let jws = self.keys.sign(JWS_TYPE, &payload).expect("signature");
        let signed = v1::SignedPolicy { version, jws };
        self.plane.set("policy", Body::Policy(signed));
    }

    /// Says that `orders` is served by the proxy at `address`.
    pub(crate) fn orders_at(&self, address: SocketAddr) {
        let port = |number: u16, protocol: v1::Protocol| v1::Port {
            number: number.into(),
            protocol: protocol.into(),
        };
        let service = v1::Service {
            name: "orders".into(),
            spiffe_id: "spiffe://ringwall.local/orders".into(),
            ports: vec![port(HTTP, v1::Protocol::Http), port(TCP, v1::Protocol::Tcp)],
            ..v1::Service::default()
        };
        let endpoint = v1::Endpoint {
            address: address.to_string(),
            port: HTTP.into(),
            zone: "local".into(),
            weight: Some(100),
            instance: "1".into(),
            ..v1::Endpoint::default()
        };
        let endpoints = v1::Endpoints {
            service: "orders".into(),
            endpoints: vec![endpoint],
        };
        self.plane.set("service/orders", Body::Service(service));
        self.plane
            .set("endpoints/orders", Body::Endpoints(endpoints));
    }

    /// Ends the control plane with all of its connections.
    pub(crate) async fn lose_the_plane(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _aborted = serving.await;
        }
    }
}

async fn serve(listener: TcpListener, source: Arc<IdentitySource>, plane: Plane) {
    let id = |name: &str| SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).expect("id");
    let callers = PeerPolicy::AnyOf(vec![id("orders"), id("gateway")]);
    let tls = TlsAcceptor::from(mesh_server_config(&source, callers).expect("TLS"));
    let router = Routes::new(ConfigurationServer::new(plane)).into_axum_router();
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, router) = (tls.clone(), router.clone());
        connections.spawn(async move {
            if let Ok(stream) = tls.accept(socket).await {
                let _ended = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                    .await;
            }
        });
    }
}

/// What is true, and what proxies have said.
#[derive(Clone)]
pub(crate) struct Plane {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    resources: BTreeMap<String, v1::Resource>,
    hellos: Vec<v1::Hello>,
    reports: Vec<v1::EndpointReport>,
}

impl Default for Plane {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Plane {
    pub(crate) fn set(&self, name: &str, body: Body) {
        let mut inner = self.inner.lock();
        inner.revision += 1;
        let revision = inner.revision;
        let resource = v1::Resource {
            name: name.to_owned(),
            revision,
            body: Some(body),
        };
        inner.resources.insert(name.to_owned(), resource);
        drop(inner);
        self.changed.send_replace(revision);
    }

    /// What endpoints have said of themselves.
    pub(crate) fn reports(&self) -> Vec<v1::EndpointReport> {
        self.inner.lock().reports.clone()
    }

    /// What proxies have said when they came.
    pub(crate) fn hellos(&self) -> Vec<v1::Hello> {
        self.inner.lock().hellos.clone()
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
        match message {
            Message::Endpoint(report) => self.inner.lock().reports.push(report),
            Message::Nack(nack) => panic!("refused: {nack:?}"),
            _ => {}
        }
    }
}

#[tonic::async_trait]
impl Configuration for Plane {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::ConfigMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?;
        let Some(Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("no hello"));
        };
        self.inner.lock().hellos.push(hello.clone());
        let plane = self.clone();
        let listener = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                message
                    .message
                    .into_iter()
                    .for_each(|message| listener.hear(message));
            }
        });
        let changes = plane.changed.subscribe();
        let messages = futures_util::stream::unfold(
            (plane, changes, hello.revision, true),
            |(plane, mut changes, known, first)| async move {
                if !first {
                    changes.changed().await.ok()?;
                }
                changes.borrow_and_update();
                let message = plane.since(known);
                let known = message.revision;
                Some((Ok(message), (plane, changes, known, false)))
            },
        );
        Ok(Response::new(Box::pin(messages)))
    }
}
