//! What every test starts: a certificate authority, mock upstreams, and a gateway on free ports.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_service::Shell;
use ringwall_service::config::parse_yaml;
use ringwall_tls::{PeerPolicy, edge_client_config};
use ringwall_token::claims::AccessToken;
use ringwall_token::{Algorithm, KeyRing};
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::upstreams::{self, Issuer, Upstream};
use crate::app::Running;
use crate::config::Config;

pub(super) const ISSUER: &str = "https://auth.localhost:8443";
pub(super) const AUDIENCE: &str = "https://api.localhost:8443";
const HOUR: Duration = Duration::from_secs(3600);

/// A running gateway with everything around it.
pub(super) struct World {
    pub(super) running: Option<Running>,
    pub(super) shell: Shell,
    pub(super) config_file: PathBuf,
    pub(super) orders: Upstream,
    pub(super) issuer: Issuer,
    pub(super) directory: TempDir,
    pub(super) log_file: PathBuf,
}

/// Changes of the standard configuration, as text replacements.
pub(super) type Edit = (&'static str, &'static str);

impl World {
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(super) async fn start_with(edits: &[Edit]) -> Self {
        Self::start_where(edits, HOUR).await
    }

    /// The certificate of orders ends when `left` has passed.
    pub(super) async fn start_where(edits: &[Edit], left: Duration) -> Self {
        ringwall_tls::install_crypto_provider();
        let directory = tempfile::tempdir().expect("directory");
        let root = directory.path();
        let domain = TrustDomain::parse("ringwall.local").expect("domain");
        let authority = Authority::generate(&domain, OffsetDateTime::now_utc()).expect("authority");
        for (name, left) in [("gateway", HOUR), ("orders", left), ("authz-server", HOUR)] {
            identity(&authority, &domain, root, name, left);
        }
        edge(&authority, root);
        fs::create_dir(root.join("secrets")).expect("secrets");
        private(&root.join("secrets/oauth-client-secret"), "s:cret");
        let gateway = SpiffeId::workload(&domain, "gateway").expect("id");
        let callers = PeerPolicy::AnyOf(vec![gateway]);
        let orders = upstreams::api(&root.join("orders"), callers.clone()).await;
        let keys = KeyRing::generate(Algorithm::Es256).expect("keys");
        let issuer = upstreams::issuer(&root.join("authz-server"), callers, keys).await;
        let log_file = root.join("access.log");
        let text = config_text(root, &orders.address, &issuer.address);
        let text = edits.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "no {from:?} in the configuration");
            text.replace(from, to)
        });
        let config_file = root.join("gateway.yaml");
        fs::write(&config_file, &text).expect("config");
        let config: Config = parse_yaml(&text, &config_file).expect("parse");
        let shell = Shell::open("gateway", config.service.clone()).expect("shell");
        let running = Running::start(&shell, &config).await.expect("start");
        Self {
            running: Some(running),
            shell,
            config_file,
            orders,
            issuer,
            directory,
            log_file,
        }
    }

    pub(super) fn running(&self) -> &Running {
        self.running.as_ref().expect("running")
    }

    /// Replaces the roots that the gateway trusts; returns those of before.
    pub(super) fn trust(&self, roots: &str) -> String {
        let bundle = self.directory.path().join("gateway/bundle.pem");
        let before = fs::read_to_string(&bundle).expect("bundle");
        let next = bundle.with_extension("next");
        fs::write(&next, roots).expect("bundle");
        fs::rename(&next, &bundle).expect("bundle");
        let identity = self.shell.identity().expect("identity");
        assert!(identity.reload().expect("a good identity"));
        before
    }

    /// The TLS listener.
    pub(super) fn tls_address(&self) -> SocketAddr {
        self.running().addresses[0]
    }

    /// The plaintext listener.
    pub(super) fn plain_address(&self) -> SocketAddr {
        self.running().addresses[1]
    }

    /// An access token of the issuer.
    pub(super) fn token(&self, change: impl FnOnce(&mut AccessToken)) -> String {
        let mut claims = claims();
        change(&mut claims);
        self.issuer
            .state
            .keys
            .lock()
            .sign(AccessToken::TYP, &claims)
            .expect("sign")
    }

    /// A TLS connection that names `sni` and offers `alpn`.
    pub(super) async fn tls(
        &self,
        sni: &str,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = edge_client_config(&self.directory.path().join("root.pem")).expect("roots");
        let mut config = (*config).clone();
        config.alpn_protocols = vec![alpn.to_vec()];
        let name =
            tokio_rustls::rustls::pki_types::ServerName::try_from(sni.to_owned()).expect("name");
        let socket = TcpStream::connect(self.tls_address()).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
    }

    /// Sends `request` over a new TLS connection to `api.localhost`.
    pub(super) async fn send(&self, request: &str) -> Answer {
        let stream = self.tls("api.localhost", b"http/1.1").await.expect("TLS");
        exchange(stream, request.as_bytes()).await
    }

    /// Sends `request` over a new plaintext connection.
    pub(super) async fn send_plain(&self, request: &[u8]) -> Answer {
        let stream = TcpStream::connect(self.plain_address())
            .await
            .expect("connect");
        exchange(stream, request).await
    }

    /// `GET path` with a bearer token.
    pub(super) async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: api.localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    pub(super) fn upstream_requests(&self) -> usize {
        self.orders
            .requests
            .load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Drains the gateway and returns its access log.
    pub(super) async fn finish(&mut self) -> Vec<Value> {
        if let Some(running) = self.running.take() {
            running.drain(Duration::from_secs(5)).await;
        }
        fs::read_to_string(&self.log_file)
            .expect("log")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON line"))
            .collect()
    }
}

