//! The server under test and the flows against it.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use http::Request;
use ringwall_identity::SpiffeId;
use ringwall_secret::{SealKey, SecretProvider};
use ringwall_service::Peer;
use ringwall_token::{Algorithm, SigningKey};
use serde_json::{Value, json};

use super::browser::{Browser, Reply, send};
use crate::app;
use crate::clock::{Clock, UnixTime};
use crate::config::Config;
use crate::config::clients::ClientDeclaration;
use crate::random::base64url_sha256;
use crate::server::Server;

pub(crate) const ISSUER: &str = "https://auth.localhost:8443";
pub(crate) const API: &str = "https://api.localhost:8443";
pub(crate) const CALLBACK: &str = "https://app.localhost:8443/auth/callback";
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const PASSWORD: &str = "a long and lovely password";
const START: i64 = 1_800_000_000;

/// A server, its clock and its directory.
pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    pub(crate) router: Router,
    pub(crate) config: Config,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) client_key: SigningKey,
    time: Arc<AtomicI64>,
}

/// Tokens of a user, as a client holds them.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) id: String,
}

impl Tokens {
    pub(crate) fn of(reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Self {
            access: text("access_token"),
            refresh: text("refresh_token"),
            id: text("id_token"),
        }
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client_key = SigningKey::generate(Algorithm::Es256).unwrap();
        let pem = client_key.to_pkcs8_pem();
        // The registered key has the client's id as its kid, as the demo seeds it.
        let client_key = SigningKey::from_pkcs8_pem("demo-jwt", Algorithm::Es256, &pem).unwrap();
        write_secrets(directory.path(), pem.expose());
        let mut config = config(directory.path());
        change(&mut config);
        let time = Arc::new(AtomicI64::new(START));
        let server = Self::open(&config, directory.path(), &time).await;
        let router = app::router(Arc::clone(&server));
        Self {
            server,
            router,
            config,
            directory,
            client_key,
            time,
        }
    }

    /// The same directory, as after a restart of the process.
    pub(crate) async fn restart(&mut self) {
        self.server = Self::open(&self.config, self.directory.path(), &self.time).await;
        self.router = app::router(Arc::clone(&self.server));
    }

    async fn open(config: &Config, directory: &Path, time: &Arc<AtomicI64>) -> Arc<Server> {
        let secrets = Arc::new(SecretProvider::open(&config.service.secrets).unwrap());
        let time = Arc::clone(time);
        let clock =
            Clock::from_fn(move || UnixTime::from_seconds(time.load(Ordering::SeqCst)).to_system());
        app::build(config, directory, secrets, clock).await.unwrap()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.time
            .fetch_add(i64::try_from(by.as_secs()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.time.load(Ordering::SeqCst)).unwrap()
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.router.clone())
    }

    /// A form from a workload.
    pub(crate) async fn post(&self, peer: &str, path: &str, parts: &[(&str, &str)]) -> Reply {
        self.post_with(peer, path, &[], parts).await
    }

