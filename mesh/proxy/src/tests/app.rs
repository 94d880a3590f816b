//! The application behind the proxy: HTTP/1.1 and h2c on one port, a protocol in which the server speaks first on
//! another.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Counts what reaches it.
#[derive(Debug, Clone)]
pub(super) struct TestApp {
    pub(super) http: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) connections: Arc<AtomicUsize>,
}

impl TestApp {
    pub(super) async fn start() -> Self {
        let http = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let app = Self {
            http: http.local_addr().expect("address"),
            tcp: tcp.local_addr().expect("address"),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        tokio::spawn(serve(http, app.clone()));
        tokio::spawn(greet(tcp, app.clone()));
        app
    }

    pub(super) fn seen(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, app: TestApp) {
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        app.connections.fetch_add(1, Ordering::SeqCst);
        let app = app.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, app.clone()));
            let _ended = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// `hello` at once, then an echo in upper case; the end of the input is answered with `bye` and the end.
async fn greet(listener: TcpListener, app: TestApp) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        app.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            stream.write_all(b"hello").await?;
            loop {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    read => {
                        buffer[..read].make_ascii_uppercase();
                        stream.write_all(&buffer[..read]).await?;
                    }
                }
            }
            stream.write_all(b"bye").await?;
            stream.shutdown().await?;
            Ok::<_, std::io::Error>(())
        });
    }
}

async fn answer(request: Request<Incoming>, app: TestApp) -> Result<Response<Body>, Infallible> {
    app.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/ws" => websocket(request),
        "/echo" => echo(request),
        "/pkg.Service/Call" => grpc(request).await,
        "/never" => std::future::pending().await,
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(700)).await;
            describe(request).await
        }
        "/big" => big(),
        "/early" => Response::new(full("early")),
        "/lingering" => lingering(),
        "/leaky" => {
            let mut response = Response::new(full("leaky"));
            let headers = response.headers_mut();
            headers.insert("x-ringwall-loopback", HeaderValue::from_static("secret"));
            headers.insert("x-kept", HeaderValue::from_static("yes"));
            response
        }
        _ => describe(request).await,
    })
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// What the application saw, as JSON.
async fn describe(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await;
    let trailers = collected
        .as_ref()
        .ok()
        .and_then(|body| body.trailers().cloned())
        .map(|fields| listed(&fields));
    let length = collected.map(|body| body.to_bytes().len()).ok();
    let said = json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "version": if parts.version == Version::HTTP_2 { "2" } else { "1.1" },
        "headers": listed(&parts.headers),
        "length": length,
        "trailers": trailers,
    });
    let body = Full::new(Bytes::from(said.to_string()));
    Response::new(body.map_err(|never| match never {}).boxed_unsync())
}

fn listed(fields: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let pairs = fields.iter();
    pairs
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

/// Every frame as it comes, in both directions at once.
fn echo(request: Request<Incoming>) -> Response<Body> {
    Response::new(request.into_body().boxed_unsync())
}

fn big() -> Response<Body> {
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    let pieces = futures_util::stream::iter((0..1024).map(move |_| Ok(Frame::data(piece.clone()))));
    Response::new(StreamBody::new(pieces).boxed_unsync())
}

/// A head and one byte, and then nothing for ever.
fn lingering() -> Response<Body> {
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b".")))]);
    let rest = first.chain(futures_util::stream::pending());
    Response::new(StreamBody::new(rest).boxed_unsync())
}

/// Counts the bytes of the call, and says so in a message and in trailers.
async fn grpc(request: Request<Incoming>) -> Response<Body> {
    let te = request.headers().get("te").cloned();
    let version = request.version();
    let length = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes().len())
        .unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-length", HeaderValue::from(length));
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x02ok"))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response =
        Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert(
        "x-version",
        HeaderValue::from_static(if version == Version::HTTP_2 {
            "2"
        } else {
            "1.1"
        }),
    );
    if let Some(te) = te {
        headers.insert("x-te", te);
    }
    response
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        let mut response = Response::new(full("no key"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await?);
        let (mut reader, mut writer) = tokio::io::split(stream);
        tokio::io::copy(&mut reader, &mut writer).await?;
        writer.shutdown().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    });
    let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let accept =
        base64::engine::general_purpose::STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert(
        "sec-websocket-accept",
        HeaderValue::from_str(&accept).expect("accept"),
    );
    response
}
