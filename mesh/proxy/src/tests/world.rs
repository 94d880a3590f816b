//! What every test starts: an authority, an application on loopback, and a proxy for it on free ports.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_policy::mesh::Bundle;
use ringwall_secret::private_file;
use ringwall_service::Shell;
use ringwall_service::config::parse_yaml;
use ringwall_tls::IdentitySource;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::app::TestApp;
use crate::app::{Running, shared};
use crate::config::Config;
use crate::control::State;
use crate::inbound::Users;
use crate::snapshot::{Revocations, Snapshot};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const TOKEN: &str = "tests-only-0123456789abcdef0123456789abcdef0";
/// What edges and policies call the ports; the sockets are free ones.
pub(super) const HTTP: u16 = 7105;
pub(super) const ADMIN: u16 = 7205;
pub(super) const HTTP2: u16 = 7305;
pub(super) const TCP: u16 = 5432;

pub(super) const POLICY: &str = r#"
@id("gateway-calls") permit (principal == Workload::"gateway", action, resource == Service::"orders")
unless { context.path like "/forbidden*" || context.path like "/customers*" };
@id("customers") permit (principal, action, resource == Service::"orders")
when { context.path like "/customers*" && context has user && context.user.roles.contains("customer") };
@id("operator") permit (principal == Workload::"ringwall", action in Action::"read", resource == Service::"orders")
when { context.port == 7205 };
@id("tenants") forbid (principal, action, resource)
when { context.headers has "x-tenant" && context.headers["x-tenant"] == "evil" };
@id("trial") forbid (principal, action, resource) when { context.path == "/trial" };
"#;

/// A running proxy with everything around it.
pub(super) struct World {
    pub(super) authority: Authority,
    pub(super) directory: TempDir,
    pub(super) shell: Shell,
    pub(super) config: Arc<Config>,
    /// Where it stands too, for those who read it again.
    pub(super) config_file: PathBuf,
    pub(super) state: Arc<State>,
    pub(super) running: Option<Running>,
    pub(super) app: TestApp,
}

/// Changes of the standard configuration, as text replacements.
pub(super) type Edit = (&'static str, &'static str);

impl World {
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A proxy that knows the standard policy.
    pub(super) async fn start_with(edits: &[Edit]) -> Self {
        let world = Self::ignorant(edits).await;
        world.publish(bundle());
        world
    }

    /// A proxy that knows the standard policy, and users by `users`.
    pub(super) async fn with_users(users: Users) -> Self {
        let world = Self::make(&[], Some(users)).await;
        world.publish(bundle());
        world
    }

    /// A proxy that nobody has told anything yet.
    pub(super) async fn ignorant(edits: &[Edit]) -> Self {
        Self::make(edits, None).await
    }