    pub(crate) async fn post_with(
        &self,
        peer: &str,
        path: &str,
        headers: &[(&str, &str)],
        parts: &[(&str, &str)],
    ) -> Reply {
        let mut request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .extension(workload(peer));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&self.router, request.body(form(parts).into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::get(path).extension(workload("gateway"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&self.router, request.body(Default::default()).unwrap()).await
    }

    /// Signs a user in at the SPA's client and returns the browser and the redirect with the code.
    pub(crate) async fn code(&self, user: &str, scope: &str) -> (Browser, HashMap<String, String>) {
        let mut browser = self.browser();
        let query = self.code_in(&mut browser, user, &[("scope", scope)]).await;
        (browser, query)
    }

    /// The code flow of the SPA in a given browser, through sign-in if it is asked for.
    pub(crate) async fn code_in(
        &self,
        browser: &mut Browser,
        user: &str,
        extra: &[(&str, &str)],
    ) -> HashMap<String, String> {
        let reply = browser.get(&authorize_path(extra)).await;
        let reply = self.sign_in(browser, reply, user).await;
        query_of(
            &reply
                .location()
                .unwrap_or_else(|| panic!("no redirect: {}", reply.text())),
        )
    }

    /// Follows redirects of the server and fills the sign-in form when it appears.
    pub(crate) async fn sign_in(&self, browser: &mut Browser, reply: Reply, user: &str) -> Reply {
        let page = browser.follow(reply).await;
        if page.status != 200 || !page.text().contains("name=\"password\"") {
            return page;
        }
        let credentials = [("username", user), ("password", PASSWORD)];
        let reply = browser.submit(&page, "/login", &credentials).await;
        browser.follow(reply).await
    }

    /// The tokens of a user at the SPA's client.
    pub(crate) async fn tokens(&self, user: &str, scope: &str) -> Tokens {
        let (_, query) = self.code(user, scope).await;
        Tokens::of(&self.redeem(&query["code"]).await)
    }

    pub(crate) async fn redeem(&self, code: &str) -> Reply {
        self.redeem_with(code, &[]).await
    }

    /// Redeems a code as the SPA; `changes` replace parameters, an empty value removes one.
    pub(crate) async fn redeem_with(&self, code: &str, changes: &[(&str, &str)]) -> Reply {
        let mut parts = vec![
            ("grant_type", "authorization_code"),
            ("client_id", "spa-proxy"),
            ("code", code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        replace(&mut parts, changes);
        self.post("spa-proxy", "/token", &parts).await
    }

    pub(crate) async fn refresh(&self, token: &str) -> Reply {
        let parts = [
            ("grant_type", "refresh_token"),
            ("client_id", "spa-proxy"),
            ("refresh_token", token),
        ];
        self.post("spa-proxy", "/token", &parts).await
    }

    /// What the payments service learns of a token for payments, and everybody else's audience
    /// from the gateway's client, which may ask about any.
    pub(crate) async fn introspect(&self, token: &str) -> Value {
        let basic = basic("gateway", SECRET);
        let reply = self
            .post_with(
                "gateway",
                "/introspect",
                &[("authorization", &basic)],
                &[("token", token)],
            )
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    pub(crate) async fn is_active(&self, token: &str) -> bool {
        self.introspect(token).await["active"] == json!(true)
    }

    pub(crate) async fn client_token(&self, client: &str, extra: &[(&str, &str)]) -> Reply {
        let mut parts = vec![
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_secret", SECRET),
        ];
        replace(&mut parts, extra);
        self.post("gateway", "/token", &parts).await
    }

    pub(crate) async fn exchange(&self, token: &str, changes: &[(&str, &str)]) -> Reply {
        let mut parts = vec![
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("client_id", "orders"),
            ("subject_token", token),
            (
                "subject_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            ),
            ("audience", "payments"),
        ];
        replace(&mut parts, changes);
        self.post("orders", "/token", &parts).await
    }
}

pub(crate) fn basic(id: &str, secret: &str) -> String {
    use base64::Engine as _;
    let joined = format!("{id}:{secret}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(joined)
    )
}

pub(crate) fn workload(name: &str) -> Peer {
    Peer(SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap())
}

pub(crate) fn challenge() -> String {
    base64url_sha256(VERIFIER)
}

/// The SPA's authorization request; `changes` replace parameters, an empty value removes one.
pub(crate) fn authorize_path(changes: &[(&str, &str)]) -> String {
    let challenge = challenge();
    let mut parts = vec![
        ("response_type", "code"),
        ("client_id", "spa-proxy"),
        ("redirect_uri", CALLBACK),
        ("scope", "openid profile orders:read orders:write"),
        ("state", "af0ifjsldkj"),
        ("nonce", "n-0S6_WzA2Mj"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    replace(&mut parts, changes);
    format!("/authorize?{}", form(&parts))
}

fn replace<'a>(parts: &mut Vec<(&'a str, &'a str)>, changes: &[(&'a str, &'a str)]) {
    for (name, value) in changes {
        parts.retain(|(known, _)| known != name);
        if !value.is_empty() {
            parts.push((*name, *value));
        }
    }
}

pub(crate) fn form(parts: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parts)
        .finish()
}

pub(crate) fn query_of(location: &str) -> HashMap<String, String> {
    let (_, query) = location.split_once('?').unwrap_or((location, ""));
    url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

/// A client with nothing but an id, to be changed by the test.
pub(crate) fn client_declaration(
    id: &str,
    change: impl FnOnce(&mut ClientDeclaration),
) -> ClientDeclaration {
    let mut client =
        serde_json::from_value(json!({ "id": id, "name": id, "authentication": ["none"] }))
            .unwrap();
    change(&mut client);
    client
}

fn write_secrets(directory: &Path, client_key: &str) {
    let secrets = directory.join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    let seal = SealKey::generate().unwrap().to_hex().expose().clone();
    let clients = ["gateway", "demo-cli", "demo-partner", "demo-second"];
    let users = ["alice", "mallory", "outsider"];
    let named = clients
        .map(|c| (format!("client-{c}-secret"), SECRET.to_owned()))
        .into_iter()
        .chain(users.map(|u| (format!("demo-password-{u}"), PASSWORD.to_owned())))
        .chain([
            ("client-demo-jwt-key".to_owned(), client_key.to_owned()),
            ("seal-key".to_owned(), seal),
        ]);
    for (name, value) in named {
        let path = secrets.join(name);
        std::fs::write(&path, value).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn config(directory: &Path) -> Config {
    let secrets = directory.join("secrets");
    let service = json!({
        "name": "authz-server",
        "trust_domain": "ringwall.local",
        "profile": "demo",
        "listen": "127.0.0.1:7101",
        "admin": "127.0.0.1:7201",
        "identity": directory,
        "callers": ["gateway"],
        "admin_callers": ["ringwall"],
        "secrets": { "provider": "file", "directory": secrets },
        "state": directory,
    });
    let user = |name: &str, group: &str| {
        json!({ "username": name, "name": name, "email": format!("{name}@example.org"),
                "groups": [group] })
    };
    serde_json::from_value(json!({
        "service": service,
        "issuer": ISSUER,
        "ingress": "gateway",
        "audiences": [API, "payments"],
        "keys": { "seal_key_file": secrets.join("seal-key") },
        "groups": [
            { "name": "customers", "roles": ["customer"], "audiences": [API, "payments"] },
            { "name": "guests", "audiences": [API] },
            { "name": "nobody" },
        ],
        "clients": platform_clients(),
        "demo": {
            "users": [user("alice", "customers"), user("mallory", "guests"),
                      user("outsider", "nobody")],
            "clients": demo_clients(),
        },
    }))
    .unwrap()
}

/// A valid configuration for tests that start nothing.
pub(crate) fn example_config() -> Config {
    config(Path::new("/nonexistent"))
}

fn spiffe(name: &str) -> String {
    format!("spiffe://ringwall.local/{name}")
}

fn platform_clients() -> Value {
    json!([
        {
            "id": "spa-proxy", "name": "Ringwall Shop", "authentication": ["tls_client_auth"],
            "tls_client_auth_san_uri": spiffe("spa-proxy"),
            "grants": ["authorization_code", "refresh_token"],
            "redirect_uris": [CALLBACK],
            "post_logout_redirect_uris": ["https://app.localhost:8443/"],
            "backchannel_logout": { "upstream": "spa-proxy", "path": "/auth/backchannel-logout" },
            "scopes": ["openid", "profile", "email", "offline_access", "orders:read",
                       "orders:write", "notifications:read"],
            "audiences": [API], "consent": "skip", "introspect": { "audiences": [API] },
        },
        {
            "id": "orders", "name": "Orders", "authentication": ["tls_client_auth"],
            "tls_client_auth_san_uri": spiffe("orders"),
            "grants": ["urn:ietf:params:oauth:grant-type:token-exchange"],
            "exchange": { "subject_audiences": [API], "audiences": ["payments"] },
        },
        {
            "id": "payments", "name": "Payments", "authentication": ["tls_client_auth"],
            "tls_client_auth_san_uri": spiffe("payments"),
            "introspect": { "audiences": ["payments"] },
        },
        {
            "id": "gateway", "name": "Gateway", "authentication": ["client_secret_basic"],
            "introspect": "any",
        },
    ])
}

fn demo_clients() -> Value {
    json!([
        {
            "id": "demo-cli", "name": "Demo CLI",
            "authentication": ["client_secret_basic", "client_secret_post"],
            "grants": ["client_credentials"], "scopes": ["orders:read"], "audiences": [API],
        },
        {
            "id": "demo-partner", "name": "Demo partner",
            "authentication": ["client_secret_post"], "access_tokens": "reference",
            "grants": ["client_credentials"], "scopes": ["orders:read"], "audiences": [API],
        },
        {
            "id": "demo-native", "name": "Demo native app", "authentication": ["none"],
            "native": true, "grants": ["authorization_code", "refresh_token"],
            "redirect_uris": ["http://127.0.0.1/callback"],
            "scopes": ["openid", "profile", "orders:read"], "audiences": [API],
        },
        {
            "id": "demo-second", "name": "Second shop", "authentication": ["client_secret_post"],
            "grants": ["authorization_code", "refresh_token"],
            "redirect_uris": ["https://second.example/callback"],
            "scopes": ["openid", "profile", "email", "orders:read"], "audiences": [API],
        },
        {
            "id": "demo-jwt", "name": "Demo with a key", "authentication": ["private_key_jwt"],
            "key_secret": "client-demo-jwt-key",
            "grants": ["client_credentials"], "scopes": ["orders:read"], "audiences": [API],
        },
    ])
}
