//! A stand-in for the authorization server, one for the API, and a browser with a cookie jar.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Form, Json, Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use parking_lot::Mutex;
use ringwall_http_io::{Client, ClientLimits, body};
use ringwall_identity::SpiffeId;
use ringwall_proto::{WireToken, session::SessionUser};
use ringwall_service::{Peer, Upstream};
use ringwall_token::{Algorithm, SigningKey};
use serde_json::{Value, json};
use tower::ServiceExt;
use url::Url;

use crate::{
    app::{self, Ringwall},
    assets::Assets,
    config::Config,
    random,
    sessions::{SignedIn, Tokens},
};

pub(crate) const ISSUER: &str = "https://auth.localhost:8443";
pub(crate) const ORIGIN: &str = "https://app.localhost:8443";
const API: &str = "https://api.localhost:8443";

/// What somebody who signed in without a browser would have.
pub(crate) fn signed_in(sub: &str) -> SignedIn {
    SignedIn {
        user: SessionUser {
            sub: sub.into(),
            name: sub.into(),
            roles: vec!["customer".into()],
        },
        sid: Some(format!("sid-of-{sub}")),
        tokens: Tokens {
            access: WireToken::new(format!("access-of-{sub}")).unwrap(),
            access_expires: SystemTime::now() + Duration::from_secs(300),
            refresh: Some(WireToken::new(format!("refresh-of-{sub}")).unwrap()),
            id_token: WireToken::new("an-id-token").unwrap(),
            retry_after: None,
        },
    }
}

/// The authorization server's memory, and what tests change about it.
#[derive(Default)]
pub(crate) struct AuthorityState {
    pushed: HashMap<String, HashMap<String, String>>,
    codes: HashMap<String, HashMap<String, String>>,
    /// Access token → its subject.
    pub(crate) active: HashMap<String, String>,
    pub(crate) refresh_tokens: HashSet<String>,
    pub(crate) refreshes: usize,
    pub(crate) introspections: usize,
    pub(crate) revoked: Vec<String>,
    pub(crate) ended: Vec<String>,
    /// Answers of `/token` to a refresh take this long.
    pub(crate) refresh_delay: Duration,
    /// Status that `/token` answers to a refresh, instead of tokens.
    pub(crate) refresh_status: Option<StatusCode>,
    /// Seconds that access tokens live.
    pub(crate) expires_in: Option<u64>,
    /// Replaces claims of ID tokens.
    pub(crate) id_claims: Value,
}

pub(crate) struct FakeAuthority {
    pub(crate) keys: SigningKey,
    pub(crate) state: Mutex<AuthorityState>,
}

/// What the API was asked.
#[derive(Default)]
pub(crate) struct FakeApi {
    pub(crate) seen: Mutex<Vec<(Method, String, HeaderMap, Bytes)>>,
    pub(crate) status: Mutex<Option<StatusCode>>,
}

