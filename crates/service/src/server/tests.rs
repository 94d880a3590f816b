//! Limits of one listener, each met by a peer that breaks it.

use std::net::SocketAddr;

use axum::routing::get;
use http::{Request, StatusCode};
use http_body_util::Empty;
use ringwall_tls::{PeerPolicy, mesh_client_config, mesh_server_config, mesh_server_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::fixture::{Mesh, id};

struct Listening {
    mesh: Mesh,
    shell: crate::Shell,
    address: SocketAddr,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Listening {
    async fn start(limits: ServerLimits) -> Self {
        let mesh = Mesh::new();
        let shell = mesh.shell("inventory", &["orders"], "");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = Server {
            listener,
            entrance: Entrance::Mesh {
                config: mesh_server_config(
                    shell.identity().unwrap(),
                    PeerPolicy::AnyOf(vec![id("orders")]),
                )
                .unwrap(),
                identity: Arc::clone(shell.identity().unwrap()),
            },
            router: Router::new().route("/", get(|| async { "hello" })).route(
                "/slow",
                get(|| async {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    "hello"
                }),
            ),
            limits,
            metrics: shell.metrics.clone(),
            stop: stop.clone(),
            kill: stop.clone(),
            open: TaskTracker::new(),
        };
        tokio::spawn(server.run());
        Self {
            mesh,
            shell: shell.clone(),
            address,
            metrics: shell.metrics,
            stop,
        }
    }

    async fn tls(&self, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut config = (*self.mesh.client_tls("orders", "inventory")).clone();
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector
            .connect(mesh_server_name(self.address), tcp)
            .await
            .unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Reads until the end or an error; a TLS peer may close without notice.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    let _closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut seen))
        .await
        .expect("the server closes by itself");
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn a_silent_peer_loses_its_connection_in_the_handshake() {
    let limits = ServerLimits {
        handshake_timeout: Duration::from_millis(100),
        ..ServerLimits::default()
    };
    let server = Listening::start(limits).await;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(rest(&mut tcp).await, "");
    assert_eq!(server.metrics.handshake_failures.get(), 1);
}

#[tokio::test]
async fn plain_http_is_refused() {
    let server = Listening::start(ServerLimits::default()).await;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(!rest(&mut tcp).await.contains("hello"));
}

#[tokio::test]
async fn a_slow_head_is_cut() {
    let limits = ServerLimits {
        header_read_timeout: Duration::from_millis(100),
        ..ServerLimits::default()
    };
    let server = Listening::start(limits).await;
    let mut slow = server.tls(b"http/1.1").await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    assert!(!rest(&mut slow).await.contains("200 OK"));
}

#[tokio::test]
async fn a_large_head_is_431() {
    let server = Listening::start(ServerLimits::default()).await;
    let mut large = server.tls(b"http/1.1").await;
    let head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n",
        "a".repeat(70_000)
    );
    let _may_close_early = large.write_all(head.as_bytes()).await;
    assert!(rest(&mut large).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn too_many_fields_are_431() {
    let server = Listening::start(ServerLimits::default()).await;
    let mut many = server.tls(b"http/1.1").await;
    let fields: String = (0..120).map(|n| format!("x-{n}: 1\r\n")).collect();
    many.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n").as_bytes())
        .await
        .unwrap();
    assert!(rest(&mut many).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn http2_is_served_with_a_bound_on_its_header_list() {
    let server = Listening::start(ServerLimits::default()).await;
    let io = TokioIo::new(server.tls(b"h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = |value: &str| {
        Request::get("http://inventory/")
            .header("x-a", value)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap()
    };
    assert_eq!(
        sender.send_request(request("1")).await.unwrap().status(),
        StatusCode::OK
    );
    // The header list of one request, spread over CONTINUATION frames, ends at 64 KiB.
    let large = "a".repeat(70_000);
    let refused = sender.send_request(request(&large)).await;
    assert!(
        refused.is_err()
            || refused.unwrap().status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
}

#[tokio::test]
async fn the_connection_cap_queues_instead_of_serving_more() {
    let limits = ServerLimits {
        max_connections: 1,
        ..ServerLimits::default()
    };
    let server = Listening::start(limits).await;
    let mut first = server.tls(b"http/1.1").await;
    let second = tokio::time::timeout(Duration::from_millis(200), server.tls(b"http/1.1")).await;
    assert!(second.is_err());
    first.shutdown().await.unwrap();
    drop(first);
    let third = tokio::time::timeout(Duration::from_secs(5), server.tls(b"http/1.1")).await;
    assert!(third.is_ok());
}

#[tokio::test]
async fn a_caller_outside_the_policy_never_reaches_http() {
    let server = Listening::start(ServerLimits::default()).await;
    let shell = server.mesh.shell("payments", &[], "");
    let config = mesh_client_config(shell.identity().unwrap(), id("inventory")).unwrap();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let connected = TlsConnector::from(config)
        .connect(mesh_server_name(server.address), tcp)
        .await;
    // In TLS 1.3 the client learns of its refusal with the first read.
    if let Ok(mut tls) = connected {
        let _may_be_closed = tls.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(!rest(&mut tls).await.contains("hello"));
    }
    assert_eq!(server.metrics.handshake_failures.get(), 1);
}

/// The trust bundle changes while a connection is open: its peer has no way up to a root any more.
#[tokio::test]
async fn r34_a_live_connection_is_cut_when_its_peer_is_believed_no_more() {
    let server = Listening::start(ServerLimits::default()).await;
    let identity = Arc::clone(server.shell.identity().unwrap());
    let directory = server.shell.config.identity.directory().unwrap();
    let mut live = server.tls(b"http/1.1").await;
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    async fn served(live: &mut tokio_rustls::client::TlsStream<TcpStream>, request: &[u8]) {
        live.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(live.read_buf(&mut answer).await.unwrap(), 0, "cut");
        }
    }
    served(&mut live, request).await;
    let bundle = |shell: &crate::Shell| {
        shell
            .config
            .identity
            .directory()
            .unwrap()
            .join("bundle.pem")
    };
    let text = std::fs::read(bundle(&server.shell)).unwrap();
    // Another change, with the root still there: the connection stays.
    ringwall_secret::private_file::write(&directory.join("bundle.pem"), &text).unwrap();
    assert!(identity.reload().unwrap());
    tokio::time::sleep(Duration::from_millis(50)).await;
    served(&mut live, request).await;
    let stranger = Mesh::new();
    let stranger = stranger.shell("inventory", &[], "");
    let text = std::fs::read(bundle(&stranger)).unwrap();
    ringwall_secret::private_file::write(&directory.join("bundle.pem"), &text).unwrap();
    assert!(identity.reload().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(1), rest(&mut live)).await;
    assert!(ended.is_ok(), "the connection lives on");
}

/// The peer has its time to connect anew, which is what it is asked to do; then what it still has open ends, whatever
/// is on it.
#[tokio::test]
async fn r34_a_live_connection_is_cut_when_its_peers_certificate_ends() {
    let life = Duration::from_secs(4);
    let server = Listening::start(ServerLimits::default()).await;
    server.mesh.identity_for("orders", life);
    let began = std::time::Instant::now();
    let mut used = server.tls(b"http/1.1").await;
    let mut waiting = server.tls(b"http/1.1").await;
    waiting
        .write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let io = TokioIo::new(server.tls(b"h2").await);
    let (mut streams, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        Request::get(format!("http://inventory{path}"))
            .body(Empty::<bytes::Bytes>::new())
            .unwrap()
    };
    let stream = tokio::spawn(streams.send_request(request("/slow")));
    let mut answers = 0;
    loop {
        used.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(used.read_buf(&mut answer).await.unwrap(), 0, "cut");
        }
        if String::from_utf8_lossy(&answer).contains("connection: close") {
            break;
        }
        answers += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answers > 10, "asked to go after {answers} answers");
    assert_eq!(rest(&mut used).await, "", "it is closed after that answer");
    assert!(began.elapsed() < life, "asked to go too late");
    assert!(!stream.is_finished(), "cut before the end");
    assert_eq!(rest(&mut waiting).await, "");
    assert!(stream.await.unwrap().is_err());
    let _broken_off = connection.await.unwrap();
    assert!(
        began.elapsed() < life + Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(server.metrics.handshake_failures.get(), 0);
}
