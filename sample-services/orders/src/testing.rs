//! What the tests of this crate stand on: a throw-away PostgreSQL and stand-ins for the neighbours.
//!
//! It must not hold tests. Read next: `place_order/tests.rs`.

mod neighbours;

use std::sync::Arc;

use ringwall_http_io::{Client, ClientLimits};
use ringwall_proto::WireToken;
use ringwall_proto::ids::{IdempotencyKey, Quantity, Sku, Subject};
use ringwall_proto::lines::{Line, Lines};
use ringwall_proto::orders::PlaceOrder;
use ringwall_secret::{SecretProvider, SecretsConfig, private_file};
use ringwall_service::Upstream;
use tokio::sync::Notify;

pub(crate) use self::neighbours::{Neighbours, PaymentMode};
use crate::credentials::Credentials;
use crate::draft::Placement;
use crate::inventory::Inventory;
use crate::metrics::OrderMetrics;
use crate::payments::Payments;
use crate::place_order::Shop;
use crate::store::OrderStore;
pub(crate) use ringwall_store::testing::Server;

/// A shop with a real database and stand-in neighbours.
pub(crate) struct Rig {
    pub(crate) shop: Shop,
    pub(crate) neighbours: Neighbours,
    pub(crate) state: tempfile::TempDir,
    _server: Arc<Server>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let server = Server::shared("orders");
        let store = OrderStore::new(server.database().await);
        store.migrate().await.unwrap();

        let neighbours = Neighbours::start().await;
        let upstream = |name: &str| {
            let client = Client::plain(neighbours.address, ClientLimits::default());
            Upstream::over(client, name)
        };
        let state = tempfile::tempdir().unwrap();
        for name in ["api-key-inventory", "api-key-payments"] {
            private_file::write(&state.path().join(name), b"rwk_test").unwrap();
        }
        let config = SecretsConfig::File {
            directory: state.path().to_owned(),
        };
        let secrets = Arc::new(SecretProvider::open(&config).unwrap());
        let shop = Shop {
            store,
            inventory: Inventory::new(upstream("inventory"), Arc::clone(&secrets)),
            credentials: Credentials::new(upstream("tokenizer"), upstream("authz-server")),
            payments: Payments::new(upstream("payments"), secrets),
            outbox: Arc::new(Notify::new()),
            metrics: OrderMetrics::default(),
        };
        Self {
            shop,
            neighbours,
            state,
            _server: server,
        }
    }
}

pub(crate) fn placement(user: &str, key: &str, lines: &[(&str, i64)]) -> Placement {
    let lines = lines.iter().map(|(sku, quantity)| Line {
        sku: Sku::parse(*sku).unwrap(),
        quantity: Quantity::new(*quantity).unwrap(),
    });
    Placement {
        user: Subject::parse(user).unwrap(),
        key: IdempotencyKey::parse(key).unwrap(),
        request: PlaceOrder {
            lines: Lines::new(lines.collect()).unwrap(),
        },
        trace_id: None,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

pub(crate) fn users_token() -> WireToken {
    WireToken::new("the-users-token").unwrap()
}
