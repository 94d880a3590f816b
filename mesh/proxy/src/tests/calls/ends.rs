//! What lasts ends within a second when the right to it has ended, seen from the caller (R34).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::peers::read_some;
use super::super::world::{HTTP, HTTP2, TOKEN, bundle, id};
use super::{Pair, bundle_with_database};
use crate::snapshot::{Revocations, Snapshot};

const SECOND: Duration = Duration::from_secs(1);

/// Everything that can be open: opaque bytes through a tunnel and without, and a WebSocket.
struct Open {
    tunnel: TcpStream,
    websocket: TcpStream,
    direct: TcpStream,
    _database: TcpStream,
}

impl Open {
    async fn of(pair: &Pair) -> Self {
        let mut tunnel = TcpStream::connect(pair.tcp(0)).await.unwrap();
        let mut greeting = [0; 5];
        tunnel.read_exact(&mut greeting).await.unwrap();
        let mut websocket = pair.connect().await;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nx"
        );
        websocket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\nx") {
            assert!(read_some(&mut websocket, &mut head).await > 0);
        }
        let mut direct = TcpStream::connect(pair.tcp(1)).await.unwrap();
        let (mut database, _) = pair.database.accept().await.unwrap();
        database.write_all(b"ready").await.unwrap();
        direct.read_exact(&mut greeting).await.unwrap();
        Self {
            tunnel,
            websocket,
            direct,
            _database: database,
        }
    }
}

async fn is_over(connection: &mut TcpStream) -> bool {
    let mut rest = [0; 16];
    let read = tokio::time::timeout(SECOND, connection.read(&mut rest)).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

async fn is_open(connection: &mut TcpStream) -> bool {
    let mut rest = [0; 16];
    let read = connection.read(&mut rest);
    tokio::time::timeout(SECOND, read).await.is_err()
}

/// The caller's proxy alone is told, so that it is not the callee that ends anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_the_end_of_an_edge_ends_what_the_application_has_open() {
    let pair = Pair::start().await;
    let mut open = Open::of(&pair).await;
    let mut without = bundle_with_database();
    without
        .edges
        .retain(|edge| edge.caller != "gateway" || edge.callee != "orders");
    pair.publish(vec![pair.orders(), pair.database_service()], without);
    assert!(is_over(&mut open.tunnel).await);
    assert!(is_over(&mut open.websocket).await);
    assert!(is_open(&mut open.direct).await, "another edge");
    let mut without = bundle_with_database();
    without.edges.retain(|edge| edge.callee != "database");
    pair.publish(vec![pair.orders(), pair.database_service()], without);
    assert!(is_over(&mut open.direct).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_service_that_is_gone_ends_what_the_application_has_open() {
    let pair = Pair::start().await;
    let mut open = Open::of(&pair).await;
    pair.publish(Vec::new(), bundle_with_database());
    assert!(is_over(&mut open.tunnel).await);
    assert!(is_over(&mut open.websocket).await);
    assert!(is_over(&mut open.direct).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_revocation_of_the_callee_ends_what_the_application_has_open() {
    let pair = Pair::start().await;
    let mut open = Open::of(&pair).await;
    let before = pair.state.snapshot.load_full();
    let mut revocations = Revocations::default();
    revocations.spiffe_ids.insert(id("orders").to_string());
    pair.state.publish(Arc::new(Snapshot {
        revision: before.revision + 1,
        services: before.services.clone(),
        policy: before.policy.clone(),
        revocations: Arc::new(revocations),
    }));
    assert!(is_over(&mut open.tunnel).await);
    assert!(is_over(&mut open.websocket).await);
    assert!(
        is_open(&mut open.direct).await,
        "it has no certificate of the mesh"
    );
    let answer = pair.get("orders", "/v1/orders", "").await;
    assert_eq!(answer.status, 502, "{answer:?}");
}

/// The callee's proxy alone is told. Other edges keep the connection between the proxies alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_the_end_of_one_ports_edge_ends_its_tunnels_and_no_others() {
    let pair = Pair::start().await;
    let mut open = Open::of(&pair).await;
    let mut without = bundle();
    for edge in &mut without.edges {
        if edge.caller == "gateway" {
            edge.ports = vec![HTTP, HTTP2];
        }
    }
    pair.world.publish(without);
    assert!(is_over(&mut open.tunnel).await);
    open.websocket.write_all(b"y").await.unwrap();
    let mut echoed = [0; 1];
    open.websocket.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"y");
    assert_eq!(pair.get("orders", "/v1/orders", "").await.status, 200);
}
