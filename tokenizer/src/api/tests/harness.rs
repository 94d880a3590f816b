//! A tokenizer in this process, with everything around it under the test's control.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Form;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::post};
use http::{HeaderMap, Method, Request, StatusCode};
use ringwall_http_io::{Client, ClientLimits, body::collect};
use ringwall_identity::SpiffeId;
use ringwall_service::Peer;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::api::router;
use crate::audit::Audit;
use crate::config::Config;
use crate::store::TokenStore;
use crate::tokens::{Rules, Tokenizer};

pub(super) const MAX_OUTSTANDING: u32 = 16;
const START: i64 = 1_700_000_000;

/// Answers of the stand-in authorization server, and what it was asked.
#[derive(Default)]
struct Authz {
    status: StatusCode,
    answer: Value,
    asked: Vec<BTreeMap<String, String>>,
}

#[derive(Clone)]
pub(super) struct Harness {
    pub(super) tokenizer: Tokenizer,
    pub(super) audit: Audit,
    router: Router,
    authz: Arc<Mutex<Authz>>,
    authz_task: Arc<Mutex<Option<JoinHandle<()>>>>,
    client: Client,
    now: Arc<AtomicI64>,
    directory: Arc<TempDir>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) json: Value,
    headers: HeaderMap,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn slug(&self) -> &str {
        self.json["type"]
            .as_str()
            .unwrap()
            .strip_prefix("urn:ringwall:problem:")
            .unwrap()
    }

    pub(super) fn token(&self) -> String {
        self.json["access_token"].as_str().unwrap().to_owned()
    }
}

impl Harness {
    pub(super) async fn start() -> Self {
        let authz = Authz {
            status: StatusCode::OK,
            answer: active(),
            asked: Vec::new(),
        };
        let authz = Arc::new(Mutex::new(authz));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = authz_routes(Arc::clone(&authz));
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        // No idle connections: stopping the server must be seen by the next call.
        let limits = ClientLimits {
            max_idle: 0,
            request_timeout: Duration::from_secs(2),
            ..ClientLimits::default()
        };
        let client = Client::plain(address, limits);
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let now = Arc::new(AtomicI64::new(START));
        let audit = Audit::default();
        let tokenizer = tokenizer(directory.path(), &client, &now, &audit);
        Self {
            router: router(tokenizer.clone()),
            tokenizer,
            audit,
            authz,
            authz_task: Arc::new(Mutex::new(Some(task))),
            client,
            now,
            directory,
        }
    }

    /// The same files under a new process's worth of state.
    pub(super) fn restarted(self) -> Self {
        let Self {
            tokenizer: old,
            router: old_router,
            ..
        } = self;
        drop((old, old_router));
        let tokenizer = tokenizer(self.directory.path(), &self.client, &self.now, &self.audit);
        Self {
            router: router(tokenizer.clone()),
            tokenizer,
            audit: self.audit,
            authz: self.authz,
            authz_task: self.authz_task,
            client: self.client,
            now: self.now,
            directory: self.directory,
        }
    }

    pub(super) fn advance(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn authz_answers(&self, status: StatusCode, answer: &Value) {
        let mut authz = self.authz.lock().unwrap();
        authz.status = status;
        authz.answer = answer.clone();
    }

    pub(super) fn introspected(&self) -> Vec<BTreeMap<String, String>> {
        self.authz.lock().unwrap().asked.clone()
    }

    pub(super) async fn stop_authz(&self) {
        let task = self.authz_task.lock().unwrap().take().unwrap();
        task.abort();
        let _ = task.await;
    }

    pub(super) async fn issue(&self, peer: &str, form: &str) -> Answer {
        let kind = "application/x-www-form-urlencoded";
        self.call(peer, Method::POST, "/v1/source-tokens", Some((kind, form)))
            .await
    }

    pub(super) async fn issued_token(&self) -> String {
        let issued = self.issue("orders", &form(&[])).await;
        assert_eq!(issued.status, StatusCode::OK, "{issued:?}");
        issued.token()
    }

    pub(super) async fn redeem(&self, peer: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let body = Some(("application/json", body.as_str()));
        self.call(peer, Method::POST, "/v1/source-tokens/redeem", body)
            .await
    }

    pub(super) async fn revoke(&self, peer: &str, token: &str) -> Answer {
        let body = json!({ "token": token }).to_string();
        let body = Some(("application/json", body.as_str()));
        self.call(peer, Method::POST, "/v1/source-tokens/revoke", body)
            .await
    }

    pub(super) async fn call(
        &self,
        peer: &str,
        method: Method,
        path: &str,
        body: Option<(&str, &str)>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some((kind, _)) = body {
            request = request.header("content-type", kind);
        }
        let text = body.map_or("", |(_, text)| text).to_owned();
        let peer = SpiffeId::parse(&format!("spiffe://ringwall.local/{peer}")).unwrap();
        self.send(
            request
                .extension(Peer(peer))
                .body(Body::from(text))
                .unwrap(),
        )
        .await
    }

    pub(super) async fn call_anonymously(&self, method: Method, path: &str, body: &str) -> Answer {
        let kind = if body.starts_with('{') {
            "application/json"
        } else {
            "application/x-www-form-urlencoded"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind);
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = collect(body, 1 << 20).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            status: parts.status,
            json,
            headers: parts.headers,
        }
    }
}