pub(super) fn claims() -> AccessToken {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("clock")
        .as_secs();
    AccessToken {
        iss: ISSUER.to_owned(),
        sub: "alice".to_owned(),
        aud: AUDIENCE.to_owned(),
        exp: now + 300,
        iat: now,
        jti: "1".to_owned(),
        client_id: "spa-proxy".to_owned(),
        scope: "orders:read orders:write".to_owned(),
        roles: vec!["customer".to_owned()],
        acr: None,
        auth_time: None,
        act: None,
        sid: None,
    }
}

fn identity(authority: &Authority, domain: &TrustDomain, root: &Path, name: &str, left: Duration) {
    let directory = root.join(name);
    fs::create_dir(&directory).expect("identity");
    let id = SpiffeId::workload(domain, name).expect("id");
    let issued = authority
        .issue_svid(&id, &[], left, OffsetDateTime::now_utc())
        .expect("svid");
    write(&directory, "svid", &issued);
    fs::write(directory.join("bundle.pem"), authority.cert_pem()).expect("bundle");
}

fn edge(authority: &Authority, root: &Path) {
    let hosts = ["api.localhost", "app.localhost"].map(str::to_owned);
    let issued = authority
        .issue_server(&hosts, &[], HOUR, OffsetDateTime::now_utc())
        .expect("edge");
    write(root, "edge", &issued);
    fs::write(root.join("root.pem"), authority.cert_pem()).expect("root");
}

fn write(directory: &Path, stem: &str, issued: &Issued) {
    private(&directory.join(format!("{stem}.key")), &issued.key_pem);
    fs::write(directory.join(format!("{stem}.pem")), &issued.chain_pem).expect("chain");
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode");
}

