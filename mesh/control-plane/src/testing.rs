//! What the tests of this crate stand on: configurations, and a whole control plane in one process,
//! met over real sockets by agents, operators and strangers. Read next: `testing/proxies.rs`.

pub(crate) mod desk;
pub(crate) mod proxies;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ringwall_http_io::Address;
use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::certificate::from_pem;
use ringwall_identity::csr::{NewKey, Request};
use ringwall_identity::intermediate::Certified;
use ringwall_identity::{Intermediate, SpiffeId, TrustDomain};
use ringwall_mesh_api::v1::attestation_client::AttestationClient;
use ringwall_mesh_api::v1::authority_client::AuthorityClient;
use ringwall_mesh_api::v1::identity_client::IdentityClient;
use ringwall_mesh_api::v1::{Certificate, CreateJoinTokenRequest, JoinRequest};
use ringwall_secret::{SecretProvider, private_file};
use ringwall_service::config::parse_yaml;
use ringwall_service::grpc::channel;
use ringwall_service::{ComponentConfig, Shell, StartError};
use ringwall_tls::{IdentityMaterial, IdentitySource, join_client_config, mesh_grpc_client_config};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

use crate::Clock;
use crate::app;
use crate::config::Config;
use crate::registry::reload::ConfigFile;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// A configuration whose files all lie in `folder`; the list of services comes last.
pub(crate) fn config_text(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "service:
  name: control-plane
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:0
  admin: 127.0.0.1:0
  identity: self
  state: {folder}/state
  secrets: {{ provider: file, directory: {folder}/secrets }}
bootstrap: 127.0.0.1:0
authority: {{ roots: {folder}/roots.pem }}
store: {{ embedded: {folder}/control-plane.db }}
nodes: [local, other]
services:
  - {{ name: orders, owner: shop, nodes: [local], dns: [orders], database_roles: [orders], server_names: [orders.localhost, '127.0.0.1'] }}
  - {{ name: payments, owner: bank, tier: sensitive, nodes: [other] }}
"
    )
}

pub(crate) fn parse(text: &str) -> Config {
    parse_yaml(text, Path::new("control-plane.yaml")).unwrap()
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("ringwall.local").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::workload(&domain(), path).unwrap()
}

/// Everything that a control plane is started with.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) root: Authority,
    pub(crate) intermediate: Intermediate,
    pub(crate) text: String,
    /// Seconds that its clock differs from ours.
    pub(crate) skew: Arc<AtomicI64>,
}

/// A control plane that serves.
pub(crate) struct Running {
    pub(crate) mesh: SocketAddr,
    pub(crate) bootstrap: SocketAddr,
    pub(crate) shell: Shell,
    task: JoinHandle<Result<(), StartError>>,
}

