//! Peers that call: raw HTTP/1.1 over mTLS, and HTTP/2 through the h2 crate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response};
use ringwall_tls::{IdentitySource, mesh_client_config, mesh_grpc_client_config, mesh_server_name};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::world::{World, id};

pub(super) type Tls = TlsStream<TcpStream>;

/// A connection that has proven to be taken: in TLS 1.3 a refusal shows at the first read only.
pub(super) async fn tls(source: &Arc<IdentitySource>, at: SocketAddr) -> io::Result<Tls> {
    let config = mesh_client_config(source, id("orders")).expect("tls");
    connect(config, at).await
}

async fn connect(
    config: Arc<tokio_rustls::rustls::ClientConfig>,
    at: SocketAddr,
) -> io::Result<Tls> {
    let socket = TcpStream::connect(at).await?;
    socket.set_nodelay(true)?;
    TlsConnector::from(config)
        .connect(mesh_server_name(at), socket)
        .await
}

/// Whether the peer lets us in: a request is answered, with whatever status.
pub(super) async fn is_let_in(source: &Arc<IdentitySource>, at: SocketAddr) -> bool {
    let Ok(stream) = tls(source, at).await else {
        return false;
    };
    let answer = exchange(stream, b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    answer.status != 0
}

/// An HTTP/2 connection and the task that drives it.
pub(super) struct Http2 {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

pub(super) async fn http2(source: &Arc<IdentitySource>, at: SocketAddr) -> Http2 {
    let config = mesh_grpc_client_config(source, id("orders")).expect("tls");
    let tls = connect(config, at).await.expect("connect");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, mut connection) = h2::client::handshake(tls).await.expect("handshake");
    let mut pings = connection.ping_pong().expect("pings");
    let driver = tokio::spawn(connection);
    // The peer's settings have come with the answer.
    pings.ping(h2::Ping::opaque()).await.expect("pong");
    let sender = sender.ready().await.expect("ready");
    Http2 { sender, driver }
}

/// One HTTP/2 answer, read whole.
#[derive(Debug)]
pub(super) struct Answer2 {
    pub(super) head: http::response::Parts,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

impl Http2 {
    pub(super) async fn send(&mut self, request: Request<&'static [u8]>) -> Answer2 {
        let (parts, body) = request.into_parts();
        let end = body.is_empty();
        let sent = self
            .sender
            .send_request(Request::from_parts(parts, ()), end);
        let (response, mut stream) = sent.expect("send");
        if !end {
            stream
                .send_data(Bytes::from_static(body), true)
                .expect("data");
        }
        read2(response.await.expect("response")).await
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer2 {
        self.send(get2(path)).await
    }
}

pub(super) fn get2(path: &str) -> Request<&'static [u8]> {
    Request::get(format!("http://orders{path}"))
        .body(&[][..])
        .expect("request")
}

pub(super) fn connect_request(authority: &str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(authority)
        .body(())
        .expect("request")
}

pub(super) async fn read2(response: Response<RecvStream>) -> Answer2 {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("data");
        let _released = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.expect("trailers");
    Answer2 {
        head,
        body: bytes,
        trailers,
    }
}

impl Answer2 {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A header as the application saw it.
pub(super) fn seen(said: &Value, name: &str) -> Vec<String> {
    let headers = said["headers"].as_array().expect("headers");
    headers
        .iter()
        .filter(|pair| pair[0] == name)
        .map(|pair| pair[1].as_str().expect("text").to_owned())
        .collect()
}

/// One HTTP/1.1 answer, read from the wire.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
    /// The proxy closed the connection after it.
    pub(super) closed: bool,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Writes `request` and reads one response, then whether the connection ends.
pub(super) async fn exchange(mut stream: Tls, request: &[u8]) -> Answer {
    // The proxy may refuse and close before it has read everything.
    let _sent = stream.write_all(request).await;
    read_answer(&mut stream).await
}

pub(super) async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Answer {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end;
        }
        if read_some(stream, &mut bytes).await == 0 {
            return Answer {
                status: 0,
                head: String::new(),
                body: String::new(),
                closed: true,
            };
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let mut answer = Answer {
        status,
        head,
        body: String::new(),
        closed: false,
    };
    let mut body = bytes[head_end + 4..].to_vec();
    let length = answer.field("content-length");
    if let Some(length) = length.and_then(|text| text.parse::<usize>().ok()) {
        while body.len() < length && read_some(stream, &mut body).await > 0 {}
    } else if answer.field("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") && read_some(stream, &mut body).await > 0 {}
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    let mut rest = [0; 1];
    // Only what announces an end, or refuses, may be followed by one.
    let ends = status >= 400 || answer.field("connection") == Some("close");
    let wait = Duration::from_millis(if ends { 300 } else { 10 });
    answer.closed = matches!(
        tokio::time::timeout(wait, stream.read(&mut rest)).await,
        Ok(Ok(0) | Err(_))
    );
    answer
}

pub(super) async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let wait = Duration::from_secs(20);
    match tokio::time::timeout(wait, stream.read(&mut buffer)).await {
        Ok(Ok(read)) => {
            into.extend_from_slice(&buffer[..read]);
            read
        }
        _ => 0,
    }
}

/// Whether nothing more comes; the end may stand in an empty frame.
pub(super) async fn is_over(body: &mut RecvStream) -> bool {
    let over = async {
        loop {
            match body.data().await {
                Some(Ok(data)) if data.is_empty() => {}
                Some(_) => return false,
                None => return true,
            }
        }
    };
    let over = tokio::time::timeout(Duration::from_secs(5), over).await;
    over.unwrap_or(false)
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

impl World {
    /// Sends `request` as `caller` over a new connection to the port that edges call `port`.
    pub(super) async fn send(&self, caller: &str, port: u16, request: &str) -> Answer {
        let stream = tls(&self.source(caller), self.at(port)).await.expect("TLS");
        exchange(stream, request.as_bytes()).await
    }

    /// `GET path` as `caller`.
    pub(super) async fn get(&self, caller: &str, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n");
        self.send(caller, super::world::HTTP, &request).await
    }

    pub(super) async fn http2(&self, caller: &str, port: u16) -> Http2 {
        http2(&self.source(caller), self.at(port)).await
    }
}
