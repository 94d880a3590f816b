//! Mock upstreams behind real mTLS: an API that echoes what it received, and an authorization server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use ringwall_tls::{IdentitySource, PeerPolicy, mesh_server_config};
use ringwall_token::KeyRing;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Body = BoxBody<Bytes, Infallible>;

/// The API behind the gateway.
#[derive(Clone)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) connections: Arc<AtomicUsize>,
}

/// The authorization server: a key set and introspection.
#[derive(Clone)]
pub(super) struct Issuer {
    pub(super) address: SocketAddr,
    pub(super) state: Arc<IssuerState>,
}

pub(super) struct IssuerState {
    pub(super) keys: Mutex<KeyRing>,
    pub(super) active: Mutex<HashMap<String, Value>>,
    pub(super) introspections: AtomicUsize,
    pub(super) key_fetches: AtomicUsize,
    pub(super) away: std::sync::atomic::AtomicBool,
}

pub(super) async fn api(identity: &Path, callers: PeerPolicy) -> Upstream {
    let requests = Arc::new(AtomicUsize::new(0));
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let address = serve(
        identity,
        callers,
        Arc::clone(&connections),
        move |request| {
            let seen = Arc::clone(&seen);
            async move {
                seen.fetch_add(1, Ordering::SeqCst);
                answer(request).await
            }
        },
    )
    .await;
    Upstream {
        address,
        requests,
        connections,
    }
}

pub(super) async fn issuer(identity: &Path, callers: PeerPolicy, keys: KeyRing) -> Issuer {
    let state = Arc::new(IssuerState {
        keys: Mutex::new(keys),
        active: Mutex::default(),
        introspections: AtomicUsize::new(0),
        key_fetches: AtomicUsize::new(0),
        away: false.into(),
    });
    let shared = Arc::clone(&state);
    let address = serve(identity, callers, Arc::default(), move |request| {
        let state = Arc::clone(&shared);
        async move { authorization_server(&state, request).await }
    })
    .await;
    Issuer { address, state }
}

async fn authorization_server(state: &IssuerState, request: Request<Incoming>) -> Response<Body> {
    if state.away.load(Ordering::SeqCst) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "away");
    }
    match request.uri().path() {
        "/jwks" => {
            state.key_fetches.fetch_add(1, Ordering::SeqCst);
            let keys = serde_json::to_string(&state.keys.lock().jwks()).expect("json");
            text(StatusCode::OK, keys)
        }
        "/introspect" => {
            state.introspections.fetch_add(1, Ordering::SeqCst);
            // "gateway:s%3Acret": both halves form-encoded (RFC 6749 §2.3.1).
            let expected = "Basic Z2F0ZXdheTpzJTNBY3JldA==";
            if request
                .headers()
                .get("authorization")
                .is_none_or(|value| value != expected)
            {
                return text(StatusCode::UNAUTHORIZED, "");
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
            let form = request
                .into_body()
                .collect()
                .await
                .expect("form")
                .to_bytes();
            let form = String::from_utf8(form.to_vec()).expect("utf-8");
            let token = form
                .split('&')
                .find_map(|pair| pair.strip_prefix("token="))
                .unwrap_or("");
            let known = state.active.lock().get(token).cloned();
            text(
                StatusCode::OK,
                known.unwrap_or(json!({"active": false})).to_string(),
            )
        }
        _ => text(StatusCode::NOT_FOUND, ""),
    }
}

async fn answer(mut request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/ws" => websocket(&mut request),
        "/events" => events(3),
        // Longer than any test.
        "/drip" => events(600),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            text(StatusCode::OK, "slow")
        }
        "/never" | "/open/never" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            text(StatusCode::OK, "never")
        }
        "/big" => big(),
        "/pkg.Service/Call" => grpc(request).await,
        "/pkg.Service/Slow" => std::future::pending().await,
        "/hop" => {
            let mut response = text(StatusCode::OK, "hop");
            let headers = response.headers_mut();
            headers.insert("server", "secret-server/1.0".parse().expect("value"));
            headers.insert("keep-alive", "timeout=5".parse().expect("value"));
            headers.insert("x-ringwall-user-context", "leak".parse().expect("value"));
            response
        }
        _ => echo(request).await,
    }
}

/// Says what arrived: method, target, headers, and the body's length and hash-free sum.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let mut body = request.into_body();
    let (mut length, mut sum) = (0usize, 0u64);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let data = frame.into_data().unwrap_or_default();
                length += data.len();
                sum = data
                    .iter()
                    .fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
            }
            Err(_) => return text(StatusCode::BAD_REQUEST, "broken body"),
        }
    }
    let said =
        json!({"method": method, "uri": uri, "headers": headers, "length": length, "sum": sum});
    text(StatusCode::OK, said.to_string())
}

/// A call of gRPC: its message comes back as it is, the status in trailers. By HTTP/2 alone.
async fn grpc(request: Request<Incoming>) -> Response<Body> {
    if request.version() != http::Version::HTTP_2 || request.headers().get("te").is_none() {
        return text(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "");
    }
    let body = request.into_body().collect().await.expect("body");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("value"));
    let frames = [
        Ok(Frame::data(body.to_bytes())),
        Ok(Frame::trailers(trailers)),
    ];
    let frames = StreamBody::new(futures_util::stream::iter(frames));
    let mut response = Response::new(BodyExt::boxed(frames));
    let kind = "application/grpc".parse().expect("value");
    response.headers_mut().insert("content-type", kind);
    response
}

fn websocket(request: &mut Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
        let _ended = tokio::io::copy(&mut read, &mut write).await;
        let _closed = write.shutdown().await;
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert("connection", "upgrade".parse().expect("value"));
    headers.insert("upgrade", "websocket".parse().expect("value"));
    headers.insert("sec-websocket-accept", "accepted".parse().expect("value"));
    response
}

/// Events, 200 ms apart; a buffering proxy would deliver them at once.
fn events(count: u32) -> Response<Body> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for n in 0..count {
            let event = Bytes::from(format!("event: tick\ndata: {n}\n\n"));
            if sender.send(event).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut response = Response::new(StreamBody::new(frames(receiver)).boxed());
    response
        .headers_mut()
        .insert("content-type", "text/event-stream".parse().expect("value"));
    response
}

/// 64 MiB in pieces.
fn big() -> Response<Body> {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![7u8; 64 * 1024]);
        for _ in 0..1024 {
            if sender.send(piece.clone()).await.is_err() {
                return;
            }
        }
    });
    Response::new(StreamBody::new(frames(receiver)).boxed())
}

struct Frames(tokio::sync::mpsc::Receiver<Bytes>);

fn frames(receiver: tokio::sync::mpsc::Receiver<Bytes>) -> Frames {
    Frames(receiver)
}

impl futures_util::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0
            .poll_recv(cx)
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into());
    debug_assert!(body.size_hint().exact().is_some());
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response
}

async fn serve<F, Fut>(
    identity: &Path,
    callers: PeerPolicy,
    connections: Arc<AtomicUsize>,
    handler: F,
) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let source = IdentitySource::load(identity).expect("identity");
    let acceptor = TlsAcceptor::from(mesh_server_config(&source, callers).expect("config"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            let connections = Arc::clone(&connections);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else {
                    return;
                };
                connections.fetch_add(1, Ordering::SeqCst);
                let service = hyper::service::service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ended = http2.serve_connection(TokioIo::new(stream), service).await;
                    return;
                }
                let _ended = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    address
}