/// Somebody with an identity.
pub(crate) struct Caller {
    pub(crate) source: Arc<IdentitySource>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let now = OffsetDateTime::now_utc() - time::Duration::DAY;
        Self::below(Authority::generate(&domain(), now).unwrap())
    }

    /// A site whose root is `root`.
    pub(crate) fn below(root: Authority) -> Self {
        ringwall_tls::install_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let day_ago =
            (now - time::Duration::DAY).max(root.not_after() - time::Duration::days(3650));
        let issued = root.issue_intermediate(MONTH, day_ago).unwrap();
        let site = Self {
            text: config_text(folder.path()),
            intermediate: load(&issued, &root),
            folder,
            root,
            skew: Arc::default(),
        };
        std::fs::create_dir(site.path().join("secrets")).unwrap();
        site.secret("store-key", &"k".repeat(43));
        site.secret("postgres-password", ringwall_store::testing::PASSWORD);
        site.put_intermediate(&issued);
        let roots = site.path().join("roots.pem");
        private_file::write(&roots, site.root.cert_pem().as_bytes()).unwrap();
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn secret(&self, name: &str, value: &str) {
        let path = self.path().join("secrets").join(name);
        private_file::write(&path, value.as_bytes()).unwrap();
    }

    pub(crate) fn put_intermediate(&self, issued: &Issued) {
        self.secret("intermediate-cert", &issued.chain_pem);
        self.secret("intermediate-key", &issued.key_pem);
    }

    /// Another intermediate below the same root.
    pub(crate) fn next_intermediate(&self) -> Issued {
        let now = OffsetDateTime::now_utc();
        self.root.issue_intermediate(MONTH, now).unwrap()
    }

    /// Starts a control plane; what it keeps is there from the last one.
    pub(crate) async fn start(&self) -> Running {
        self.start_as("state").await
    }

    /// The same with a state directory of its own, as a replica.
    pub(crate) async fn start_as(&self, state: &str) -> Running {
        self.try_start_as(state).await.unwrap()
    }

    /// The same, where the start may be refused.
    pub(crate) async fn try_start_as(&self, state: &str) -> Result<Running, StartError> {
        let [listen, admin, bootstrap] = free_addresses();
        let mut text = self.text.clone();
        for (key, address) in [
            ("  listen:", listen),
            ("  admin:", admin),
            ("bootstrap:", bootstrap),
        ] {
            text = text.replace(&format!("{key} 127.0.0.1:0"), &format!("{key} {address}"));
        }
        let text = text
            .replace("/state\n", &format!("/{state}\n"))
            .replace("/state/", &format!("/{state}/"));
        let path = self.path().join(format!("{state}.yaml"));
        std::fs::write(&path, &text).unwrap();
        let config = parse(&text);
        config.service.validate("control-plane").unwrap();
        config.validate().unwrap();
        let secrets = Arc::new(SecretProvider::open(&config.service.secrets).unwrap());
        let file = ConfigFile::new(path, config.clone()).unwrap();
        let service = config.service.clone();
        let clock = self.clock();
        let begun = app::begin(&service, &secrets, config, file, clock()).unwrap();
        let shell = Shell::with_identity("control-plane", service, begun.identity()).unwrap();
        let app = Box::pin(app::assemble(shell.clone(), begun, clock)).await?;
        let task = tokio::spawn(ringwall_service::serve(shell.clone(), app));
        while tokio::net::TcpStream::connect(listen).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Running {
            mesh: listen,
            bootstrap,
            shell,
            task,
        })
    }

    fn clock(&self) -> Clock {
        let skew = Arc::clone(&self.skew);
        Arc::new(move || {
            OffsetDateTime::now_utc() + time::Duration::seconds(skew.load(Ordering::SeqCst))
        })
    }

    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        from_pem(self.root.cert_pem()).unwrap()
    }

    /// Somebody whom the intermediate has certified.
    pub(crate) fn caller(&self, path: &str) -> Caller {
        self.caller_since(path, OffsetDateTime::now_utc())
    }

    pub(crate) fn caller_since(&self, path: &str, at: OffsetDateTime) -> Caller {
        let issued = self.intermediate.issue_svid(&id(path), &[], HOUR, at);
        let (certified, key) = issued.unwrap();
        self.caller_with(&certified.chain, &key)
    }

    pub(crate) fn caller_with(&self, chain: &[CertificateDer<'static>], key: &[u8]) -> Caller {
        let material = IdentityMaterial {
            chain: chain.to_vec(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec())),
            bundle: self.roots(),
            crls: Vec::new(),
        };
        Caller {
            source: IdentitySource::from_material(material).unwrap(),
        }
    }

    /// A certificate of the intermediate with its key: for those who misuse one.
    pub(crate) fn certified(&self, path: &str, at: OffsetDateTime) -> (Certified, NewKey) {
        let new = NewKey::generate().unwrap();
        let request = Request::from_der(&new.request).unwrap();
        let certified = self
            .intermediate
            .certify_svid(&request, &id(path), &[], HOUR, at)
            .unwrap();
        (certified, new)
    }

    /// Whoever got `certificate` for the key `new`.
    pub(crate) fn holder(&self, certificate: &Certificate, new: &NewKey) -> Caller {
        let chain: Vec<_> = certificate
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        self.caller_with(&chain, &new.pkcs8)
    }

    /// A node that joins: its token, its first SVID.
    pub(crate) async fn join(&self, running: &Running, node: &str) -> Caller {
        let token = self.join_token(running, node).await;
        let new = NewKey::generate().unwrap();
        let certificate = self.join_with(running, &token, &new).await.unwrap();
        self.holder(&certificate, &new)
    }

    pub(crate) async fn join_token(&self, running: &Running, node: &str) -> String {
        let asked = CreateJoinTokenRequest {
            node: node.to_owned(),
            ttl_seconds: 0,
        };
        let mut operator = running.operator(&self.caller("ringwall"));
        let answer = operator.create_join_token(asked).await.unwrap();
        answer.into_inner().token
    }

    pub(crate) async fn join_with(
        &self,
        running: &Running,
        token: &str,
        new: &NewKey,
    ) -> Result<Certificate, Status> {
        let asked = JoinRequest {
            token: token.to_owned(),
            csr: new.request.clone(),
        };
        let answer = self.attestation(running).join(asked).await?;
        Ok(answer.into_inner())
    }

    pub(crate) fn attestation(&self, running: &Running) -> AttestationClient<Channel> {
        AttestationClient::new(self.stranger(running.bootstrap))
    }

    /// A channel without an identity.
    pub(crate) fn stranger(&self, address: SocketAddr) -> Channel {
        let bundle = self.path().join("roots.pem");
        let tls = join_client_config(&bundle, id("control-plane")).unwrap();
        channel(Address::Ip(address), tls)
    }
}

impl Running {
    pub(crate) fn channel(&self, caller: &Caller) -> Channel {
        let tls = mesh_grpc_client_config(&caller.source, id("control-plane")).unwrap();
        channel(Address::Ip(self.mesh), tls)
    }

    pub(crate) fn operator(&self, caller: &Caller) -> AuthorityClient<Channel> {
        AuthorityClient::new(self.channel(caller))
    }

    pub(crate) fn identity(&self, caller: &Caller) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel(caller))
    }

    pub(crate) async fn stop(self) {
        self.shell.begin_shutdown();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it as a crash would: nothing is said, nothing is given back.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

fn load(issued: &Issued, root: &Authority) -> Intermediate {
    let roots = from_pem(root.cert_pem()).unwrap();
    let now = OffsetDateTime::now_utc();
    Intermediate::load(&domain(), &issued.chain_pem, &issued.key_pem, &roots, now).unwrap()
}

fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    // All at once, so that they differ.
    let listeners: [_; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