fn config_text(root: &Path, orders: &SocketAddr, issuer: &SocketAddr) -> String {
    let root = root.display();
    format!(
        r#"
service:
  name: gateway
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:0
  admin: 127.0.0.1:0
  identity: {root}/gateway
  upstreams:
    orders: {{ address: "{orders}", identity: orders }}
    authz-server: {{ address: "{issuer}", identity: authz-server }}
  secrets: {{ provider: file, directory: {root}/secrets }}
workers: 2
listeners:
  - addresses: ["127.0.0.1:0"]
    tls: {{ certificates: [{{ hosts: [api.localhost, app.localhost], chain: {root}/edge.pem, key: {root}/edge.key }}] }}
  - addresses: ["127.0.0.1:0"]
    plaintext: true
connections: {{ header_timeout: 10s }}
access_log: {{ file: {root}/access.log }}
tokens: {{ issuer: "{ISSUER}", upstream: authz-server }}
actions: {{ list: read, change: write, open: read }}
policies:
  everybody: |
    @id("everybody") permit (principal, action == Action::"open", resource);
  customers: |
    @id("customers") permit (principal is User, action, resource) when {{ principal.roles.contains("customer") }};
    @id("readers") permit (principal is Client, action == Action::"list", resource) when {{ principal.scopes.contains("orders:read") }};
clusters:
  orders: {{ upstream: orders }}
hosts:
  - host: api.localhost
    routes:
      - {{ id: read, match: {{ prefix: /v1/orders, methods: [GET] }}, auth: bearer, audience: "{AUDIENCE}", scopes: ["orders:read"], action: list, policy: customers, cluster: orders }}
      - {{ id: place, match: {{ path: /v1/orders, methods: [POST] }}, auth: bearer, audience: "{AUDIENCE}", action: change, policy: customers, forward_access_token: true, cluster: orders }}
      - {{ id: other-audience, match: {{ path: /v1/other, methods: [GET] }}, auth: bearer, audience: "https://other", action: list, policy: customers, cluster: orders }}
      - {{ id: limited, match: {{ path: /v1/limited, methods: [GET] }}, auth: bearer, audience: "{AUDIENCE}", action: list, policy: customers, limits: [{{ per: user, rate: 1, period: 1h, burst: 5 }}], cluster: orders }}
      - {{ id: open, match: {{ prefix: /open, methods: [GET, HEAD, POST, PUT] }}, auth: none, action: open, policy: everybody, max_body: 100000000, cluster: orders }}
      - {{ id: small, match: {{ path: /small, methods: [POST] }}, auth: none, action: open, policy: everybody, max_body: 10, cluster: orders }}
      - {{ id: special, match: {{ path: "/{{name}}", methods: [GET] }}, auth: none, action: open, policy: everybody, timeout: 1s, cluster: orders }}
      - {{ id: socket, match: {{ path: /ws, methods: [GET] }}, auth: none, action: open, policy: everybody, websocket: true, cluster: orders }}
  - host: app.localhost
    routes:
      - {{ id: app, match: {{ prefix: /, methods: [GET] }}, auth: none, action: open, policy: everybody, cluster: orders }}
"#
    )
}

/// One HTTP/1.1 response, read from the wire.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
    /// The gateway closed the connection after it.
    pub(super) closed: bool,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header as the upstream saw it.
    pub(super) fn seen(&self, name: &str) -> Option<String> {
        let headers = self.json()["headers"].as_array().expect("headers").clone();
        headers
            .iter()
            .find(|pair| pair[0].as_str() == Some(name))
            .and_then(|pair| pair[1].as_str().map(str::to_owned))
    }
}

/// Writes `request` and reads one response, then whether the connection ends.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: &[u8],
) -> Answer {
    // The gateway may refuse and close before it has read everything.
    let _sent = stream.write_all(request).await;
    read_answer(&mut stream).await
}

pub(super) async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Answer {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end;
        }
        if read_some(stream, &mut bytes).await == 0 {
            return Answer {
                status: 0,
                head: String::new(),
                body: String::new(),
                closed: true,
            };
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let mut answer = Answer {
        status,
        head,
        body: String::new(),
        closed: false,
    };
    let body = &bytes[head_end + 4..];
    let mut body = body.to_vec();
    if let Some(length) = answer
        .field("content-length")
        .and_then(|text| text.parse::<usize>().ok())
    {
        while body.len() < length && read_some(stream, &mut body).await > 0 {}
    } else if answer.field("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") && read_some(stream, &mut body).await > 0 {}
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    let mut rest = [0; 1];
    let wait = Duration::from_millis(500);
    answer.closed = matches!(
        tokio::time::timeout(wait, stream.read(&mut rest)).await,
        Ok(Ok(0) | Err(_))
    );
    answer
}

pub(super) async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let wait = Duration::from_secs(20);
    match tokio::time::timeout(wait, stream.read(&mut buffer)).await {
        Ok(Ok(read)) => {
            into.extend_from_slice(&buffer[..read]);
            read
        }
        _ => 0,
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}
