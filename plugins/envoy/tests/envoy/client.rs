//! The client: says where it comes from by the PROXY protocol, sends one request, reads the answer.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringwall_plugin_cases::{Message, Reply};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::servers::fields;

const PATIENCE: Duration = Duration::from_secs(15);

type Body = BoxBody<Bytes, Infallible>;

/// Sends and waits. A connection that ends without an answer is status 0.
pub(crate) async fn send(
    to: SocketAddr,
    source: IpAddr,
    message: &Message,
) -> Result<Reply, String> {
    let exchange = exchange(to, source, message);
    let timed = tokio::time::timeout(PATIENCE, exchange).await;
    let response = timed.map_err(|_| "no answer in time".to_owned())??;
    let Some(response) = response else {
        return Ok(Reply::default());
    };
    let (parts, body) = response.into_parts();
    let body = body.collect().await;
    Ok(Reply {
        status: parts.status.as_u16(),
        headers: fields(&parts.headers),
        body: body
            .map(|body| body.to_bytes().to_vec())
            .unwrap_or_default(),
    })
}

/// The body of a page.
pub(crate) async fn get(from: SocketAddr, path: &str) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{path}: {error}");
    let stream = TcpStream::connect(from)
        .await
        .map_err(|error| failed(&error))?;
    let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connection.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "admin");
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await;
    let body = response.map_err(|error| failed(&error))?.collect().await;
    body.map(|body| body.to_bytes().to_vec())
        .map_err(|error| failed(&error))
}

async fn exchange(
    to: SocketAddr,
    source: IpAddr,
    message: &Message,
) -> Result<Option<Response<Incoming>>, String> {
    let mut stream = TcpStream::connect(to)
        .await
        .map_err(|error| error.to_string())?;
    let (family, local) = match source {
        IpAddr::V4(_) => ("TCP4", "192.0.2.200"),
        IpAddr::V6(_) => ("TCP6", "2001:db8::200"),
    };
    let line = format!("PROXY {family} {source} {local} 40000 443\r\n");
    stream
        .write_all(line.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    // Requests end with trailers in HTTP/2; in HTTP/1.1 they would have to be announced.
    if message.trailers.is_empty() {
        let request = request(message, Version::HTTP_11)?;
        let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connection.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        return Ok(sender.send_request(request).await.ok());
    }
    let request = request(message, Version::HTTP_2)?;
    let connection =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connection.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await.ok())
}

fn request(message: &Message, version: Version) -> Result<Request<Body>, String> {
    let mut request = Request::builder()
        .method(message.method.as_str())
        .version(version);
    request = if version == Version::HTTP_2 {
        request.uri(format!("http://{}{}", message.authority, message.path))
    } else {
        request
            .uri(&message.path)
            .header("host", &message.authority)
    };
    for (name, value) in message.headers.iter() {
        request = request.header(name, value);
    }
    if version == Version::HTTP_11 && !message.body.is_empty() {
        request = request.header("content-length", message.body.len());
    }
    let mut frames = Vec::new();
    if !message.body.is_empty() {
        frames.push(Ok(Frame::data(Bytes::from(message.body.clone()))));
    }
    if !message.trailers.is_empty() {
        let mut trailers = HeaderMap::new();
        for (name, value) in message.trailers.iter() {
            let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
            trailers.append(name, value);
        }
        frames.push(Ok(Frame::trailers(trailers)));
    }
    let body = StreamBody::new(futures_util::stream::iter(frames));
    request
        .body(body.boxed())
        .map_err(|error| error.to_string())
}