fn tokenizer(directory: &Path, client: &Client, now: &Arc<AtomicI64>, audit: &Audit) -> Tokenizer {
    let now = Arc::clone(now);
    Tokenizer::new(
        Rules::new(&config()).unwrap(),
        TokenStore::open(&directory.join("tokens.db")).unwrap(),
        Arc::new(client.clone()),
        audit.clone(),
        Arc::new(move || OffsetDateTime::from_unix_timestamp(now.load(Ordering::SeqCst)).unwrap()),
    )
}

fn config() -> Config {
    let edge = json!({
        "caller": "orders",
        "audience": "payments",
        "method": "POST",
        "path": "/v1/payments",
        "scope": "orders:write",
    });
    serde_json::from_value(json!({
        "service": {
            "name": "tokenizer",
            "trust_domain": "ringwall.local",
            "listen": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "identity": "identity",
            "callers": ["orders", "payments"],
            "secrets": { "provider": "file", "directory": "secrets" },
        },
        "subject": {
            "issuer": "https://auth.localhost:8443",
            "audience": "https://api.localhost:8443",
        },
        "edges": [edge],
        "max_outstanding": MAX_OUTSTANDING,
    }))
    .unwrap()
}

fn authz_routes(authz: Arc<Mutex<Authz>>) -> Router {
    let introspect = move |Form(asked): Form<BTreeMap<String, String>>| async move {
        let mut authz = authz.lock().unwrap();
        authz.asked.push(asked);
        let answer: Response = (authz.status, axum::Json(authz.answer.clone())).into_response();
        answer
    };
    Router::new().route("/introspect", post(introspect))
}

/// What the authorization server says about a good token.
pub(super) fn active() -> Value {
    json!({
        "active": true,
        "iss": "https://auth.localhost:8443",
        "aud": "https://api.localhost:8443",
        "sub": "alice",
        "client_id": "spa-proxy",
        "scope": "openid orders:read orders:write",
        "token_type": "Bearer",
        "exp": START + 300,
        "iat": START,
    })
}

/// A good token request with some members changed.
pub(super) fn form(changes: &[(&str, &str)]) -> String {
    let digest = "A".repeat(43);
    let members = [
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("subject_token", "users-access-token"),
        (
            "subject_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        (
            "requested_token_type",
            "urn:ringwall:params:oauth:token-type:source-token",
        ),
        ("audience", "payments"),
        ("htm", "POST"),
        ("htu", "/v1/payments"),
        ("body_digest", &digest),
    ];
    let pairs = members.map(|(name, value)| {
        let changed = changes.iter().find(|(other, _)| *other == name);
        format!(
            "{name}={}",
            changed
                .map_or(value, |(_, value)| value)
                .replace(':', "%3A")
        )
    });
    pairs.join("&")
}

/// A good redemption of `token`.
pub(super) fn redemption(token: &str) -> Value {
    json!({
        "token": token,
        "caller": "spiffe://ringwall.local/orders",
        "htm": "POST",
        "htu": "/v1/payments",
        "body_digest": "A".repeat(43),
    })
}