pub(crate) struct Platform {
    pub(crate) app: Arc<Ringwall>,
    pub(crate) router: Router,
    pub(crate) authority: Arc<FakeAuthority>,
    pub(crate) api: Arc<FakeApi>,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let authority = Arc::new(FakeAuthority {
            keys: SigningKey::generate(Algorithm::Es256).unwrap(),
            state: Mutex::default(),
        });
        let address = serve(authority_router(Arc::clone(&authority))).await;
        Self::with_authority_at(authority, address).await
    }

    /// Nobody listens where the authorization server should be.
    pub(crate) async fn without_authority() -> Self {
        let authority = Arc::new(FakeAuthority {
            keys: SigningKey::generate(Algorithm::Es256).unwrap(),
            state: Mutex::default(),
        });
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        Self::with_authority_at(authority, closed).await
    }

    async fn with_authority_at(authority: Arc<FakeAuthority>, address: SocketAddr) -> Self {
        let api = Arc::new(FakeApi::default());
        let api_address = serve(api_router(Arc::clone(&api))).await;
        let bundle = tempfile::tempdir().unwrap();
        std::fs::create_dir(bundle.path().join("assets")).unwrap();
        std::fs::write(bundle.path().join("index.html"), "<!doctype html>page").unwrap();
        std::fs::write(bundle.path().join("assets/app-1.js"), "let a = 1").unwrap();
        let upstream = |name, address: SocketAddr| {
            Upstream::over(Client::plain(address, ClientLimits::default()), name)
        };
        let app = Arc::new(Ringwall::new(
            &config(),
            upstream("authz-server", address),
            upstream("gateway", api_address),
            Assets::load(bundle.path()).unwrap(),
        ));
        Self {
            router: app::router(Arc::clone(&app)),
            app,
            authority,
            api,
        }
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser {
            router: self.router.clone(),
            cookies: BTreeMap::new(),
        }
    }

    /// A browser with a session whose token the authorization server knows.
    pub(crate) async fn signed_in(&self) -> Browser {
        let mut browser = self.browser();
        let answer = self.sign_in(&mut browser, "alice").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
        assert!(
            browser.cookies.contains_key(crate::cookies::SESSION),
            "{:?}",
            answer.headers
        );
        browser
    }

    /// All of the way: login, the person's consent, callback.
    pub(crate) async fn sign_in(&self, browser: &mut Browser, sub: &str) -> Answer {
        let start = browser.get("/auth/login").await;
        let callback = self.approve(start.location(), sub);
        browser.get(&callback).await
    }

    /// What the authorization server does when somebody signs in and agrees: the path that the
    /// browser is sent back to.
    pub(crate) fn approve(&self, authorize_url: &str, sub: &str) -> String {
        let url = Url::parse(authorize_url).unwrap();
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(
            query.len(),
            2,
            "only client_id and request_uri are in the URL: {url}"
        );
        let mut state = self.authority.state.lock();
        let mut request = state.pushed.remove(&query["request_uri"]).unwrap();
        request.insert("sub".into(), sub.into());
        let code = random::token();
        let back = format!(
            "/auth/callback?code={code}&state={}&iss={ISSUER}",
            request["state"]
        );
        state.codes.insert(code, request);
        back
    }
}

