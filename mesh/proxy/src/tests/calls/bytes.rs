//! Opaque bytes: tunnels and services without a proxy.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::world::{TCP, TOKEN};
use super::{Pair, bundle_with_database, egress};

const SOON: Duration = Duration::from_secs(10);

async fn said(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = timeout(SOON, stream.read_exact(&mut bytes)).await;
    read.expect("in time").expect("read");
    bytes
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut bytes)).await;
    read.expect("in time").expect("read");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_server_may_speak_first_and_each_side_may_end_alone() {
    let pair = Pair::start().await;
    let mut app = TcpStream::connect(pair.tcp(0)).await.unwrap();
    assert_eq!(said(&mut app, 5).await, b"hello", "before a byte of ours");
    app.write_all(b"query").await.unwrap();
    assert_eq!(said(&mut app, 5).await, b"QUERY");
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await, b"bye");
    let line = pair.line(|line| line["flow"] == "tcp").await;
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&5.into(), &13.into())
    );
    assert_eq!(line["callee"], "orders");
    assert_eq!(line["port"], TCP);
    assert!(line["refusal"].is_null() && line["end"].is_null(), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_bulk_bytes_pass_a_slow_reader_through_the_tunnel() {
    let pair = Pair::start().await;
    let app = TcpStream::connect(pair.tcp(0)).await.unwrap();
    let (mut reader, mut writer) = app.into_split();
    let bytes: Vec<u8> = (0..2 * 1024 * 1024usize)
        .map(|n| b'A' + (n % 23) as u8)
        .collect();
    let sent = bytes.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut seen = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let read = timeout(SOON, reader.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        if read == 0 {
            break;
        }
        seen.extend_from_slice(&buffer[..read]);
        if seen.len() < 512 * 1024 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    writing.await.unwrap();
    assert_eq!(seen.len(), bytes.len() + 8);
    assert_eq!(seen[5..5 + bytes.len()], bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_tunnel_may_be_asked_for_by_connect() {
    let pair = Pair::start().await;
    let mut app = pair.connect().await;
    let request = format!(
        "CONNECT orders:{TCP} HTTP/1.1\r\nHost: orders:{TCP}\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"
    );
    app.write_all(request.as_bytes()).await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\n";
    assert_eq!(said(&mut app, head.len()).await, head);
    let mut last = Vec::new();
    while !last.ends_with(b"\r\n\r\n") && !last.ends_with(b"hello") {
        last.push(app.read_u8().await.unwrap());
    }
    assert!(last.ends_with(b"\r\n\r\n"));
    assert!(!String::from_utf8_lossy(&last).contains("transfer-encoding"));
    assert_eq!(said(&mut app, 5).await, b"hello");
    app.write_all(b"\x16\x03\x01 no http").await.unwrap();
    assert_eq!(said(&mut app, 11).await, b"\x16\x03\x01 NO HTTP");
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await, b"bye");
    let line = pair.line(|line| line["method"] == "CONNECT").await;
    assert_eq!(line["flow"], "tcp");
    assert_eq!(line["bytes_in"], 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_a_tunnel_outside_is_the_egress_gateways() {
    let pair = Pair::start().await;
    let request = |to: &str| {
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n")
    };
    let outside = format!("api.example.com:{TCP}");
    assert_eq!(pair.send(&request(&outside)).await.status, 404);
    pair.publish(vec![egress(&pair)], bundle_with_database());
    // In the gateway's place stands an ordinary proxy, which goes by the port.
    let mut app = pair.connect().await;
    app.write_all(request(&outside).as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"hello") {
        head.push(timeout(SOON, app.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    // A peer that declines is an answer of its own.
    let declined = pair.send(&request("api.example.com:443")).await;
    assert_eq!(declined.status, 502);
    assert_eq!(pair.send(&request("api.example.com")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_service_without_a_proxy_is_dialled_as_it_is() {
    let pair = Pair::start().await;
    let mut app = TcpStream::connect(pair.tcp(1)).await.unwrap();
    let (mut database, _) = timeout(SOON, pair.database.accept())
        .await
        .unwrap()
        .unwrap();
    database.write_all(b"banner").await.unwrap();
    assert_eq!(said(&mut app, 6).await, b"banner");
    app.write_all(b"startup").await.unwrap();
    assert_eq!(said(&mut database, 7).await, b"startup");
    let bulk = vec![7; 3 * 1024 * 1024];
    let sent = bulk.clone();
    let sending = tokio::spawn(async move {
        app.write_all(&sent).await.unwrap();
        app.shutdown().await.unwrap();
        app
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rest(&mut database).await, bulk);
    let mut app = sending.await.unwrap();
    database.write_all(b"last").await.unwrap();
    drop(database);
    assert_eq!(rest(&mut app).await, b"last");
    let line = pair.line(|line| line["callee"] == "database").await;
    assert_eq!(line["bytes_in"], 7 + bulk.len());
    assert_eq!(line["bytes_out"], 10);
    assert!(line["end"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r50_opaque_bytes_need_an_edge_too() {
    let pair = Pair::start().await;
    let mut unknown = TcpStream::connect(pair.tcp(2)).await.unwrap();
    assert!(rest(&mut unknown).await.is_empty());
    let line = pair.line(|line| line["callee"] == "payments").await;
    assert_eq!(line["refusal"], "unknown-service");
    // The edge to the database is taken away.
    let database = pair.database_service();
    pair.publish(vec![pair.orders(), database], super::bundle());
    let mut denied = TcpStream::connect(pair.tcp(1)).await.unwrap();
    assert!(rest(&mut denied).await.is_empty());
    let line = pair.line(|line| line["callee"] == "database").await;
    assert_eq!(line["refusal"], "edge-not-declared");
    let nobody = timeout(Duration::from_millis(200), pair.database.accept()).await;
    assert!(nobody.is_err(), "nothing was dialled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r29_connections_beyond_the_limit_are_closed() {
    let pair = Pair::start_with(|orders| {
        // One for each of the two endpoints.
        orders.traffic.breaker.max_connections = 1;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut app = TcpStream::connect(pair.tcp(0)).await.unwrap();
        assert_eq!(said(&mut app, 5).await, b"hello");
        held.push(app);
    }
    let mut beyond = TcpStream::connect(pair.tcp(0)).await.unwrap();
    assert!(rest(&mut beyond).await.is_empty());
    let line = pair.line(|line| line["refusal"] == "max-connections").await;
    assert_eq!(line["flag"], "UO");
    drop(held);
    for _ in 0..100 {
        let mut app = TcpStream::connect(pair.tcp(0)).await.unwrap();
        let mut first = [0; 5];
        if app.read_exact(&mut first).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the places never came back");
}
