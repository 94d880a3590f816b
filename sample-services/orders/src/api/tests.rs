//! The routes of users in-process, with user contexts signed as the gateway signs them.

use std::time::SystemTime;

use axum::Extension;
use axum::body::Body;
use http::Request;
use ringwall_http_io::{Problem, body};
use ringwall_identity::SpiffeId;
use ringwall_proto::problems;
use ringwall_service::{Peer, UserContextVerifier};
use ringwall_token::claims::UserContext;
use ringwall_token::{Algorithm, JwkSet, JwksCache, SigningKey};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::testing::Rig;

struct Front {
    router: Router,
    gateway: SigningKey,
    rig: Rig,
}

fn workload(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}

impl Front {
    async fn new() -> Self {
        let rig = Rig::new().await;
        let gateway = SigningKey::generate(Algorithm::Es256).unwrap();
        let keys = JwksCache::fixed(JwkSet {
            keys: vec![gateway.public_jwk()],
        });
        let users = UserContextVerifier::new(keys, workload("gateway"), workload("orders"));
        let router = router(rig.shop.clone()).layer(Extension(users));
        Self {
            router,
            gateway,
            rig,
        }
    }

    fn context(&self, name: &str) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let context = UserContext {
            iss: workload("gateway"),
            aud: workload("orders"),
            sub: name.to_owned(),
            client_id: "spa-proxy".to_owned(),
            roles: Vec::new(),
            scope: "orders:write".to_owned(),
            trace_id: None,
            iat: now,
            exp: now + 60,
            jti: "1".to_owned(),
        };
        self.gateway.sign(UserContext::TYP, &context).unwrap()
    }

    async fn send(&self, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(Peer(workload("gateway")));
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, name: &str, path: &str) -> Response {
        let request = Request::get(path).header(headers::USER_CONTEXT, self.context(name));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn place(&self, key: &str, body: &Value) -> Response {
        let request = Request::post("/v1/orders")
            .header(headers::USER_CONTEXT, self.context("alice"))
            .header("authorization", "Bearer the-users-token")
            .header("idempotency-key", key)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()));
        self.send(request.unwrap()).await
    }
}

async fn json_of(response: Response) -> Value {
    let bytes = body::collect(response.into_body(), 64 * 1024)
        .await
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

async fn slug(response: Response) -> String {
    let problem: Problem = serde_json::from_value(json_of(response).await).unwrap();
    problem.slug().unwrap().to_owned()
}

fn mugs(quantity: i64) -> Value {
    json!({ "lines": [{ "sku": "mug-stoneware", "quantity": quantity }] })
}

#[tokio::test]
async fn an_order_is_placed_repeated_listed_and_private() {
    let front = Front::new().await;
    let first = front.place("k1", &mugs(2)).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let location = first.headers()["location"].to_str().unwrap().to_owned();
    let order = json_of(first).await;
    assert_eq!(order["status"], "placed");
    assert_eq!(order["total_minor"], 3700);

    let again = front.place("k1", &mugs(2)).await;
    assert_eq!(again.status(), StatusCode::CREATED);
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(json_of(again).await["id"], order["id"]);
    let reused = front.place("k1", &mugs(3)).await;
    assert_eq!(reused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(slug(reused).await, problems::IDEMPOTENCY_KEY_REUSED);

    assert_eq!(json_of(front.get("alice", &location).await).await, order);
    assert_eq!(
        front.get("bob", &location).await.status(),
        StatusCode::NOT_FOUND
    );
    front.place("k2", &mugs(1)).await;
    let page = json_of(front.get("alice", "/v1/orders?limit=1").await).await;
    assert_eq!(page["orders"].as_array().unwrap().len(), 1);
    let before = page["next_before"].as_str().unwrap();
    let rest = front
        .get("alice", &format!("/v1/orders?limit=1&before={before}"))
        .await;
    let rest = json_of(rest).await;
    assert_eq!(rest["orders"][0]["id"], order["id"]);
    assert!(rest.get("next_before").is_none());
    assert_eq!(
        json_of(front.get("bob", "/v1/orders").await).await["orders"],
        json!([])
    );
}

#[tokio::test]
async fn r67_what_the_client_would_not_send_is_refused_all_the_same() {
    let front = Front::new().await;
    let line = json!({ "sku": "mug-stoneware", "quantity": 1 });
    let broken = [
        mugs(0),
        mugs(100),
        mugs(-1),
        json!({ "lines": [] }),
        json!({ "lines": vec![line.clone(); 21] }),
        json!({ "lines": [line, line] }),
        json!({ "lines": [{ "sku": "a'; DROP TABLE orders; --", "quantity": 1 }] }),
        json!({ "lines": [{ "sku": "mug-stoneware", "quantity": "1" }] }),
        json!({ "lines": [{ "sku": "mug-stoneware", "quantity": 1, "price_minor": 1 }] }),
        json!({ "lines": [line], "user_sub": "bob" }),
        json!([]),
    ];
    for body in broken {
        let response = front.place("k1", &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let unknown = json!({ "lines": [{ "sku": "gold", "quantity": 1 }] });
    let unknown = front.place("k1", &unknown).await;
    assert_eq!(unknown.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(slug(unknown).await, problems::UNKNOWN_ITEM);
    for path in [
        "/v1/orders?limit=0",
        "/v1/orders?limit=101",
        "/v1/orders?x=1",
        "/v1/orders/1",
    ] {
        assert_eq!(
            front.get("alice", path).await.status(),
            StatusCode::BAD_REQUEST,
            "{path}"
        );
    }
    front
        .rig
        .neighbours
        .with(|seen| assert_eq!(seen.attempts, 0));
}

#[tokio::test]
async fn r40_key_token_and_user_must_all_be_there() {
    let front = Front::new().await;
    let context = front.context("alice");
    let all = [
        (
            headers::USER_CONTEXT,
            context.as_str(),
            problems::USER_CONTEXT_MISSING,
        ),
        (
            headers::IDEMPOTENCY_KEY,
            "k1",
            problems::IDEMPOTENCY_KEY_MISSING,
        ),
        ("authorization", "Bearer t", problems::ACCESS_TOKEN_MISSING),
    ];
    for (missing, _, expected) in all {
        let mut request = Request::post("/v1/orders").header("content-type", "application/json");
        for (name, value, _) in all {
            if name != missing {
                request = request.header(name, value);
            }
        }
        let response = front
            .send(request.body(Body::from(mugs(1).to_string())).unwrap())
            .await;
        assert!(response.status().is_client_error());
        assert_eq!(slug(response).await, expected);
    }
    let long = "k".repeat(65);
    assert_eq!(
        slug(front.place(&long, &mugs(1)).await).await,
        problems::IDEMPOTENCY_KEY_MISSING
    );
}

#[tokio::test]
async fn r61_refusals_say_what_is_away() {
    let front = Front::new().await;
    front.place("k0", &mugs(1)).await;
    front.rig.neighbours.with(|seen| seen.inventory_away = true);
    for response in [
        front.get("alice", "/v1/catalogue").await,
        front.place("k1", &mugs(1)).await,
    ] {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(slug(response).await, problems::INVENTORY_UNAVAILABLE);
    }
    let history = json_of(front.get("alice", "/v1/orders").await).await;
    assert_eq!(history["orders"].as_array().unwrap().len(), 1);
}
