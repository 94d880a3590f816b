//! Plugins in streams of opaque bytes.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::calls::Pair;
use super::super::peers::{connect_request, http2, read2, tls};
use super::super::world::{Edit, TCP, TOKEN, World};
use super::guests::{HEADERS, Modules, marker, on_bytes};
use super::outbound::on_the_way;

const SOON: Duration = Duration::from_secs(10);
const DATA: &str = "stream_data: write, local_response: true";

fn before_tcp(modules: &Modules, capabilities: &str) -> [Edit; 2] {
    let key = format!("{}\nhbone:", modules.key(capabilities));
    [
        ("protocol: tcp }", "protocol: tcp, filters: [p] }"),
        ("hbone:", key.leak()),
    ]
}

/// `>` before what comes from either side.
fn framer() -> String {
    format!("{}{}", on_bytes("downstream"), on_bytes("upstream"))
}

/// Ends the connection at the first byte from downstream.
fn closer() -> String {
    r#"(func (export "proxy_on_downstream_data") (param i32) (param $size i32) (param i32) (result i32)
        (if (local.get $size) (then (drop (call $close (i32.const 2))))) (i32.const 0))"#
        .to_owned()
}

fn trap_at_connect() -> String {
    r#"(func (export "proxy_on_new_connection") (param i32) (result i32) (unreachable))"#.to_owned()
}

async fn said<S: tokio::io::AsyncRead + Unpin>(stream: &mut S, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = timeout(SOON, stream.read_exact(&mut bytes)).await;
    read.expect("in time").expect("read");
    bytes
}

/// What comes until the stream ends, in whatever way.
async fn rest<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut bytes)).await;
    let _error = ended.expect("in time");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_bytes_before_the_application_pass_its_plugins() {
    let modules = Modules::one(framer());
    let world = World::start_with(&before_tcp(&modules, DATA)).await;
    let mut peer = tls(&world.source("gateway"), world.at(TCP)).await.unwrap();
    assert_eq!(said(&mut peer, 6).await, b">hello");
    peer.write_all(b"query").await.unwrap();
    assert_eq!(said(&mut peer, 7).await, b">>QUERY");
    peer.shutdown().await.unwrap();
    assert_eq!(rest(&mut peer).await, b">bye");
    let line = world.line(|line| line["flow"] == "tcp").await;
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&5.into(), &14.into())
    );
    // The same in a tunnel.
    let mut outer = http2(&world.source("gateway"), world.hbone()).await;
    let request = connect_request(&format!("orders:{TCP}"));
    let (response, mut send) = outer.sender.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(b"query"), true).unwrap();
    let answer = read2(response.await.unwrap()).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(
        text.starts_with(">hello") && text.contains(">QUERY") && text.ends_with("bye"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_plugin_s_end_of_bytes_before_the_application_is_recorded() {
    for (guest, why) in [
        (closer(), "filter-closed"),
        (trap_at_connect(), "filter-failed"),
    ] {
        let modules = Modules::one(guest);
        let world = World::start_with(&before_tcp(&modules, DATA)).await;
        let mut peer = tls(&world.source("gateway"), world.at(TCP)).await.unwrap();
        let _sent = peer.write_all(b"query").await;
        assert!(!rest(&mut peer).await.ends_with(b"QUERY"), "{why}");
        let line = world.line(|line| line["flow"] == "tcp").await;
        assert_eq!(line["refusal"], why, "{line}");
        // A tunnel ends in the same way.
        let mut outer = http2(&world.source("gateway"), world.hbone()).await;
        let request = connect_request(&format!("orders:{TCP}"));
        let (response, mut send) = outer.sender.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"query"), false).unwrap();
        let response = timeout(SOON, response).await.expect("in time").unwrap();
        if response.status() == 200 {
            let mut body = response.into_body();
            while let Some(Ok(data)) = timeout(SOON, body.data()).await.expect("in time") {
                assert!(!data.ends_with(b"QUERY"));
            }
        } else {
            assert_eq!(response.status(), 500);
        }
        let lines = world
            .log(|lines| lines.iter().filter(|line| line["refusal"] == why).count() == 2)
            .await;
        assert!(
            lines.iter().any(|line| line["method"] == "CONNECT"),
            "{lines:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_bytes_to_a_service_pass_the_plugins_on_the_way() {
    let modules = Modules::one(framer());
    let pair = Pair::start_edited(&on_the_way(&modules, &format!("orders:{TCP}"), DATA)).await;
    let mut app = TcpStream::connect(pair.tcp(0)).await.unwrap();
    assert_eq!(said(&mut app, 6).await, b">hello");
    app.write_all(b"query").await.unwrap();
    assert_eq!(said(&mut app, 7).await, b">>QUERY");
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await, b">bye");
    let line = pair.line(|line| line["flow"] == "tcp").await;
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&5.into(), &14.into())
    );
    // The same by CONNECT, of HTTP/1.1 and of HTTP/2.
    let mut app = pair.connect().await;
    let request = format!(
        "CONNECT orders:{TCP} HTTP/1.1\r\nHost: orders:{TCP}\r\nX-Ringwall-Loopback: {TOKEN}\r\n\r\n"
    );
    app.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(app.read_u8().await.unwrap());
    }
    assert_eq!(said(&mut app, 6).await, b">hello");
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await, b">bye");
    let mut app = pair.http2().await;
    let mut request = connect_request(&format!("orders:{TCP}"));
    let token = TOKEN.parse().unwrap();
    request.headers_mut().insert("x-ringwall-loopback", token);
    let (response, mut send) = app.send_request(request, false).unwrap();
    send.send_data(Bytes::new(), true).unwrap();
    let answer = read2(response.await.unwrap()).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(
        text.starts_with(">hello") && text.ends_with("bye"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_plugin_s_end_of_bytes_to_a_service_is_recorded() {
    for (guest, why) in [
        (closer(), "filter-closed"),
        (trap_at_connect(), "filter-failed"),
    ] {
        let modules = Modules::one(guest);
        let pair = Pair::start_edited(&on_the_way(&modules, "*", DATA)).await;
        let mut app = TcpStream::connect(pair.tcp(0)).await.unwrap();
        let _sent = app.write_all(b"query").await;
        assert!(!rest(&mut app).await.ends_with(b"QUERY"), "{why}");
        let line = pair.line(|line| line["flow"] == "tcp").await;
        assert_eq!(line["refusal"], why, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_bytes_of_a_service_without_a_proxy_pass_plugins_too() {
    let modules = Modules::one(framer());
    let pair = Pair::start_edited(&on_the_way(&modules, "database", DATA)).await;
    let mut app = TcpStream::connect(pair.tcp(1)).await.unwrap();
    let (mut database, _) = timeout(SOON, pair.database.accept())
        .await
        .unwrap()
        .unwrap();
    app.write_all(b"select").await.unwrap();
    assert_eq!(said(&mut database, 7).await, b">select");
    database.write_all(b"row").await.unwrap();
    assert_eq!(said(&mut app, 4).await, b">row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r90_bulk_bytes_pass_plugins_that_do_not_look() {
    let modules = Modules::one(marker("7"));
    let pair = Pair::start_edited(&on_the_way(&modules, "*", HEADERS)).await;
    let app = TcpStream::connect(pair.tcp(0)).await.unwrap();
    let (mut reader, mut writer) = app.into_split();
    let bytes = vec![b'A'; 2 * 1024 * 1024];
    let length = bytes.len();
    let writing = tokio::spawn(async move {
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let all = rest(&mut reader).await;
    writing.await.unwrap();
    assert_eq!(all.len(), length + 8);
}
