//! A small mesh for the tests of this crate: real certificates, real sockets on loopback.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ringwall_http_io::{Client, ClientLimits};
use ringwall_identity::{SpiffeId, TrustDomain, authority::Authority};
use ringwall_secret::private_file;
use ringwall_tls::{IdentitySource, mesh_client_config};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{App, ServiceConfig, Shell, StartError, config::parse_yaml, serve::serve_on};

const HOUR: Duration = Duration::from_secs(3600);

/// One trust domain with its authority and the directories of its workloads.
pub(crate) struct Mesh {
    authority: Authority,
    directory: TempDir,
}

/// A component that serves.
pub(crate) struct Running {
    pub(crate) shell: Shell,
    pub(crate) mesh: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) task: JoinHandle<Result<(), StartError>>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        ringwall_tls::install_crypto_provider();
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let authority = Authority::generate(&domain, OffsetDateTime::now_utc()).unwrap();
        Self {
            authority,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A shell of `name` whose callers are `callers`; `extra` adds lines to its `service` section.
    pub(crate) fn shell(&self, name: &'static str, callers: &[&str], extra: &str) -> Shell {
        let identity = format!("identity: {}\n{extra}", self.identity(name).display());
        let config = self.config_behind_a_proxy(name, callers, &identity);
        Shell::open(name, config).unwrap()
    }

    /// As [`Self::shell`], without certificates: `extra` says which proxy has them.
    pub(crate) fn shell_behind_a_proxy(
        &self,
        name: &'static str,
        callers: &[&str],
        extra: &str,
    ) -> Shell {
        Shell::open(name, self.config_behind_a_proxy(name, callers, extra)).unwrap()
    }

    pub(crate) fn config_behind_a_proxy(
        &self,
        name: &str,
        callers: &[&str],
        extra: &str,
    ) -> ServiceConfig {
        let secrets = self.secrets();
        let text = format!(
            "name: {name}\ntrust_domain: ringwall.local\nprofile: demo\nlisten: 127.0.0.1:0\n\
             admin: 127.0.0.1:0\ncallers: [{}]\n\
             secrets: {{ provider: file, directory: {} }}\n{extra}",
            callers.join(", "),
            secrets.display(),
        );
        let config: ServiceConfig = parse_yaml(&text, Path::new("test.yaml")).unwrap();
        config.validate(name).unwrap();
        config
    }

    /// A secret of every component of this mesh.
    pub(crate) fn secret(&self, name: &str, value: &str) {
        private_file::write(&self.secrets().join(name), value.as_bytes()).unwrap();
    }

    fn secrets(&self) -> std::path::PathBuf {
        let secrets = self.directory.path().join("secrets");
        std::fs::create_dir_all(&secrets).unwrap();
        secrets
    }

    /// A client that has the identity of `from` and expects the identity of `to`.
    pub(crate) fn client(&self, from: &str, to: &str, address: SocketAddr) -> Client {
        let tls = self.client_tls(from, to);
        Client::mesh(address, tls, ClientLimits::default())
    }

    pub(crate) fn client_tls(&self, from: &str, to: &str) -> Arc<rustls::ClientConfig> {
        let source = IdentitySource::load(&self.identity(from)).unwrap();
        mesh_client_config(&source, id(to)).unwrap()
    }

    fn identity(&self, name: &str) -> std::path::PathBuf {
        self.identity_for(name, HOUR)
    }

    /// The identity of `name`; where it has none yet, its certificate ends in `life`.
    pub(crate) fn identity_for(&self, name: &str, life: Duration) -> std::path::PathBuf {
        let directory = self.directory.path().join(name);
        if !directory.exists() {
            std::fs::create_dir(&directory).unwrap();
            let now = OffsetDateTime::now_utc();
            let issued = self
                .authority
                .issue_svid(&id(name), &[], life, now)
                .unwrap();
            let files = [
                ("bundle.pem", self.authority.cert_pem()),
                ("svid.key", issued.key_pem.as_str()),
                ("svid.pem", issued.chain_pem.as_str()),
            ];
            for (file, text) in files {
                private_file::write(&directory.join(file), text.as_bytes()).unwrap();
            }
        }
        directory
    }
}

impl Running {
    /// Serves `app` on free ports.
    pub(crate) async fn start(shell: Shell, app: App) -> Self {
        let mesh = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mesh_address, admin_address) =
            (mesh.local_addr().unwrap(), admin.local_addr().unwrap());
        let task = tokio::spawn(serve_on(shell.clone(), app, Some(mesh), admin));
        Self {
            shell,
            mesh: mesh_address,
            admin: admin_address,
            task,
        }
    }

    /// Asks it to stop and waits for the end.
    pub(crate) async fn stop(self) -> Result<(), StartError> {
        self.shell.begin_shutdown();
        self.task.await.unwrap()
    }
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}
