//! The routes in-process: API keys, bodies and answers.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};
use ringwall_http_io::{Problem, body};
use ringwall_identity::SpiffeId;
use ringwall_proto::{headers, problems};
use ringwall_secret::{SecretBytes, SecretProvider, SecretString, SecretsConfig, private_file};
use ringwall_service::Peer;
use ringwall_service::api_keys::{ApiKeys, ApiKeysConfig};
use ringwall_store::{Database, StoreLimits};
use ringwall_token::api_key::{self, KeyId};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::catalogue::RANGE;
use crate::store::{self, Stock};

const PEPPER: &[u8] = b"a pepper of more than 32 bytes, for tests";

struct Rig {
    router: Router,
    all: SecretString,
    read_only: SecretString,
    _state: tempfile::TempDir,
}

fn workload(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}

impl Rig {
    async fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("inventory.db");
        let database = Database::open(path, store::MIGRATIONS, StoreLimits::default()).unwrap();
        let stock = Stock::new(database);
        stock.seed(&RANGE, None).await.unwrap();

        let new = |id| api_key::generate(&KeyId::parse(id).unwrap()).unwrap();
        let (all, read_only) = (new("all"), new("read"));
        let pepper = SecretBytes::new(PEPPER.to_vec());
        let entry = |id, key, scopes: &[&str]| {
            let hash = api_key::hash(&pepper, key);
            json!({ "id": id, "hash": hash, "caller": workload("orders"), "scopes": scopes })
        };
        let entries = json!([
            entry("all", &all, &["items:read", "stock:reserve"]),
            entry("read", &read_only, &["items:read"]),
        ]);
        let write = |name, content: &[u8]| {
            private_file::write(&state.path().join(name), content).unwrap();
        };
        write("api-key-entries", entries.to_string().as_bytes());
        write("api-key-pepper", PEPPER);
        let config = SecretsConfig::File {
            directory: state.path().to_owned(),
        };
        let secrets = Arc::new(SecretProvider::open(&config).unwrap());
        let keys = ApiKeys::open(secrets, ApiKeysConfig::default()).unwrap();
        Self {
            router: router(Inventory { keys, stock }),
            all,
            read_only,
            _state: state,
        }
    }

    async fn send(&self, peer: &str, key: Option<&str>, request: Request<Body>) -> Response<Body> {
        let mut request = request;
        if let Some(key) = key {
            request
                .headers_mut()
                .insert(headers::API_KEY, key.parse().unwrap());
        }
        request.extensions_mut().insert(Peer(workload(peer)));
        self.router.clone().oneshot(request).await.unwrap()
    }
}

fn get_items() -> Request<Body> {
    Request::get("/v1/items").body(Body::empty()).unwrap()
}

fn reserve(body: &Value) -> Request<Body> {
    Request::post("/v1/reservations")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn order(order_id: OrderId, sku: &str, quantity: i64) -> Value {
    json!({ "order_id": order_id, "lines": [{ "sku": sku, "quantity": quantity }] })
}

async fn json_of(response: Response<Body>) -> Value {
    let bytes = body::collect(response.into_body(), 64 * 1024)
        .await
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

async fn slug(response: Response<Body>) -> String {
    let problem: Problem = serde_json::from_value(json_of(response).await).unwrap();
    problem.slug().unwrap().to_owned()
}

#[tokio::test]
async fn the_catalogue_shows_what_the_shop_sells() {
    let rig = Rig::new().await;
    let response = rig
        .send("orders", Some(rig.read_only.expose()), get_items())
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let items = json_of(response).await;
    assert_eq!(items.as_array().unwrap().len(), RANGE.len());
    assert_eq!(items[0]["sku"], "mug-stoneware");
    assert_eq!(items[0]["price_minor"], 1850);
    assert_eq!(items[11]["available"], 0);
}

#[tokio::test]
async fn r20_every_route_needs_the_callers_own_key_with_its_scope() {
    let rig = Rig::new().await;
    let id = OrderId::generate();
    let requests: [fn(OrderId) -> Request<Body>; 3] = [
        |_| get_items(),
        |id| reserve(&order(id, "pen-brass", 1)),
        |id| {
            Request::delete(format!("/v1/reservations/{id}"))
                .body(Body::empty())
                .unwrap()
        },
    ];
    for request in requests {
        let without = rig.send("orders", None, request(id)).await;
        assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(slug(without).await, problems::API_KEY_MISSING);

        let stolen = rig
            .send("notifications", Some(rig.all.expose()), request(id))
            .await;
        assert_eq!(stolen.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(slug(stolen).await, problems::API_KEY_REFUSED);
    }
    for request in &requests[1..] {
        let scope = rig
            .send("orders", Some(rig.read_only.expose()), request(id))
            .await;
        assert_eq!(scope.status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn r40_a_broken_reservation_is_refused_but_only_to_those_who_may_ask() {
    let rig = Rig::new().await;
    let id = OrderId::generate();
    let twice = json!({ "order_id": id, "lines": [
        { "sku": "pen-brass", "quantity": 1 }, { "sku": "pen-brass", "quantity": 1 },
    ]});
    let broken = [
        order(id, "pen-brass", 0),
        order(id, "pen-brass", 100),
        order(id, "pen'; DROP TABLE items; --", 1),
        json!({ "order_id": "1", "lines": [{ "sku": "pen-brass", "quantity": 1 }] }),
        json!({ "order_id": id, "lines": [] }),
        json!({ "order_id": id, "lines": [{ "sku": "pen-brass", "quantity": 1, "price": 1 }] }),
        twice,
    ];
    for body in broken {
        let response = rig
            .send("orders", Some(rig.all.expose()), reserve(&body))
            .await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let stranger = rig.send("orders", None, reserve(&json!("x"))).await;
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn reserve_repeat_and_release_answer_as_the_contract_says() {
    let rig = Rig::new().await;
    let key = Some(rig.all.expose().as_str());
    let id = OrderId::generate();
    let first = rig
        .send("orders", key, reserve(&order(id, "clock-quiet", 3)))
        .await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let reservation = json_of(first).await;
    assert_eq!(reservation["total_minor"], 3 * 7200);

    let again = rig
        .send("orders", key, reserve(&order(id, "clock-quiet", 3)))
        .await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(json_of(again).await, reservation);

    let other = OrderId::generate();
    let sold_out = rig
        .send("orders", key, reserve(&order(other, "clock-quiet", 1)))
        .await;
    assert_eq!(sold_out.status(), StatusCode::CONFLICT);
    assert_eq!(slug(sold_out).await, problems::OUT_OF_STOCK);

    let delete = Request::delete(format!("/v1/reservations/{id}"))
        .body(Body::empty())
        .unwrap();
    assert_eq!(
        rig.send("orders", key, delete).await.status(),
        StatusCode::NO_CONTENT
    );
    let now = rig
        .send("orders", key, reserve(&order(other, "clock-quiet", 1)))
        .await;
    assert_eq!(now.status(), StatusCode::CREATED);

    let unknown = reserve(&order(OrderId::generate(), "gold", 1));
    let unknown = rig.send("orders", key, unknown).await;
    assert_eq!(unknown.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(slug(unknown).await, problems::UNKNOWN_ITEM);
}