    async fn make(edits: &[Edit], users: Option<Users>) -> Self {
        ringwall_tls::install_crypto_provider();
        let directory = tempfile::tempdir().expect("directory");
        let root = directory.path();
        let authority = authority("ringwall.local");
        fs::create_dir(root.join("secrets")).expect("secrets");
        private_file::write(&root.join("secrets/loopback-token"), TOKEN.as_bytes())
            .expect("secret");
        let app = TestApp::start().await;
        identity(&authority, root, "orders", HOUR);
        let text = config_text(root, &app);
        let text = edits.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "no {from:?} in the configuration");
            text.replace(from, to)
        });
        let text = text.replace("APP_HTTP2", &app.http.to_string());
        let text = text.replace("ROOT_FOLDER", &root.display().to_string());
        let config_file = root.join("orders-proxy.yaml");
        fs::write(&config_file, &text).expect("configuration");
        let config: Config = parse_yaml(&text, &config_file).expect("parse");
        let shell = Shell::open("proxy", config.service.clone()).expect("shell");
        let config = Arc::new(config);
        let state = State::new();
        let mut shared = shared(&shell, &config, &state).expect("shared");
        shared.users = users;
        let running = Running::over(shared, ListenFd::empty()).expect("start");
        Self {
            authority,
            directory,
            shell,
            config,
            config_file,
            state,
            running: Some(running),
            app,
        }
    }

    /// Makes `bundle` the policy, keeping revocations.
    pub(super) fn publish(&self, bundle: Bundle) {
        let policy = bundle.check().expect("bundle");
        let before = self.state.snapshot.load();
        self.state.publish(Arc::new(Snapshot {
            revision: before.revision + 1,
            services: before.services.clone(),
            policy: Some(Arc::new(policy)),
            revocations: Arc::clone(&before.revocations),
        }));
    }

    /// Revokes the workload `name`.
    pub(super) fn revoke(&self, name: &str) {
        let before = self.state.snapshot.load();
        let mut revocations = Revocations::default();
        revocations.spiffe_ids.insert(id(name).to_string());
        self.state.publish(Arc::new(Snapshot {
            revision: before.revision + 1,
            services: before.services.clone(),
            policy: before.policy.clone(),
            revocations: Arc::new(revocations),
        }));
    }

    pub(super) fn running(&self) -> &Running {
        self.running.as_ref().expect("running")
    }

    fn address(&self, index: usize) -> SocketAddr {
        self.running().addresses[index]
    }

    /// The listener of the port that edges call `number`.
    pub(super) fn at(&self, number: u16) -> SocketAddr {
        match number {
            HTTP => self.address(0),
            ADMIN => self.address(1),
            HTTP2 => self.address(2),
            TCP => self.address(3),
            _ => panic!("no port {number}"),
        }
    }

    pub(super) fn hbone(&self) -> SocketAddr {
        *self.running().addresses.last().expect("hbone")
    }

    /// The identity of another workload.
    pub(super) fn source(&self, name: &str) -> Arc<IdentitySource> {
        self.source_for(name, HOUR)
    }

    pub(super) fn source_for(&self, name: &str, ttl: Duration) -> Arc<IdentitySource> {
        let directory = identity(&self.authority, self.directory.path(), name, ttl);
        IdentitySource::load(&directory).expect("identity")
    }

    /// The identity of `name` as an authority issues it whose clock says `now`.
    pub(super) fn source_issued(
        &self,
        name: &str,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Arc<IdentitySource> {
        let root = self.directory.path();
        let directory = identity_at(&self.authority, root, name, ttl, now);
        IdentitySource::load(&directory).expect("identity")
    }

    /// Handshakes that failed.
    pub(super) fn failures(&self) -> u64 {
        self.running().shared.metrics.handshake_failures.get()
    }

    pub(super) fn log_file(&self) -> std::path::PathBuf {
        self.directory.path().join("access.log")
    }

    /// Lines of the access log so far, once `enough` of them.
    pub(super) async fn log(&self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut lines = Vec::new();
        for _ in 0..100 {
            let text = fs::read_to_string(self.log_file()).unwrap_or_default();
            lines = text
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON line"))
                .collect();
            if enough(&lines) {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not in the log: {lines:#?}");
    }

    /// The first line of the log for which `is` holds.
    pub(super) async fn line(&self, is: impl Fn(&Value) -> bool) -> Value {
        let lines = self.log(|lines| lines.iter().any(&is)).await;
        lines.into_iter().find(|line| is(line)).expect("line")
    }
}

pub(super) fn authority(domain: &str) -> Authority {
    let domain = TrustDomain::parse(domain).expect("domain");
    Authority::generate(&domain, OffsetDateTime::now_utc() - HOUR).expect("authority")
}

pub(super) fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).expect("id")
}

/// Writes (or replaces) the identity of a workload and returns its directory.
pub(super) fn identity(
    authority: &Authority,
    root: &Path,
    name: &str,
    ttl: Duration,
) -> std::path::PathBuf {
    identity_at(authority, root, name, ttl, OffsetDateTime::now_utc())
}

fn identity_at(
    authority: &Authority,
    root: &Path,
    name: &str,
    ttl: Duration,
    now: OffsetDateTime,
) -> std::path::PathBuf {
    let domain = authority.trust_domain();
    let directory = root.join(format!("{domain}-{name}"));
    fs::create_dir_all(&directory).expect("identity");
    let id = SpiffeId::workload(domain, name).expect("id");
    let issued: Issued = authority.issue_svid(&id, &[], ttl, now).expect("svid");
    for (file, text) in [
        ("bundle.pem", authority.cert_pem()),
        ("svid.key", issued.key_pem.as_str()),
        ("svid.pem", issued.chain_pem.as_str()),
    ] {
        private_file::write(&directory.join(file), text.as_bytes()).expect("write");
    }
    directory
}

pub(super) fn bundle() -> Bundle {
    serde_json::from_value(json!({
        "edges": [
            { "caller": "gateway", "callee": "orders", "ports": [HTTP, HTTP2, TCP] },
            { "caller": "inventory", "callee": "orders", "ports": [HTTP] },
            { "caller": "ringwall", "callee": "orders", "ports": [ADMIN] },
        ],
        "policies": { "main.cedar": POLICY },
        "dry_run": ["trial"],
        "services": {
            "gateway": {}, "inventory": {}, "payments": {},
            "orders": { "ports": [HTTP, ADMIN, HTTP2, TCP] },
        },
    }))
    .expect("bundle")
}

fn config_text(root: &Path, app: &TestApp) -> String {
    let (http, tcp) = (app.http, app.tcp);
    let root = root.display();
    format!(
        r#"
service:
  name: orders-proxy
  workload: orders
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:0
  admin: 127.0.0.1:0
  identity: {root}/ringwall.local-orders
  drain: 5s
  upstreams: {{ control-plane: {{ address: "127.0.0.1:7110", identity: control-plane }} }}
  secrets: {{ provider: file, directory: {root}/secrets }}
inbound:
  - {{ listen: "127.0.0.1:0", app: "{http}", port: {HTTP} }}
  - {{ listen: "127.0.0.1:0", app: "{http}", port: {ADMIN} }}
  - {{ listen: "127.0.0.1:0", app: "APP_HTTP2", port: {HTTP2}, protocol: http2 }}
  - {{ listen: "127.0.0.1:0", app: "{tcp}", port: {TCP}, protocol: tcp }}
hbone: 127.0.0.1:0
loopback_token: loopback-token
access_log: {{ file: {root}/access.log }}
limits: {{ header_timeout: 10s }}
"#
    )
}
