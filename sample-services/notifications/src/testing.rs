//! What the tests of this crate stand on: a producer whose topic they write.
//!
//! It must not hold tests. Read next: `consumer/tests.rs`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use ringwall_http_io::{Client, ClientLimits};
use ringwall_identity::SpiffeId;
use ringwall_proto::events::{CloudEvent, JWS_TYPE, OrderPlaced};
use ringwall_proto::ids::{Currency, EventId, MinorUnits, OrderId, Subject};
use ringwall_proto::orders::{CursorCommit, EventPage, EventsQuery, LoggedEvent};
use ringwall_service::Upstream;
use ringwall_store::{Database, StoreLimits};
use ringwall_token::{Algorithm, JwkSet, SigningKey};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{MIGRATIONS, NotificationStore};

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) jws: Vec<String>,
    pub(crate) committed: u64,
    pub(crate) keys_away: bool,
}

/// A stand-in for orders: its topic is a list, its offsets count from 1.
#[derive(Clone)]
pub(crate) struct Producer {
    pub(crate) key: SigningKey,
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Producer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let new = Self {
            key: SigningKey::generate(Algorithm::Es256).unwrap(),
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let router = Router::new()
            .route("/v1/topics/order.placed/events", get(events))
            .route("/v1/topics/order.placed/cursor", post(commit))
            .route("/.well-known/jwks.json", get(keys))
            .with_state(new.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        new
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream::over(
            Client::plain(self.address, ClientLimits::default()),
            "orders",
        )
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        work(&mut self.seen.lock().unwrap())
    }

    pub(crate) fn publish(&self, event: &CloudEvent<OrderPlaced>) {
        let jws = self.key.sign(JWS_TYPE, event).unwrap();
        self.with(|seen| seen.jws.push(jws));
    }
}

async fn events(State(on): State<Producer>, Query(query): Query<EventsQuery>) -> Json<EventPage> {
    let after = query.after.unwrap();
    let events = on.with(|seen| {
        (1_u64..)
            .zip(&seen.jws)
            .filter(|(offset, _)| *offset > after)
            .map(|(offset, jws)| LoggedEvent {
                offset,
                jws: jws.clone(),
            })
            .collect()
    });
    Json(EventPage { events })
}

async fn commit(State(on): State<Producer>, Json(commit): Json<CursorCommit>) -> StatusCode {
    on.with(|seen| seen.committed = commit.offset);
    StatusCode::NO_CONTENT
}

async fn keys(State(on): State<Producer>) -> Response {
    if on.with(|seen| seen.keys_away) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    Json(JwkSet {
        keys: vec![on.key.public_jwk()],
    })
    .into_response()
}

pub(crate) fn orders() -> SpiffeId {
    SpiffeId::parse("spiffe://ringwall.local/orders").unwrap()
}

pub(crate) fn user(name: &str) -> Subject {
    Subject::parse(name).unwrap()
}

pub(crate) fn event_for(name: &str) -> CloudEvent<OrderPlaced> {
    let data = OrderPlaced {
        order_id: OrderId::generate(),
        user_sub: user(name),
        total_minor: MinorUnits::new(1850).unwrap(),
        currency: Currency::EUR,
        lines: Vec::new(),
    };
    CloudEvent::order_placed(
        EventId(Uuid::now_v7()),
        orders(),
        OffsetDateTime::now_utc(),
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        data,
    )
}

pub(crate) fn store(directory: &tempfile::TempDir) -> NotificationStore {
    let path = directory.path().join("notifications.db");
    NotificationStore::new(Database::open(path, MIGRATIONS, StoreLimits::default()).unwrap())
}