pub(crate) fn config() -> Config {
    serde_json::from_value(json!({
        "service": {
            "name": "spa-proxy", "trust_domain": "ringwall.local", "profile": "demo",
            "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "identity": "/nonexistent",
            "callers": ["gateway"], "admin_callers": ["ringwall"], "upstreams": {},
            "secrets": { "provider": "file", "directory": "/nonexistent" },
        },
        "public_origin": ORIGIN,
        "issuer": ISSUER,
        "api": { "url": API, "address": "127.0.0.1:1", "roots": "/nonexistent" },
        "assets": "/nonexistent",
    }))
    .unwrap()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn authority_router(authority: Arc<FakeAuthority>) -> Router {
    Router::new()
        .route("/par", post(pushed))
        .route("/token", post(token))
        .route("/introspect", post(introspect))
        .route("/revoke", post(revoke))
        .route("/logout", post(end_session))
        .route("/jwks", get(jwks))
        .with_state(authority)
}

type Fake = State<Arc<FakeAuthority>>;
type Fields = Form<HashMap<String, String>>;

async fn pushed(State(fake): Fake, Form(form): Fields) -> Response {
    let uri = format!("urn:ietf:params:oauth:request_uri:{}", random::token());
    fake.state.lock().pushed.insert(uri.clone(), form);
    (
        StatusCode::CREATED,
        Json(json!({ "request_uri": uri, "expires_in": 60 })),
    )
        .into_response()
}

async fn token(State(fake): Fake, Form(form): Fields) -> Response {
    let delay = fake.state.lock().refresh_delay;
    if form["grant_type"] == "refresh_token" {
        tokio::time::sleep(delay).await;
    }
    let mut state = fake.state.lock();
    let refused = || StatusCode::BAD_REQUEST.into_response();
    let (sub, nonce) = if form["grant_type"] == "refresh_token" {
        state.refreshes += 1;
        if let Some(status) = state.refresh_status {
            return status.into_response();
        }
        if !state.refresh_tokens.remove(&form["refresh_token"]) {
            return refused();
        }
        (
            form["refresh_token"].split('.').next().unwrap().to_owned(),
            None,
        )
    } else {
        let Some(request) = state.codes.remove(&form["code"]) else {
            return refused();
        };
        if random::sha256_base64url(&form["code_verifier"]) != request["code_challenge"]
            || request["code_challenge_method"] != "S256"
            || form["redirect_uri"] != request["redirect_uri"]
        {
            return refused();
        }
        (request["sub"].clone(), Some(request["nonce"].clone()))
    };
    let access = random::token();
    let refresh = format!("{sub}.{}", random::token());
    state.active.insert(access.clone(), sub.clone());
    state.refresh_tokens.insert(refresh.clone());
    let id_token = nonce.map(|nonce| id_token(&fake.keys, &sub, &nonce, &state.id_claims));
    Json(json!({
        "access_token": access, "token_type": "Bearer", "expires_in": state.expires_in.unwrap_or(300),
        "refresh_token": refresh, "id_token": id_token,
    }))
    .into_response()
}

fn id_token(keys: &SigningKey, sub: &str, nonce: &str, replace: &Value) -> String {
    let mut claims = json!({
        "iss": ISSUER, "sub": sub, "aud": "spa-proxy", "iat": now(), "exp": now() + 300,
        "nonce": nonce, "sid": format!("sid-of-{sub}"), "name": "Alice", "roles": ["customer"],
    });
    for (name, value) in replace.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    keys.sign("JWT", &claims).unwrap()
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

async fn introspect(State(fake): Fake, Form(form): Fields) -> Response {
    let mut state = fake.state.lock();
    state.introspections += 1;
    Json(match state.active.get(&form["token"]) {
        Some(sub) => {
            json!({ "active": true, "sub": sub, "client_id": "spa-proxy", "aud": API, "iss": ISSUER })
        }
        None => json!({ "active": false }),
    })
    .into_response()
}

async fn revoke(State(fake): Fake, Form(form): Fields) -> StatusCode {
    fake.state.lock().revoked.push(form["token"].clone());
    StatusCode::OK
}

/// A page, as the authorization server answers where it cannot know whether a person reads it.
async fn end_session(State(fake): Fake, Form(form): Fields) -> &'static str {
    fake.state.lock().ended.push(form["id_token_hint"].clone());
    "<!doctype html>You are signed out"
}

async fn jwks(State(fake): Fake) -> Response {
    Json(json!({ "keys": [fake.keys.public_jwk()] })).into_response()
}

fn api_router(api: Arc<FakeApi>) -> Router {
    Router::new()
        .route("/v1/notifications/stream", get(stream))
        .fallback(any(record))
        .with_state(api)
}

async fn record(State(api): State<Arc<FakeApi>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = body::collect(body, 1 << 20).await.unwrap();
    let target = parts.uri.path_and_query().unwrap().to_string();
    api.seen
        .lock()
        .push((parts.method, target, parts.headers, bytes));
    let status = api.status.lock().unwrap_or(StatusCode::OK);
    let headers = [
        ("set-cookie", "planted=1"),
        ("x-internal", "secret"),
        ("retry-after", "7"),
    ];
    (status, headers, Json(json!({ "orders": [] }))).into_response()
}

/// One event, and then silence for ever.
async fn stream() -> Response {
    let first = futures_util::stream::iter([Ok::<_, std::io::Error>("event: order.confirmed\n\n")]);
    let rest = futures_util::stream::pending();
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// One answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Keeps cookies and says what browsers say.
pub(crate) struct Browser {
    router: Router,
    pub(crate) cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Body::empty()).unwrap())
            .await
    }

    /// As the page does it: with the CSRF header, from our origin.
    pub(crate) async fn post(&mut self, path: &str, json: &Value) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header("x-ringwall-csrf", "1")
            .header("origin", ORIGIN)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/json");
        self.send(request.body(Body::from(json.to_string())).unwrap())
            .await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let pairs = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let cookies = pairs.collect::<Vec<_>>().join("; ");
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .extension(peer("gateway"));
        if cookies.is_empty() {
            builder
        } else {
            builder.header(header::COOKIE, cookies)
        }
    }

    /// The head of the answer; its body still streams.
    pub(crate) async fn open(&mut self, request: Request) -> Response {
        let response = self.router.clone().oneshot(request).await.unwrap();
        for field in response.headers().get_all(header::SET_COOKIE) {
            let text = field.to_str().unwrap();
            let (name, rest) = text.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if text.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        response
    }

    pub(crate) async fn send(&mut self, request: Request) -> Answer {
        let (parts, body) = self.open(request).await.into_parts();
        let body = body::collect(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
}

pub(crate) fn peer(workload: &str) -> Peer {
    Peer(SpiffeId::parse(&format!("spiffe://ringwall.local/{workload}")).unwrap())
}
