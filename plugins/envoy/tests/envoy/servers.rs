//! The upstream and the clusters that plugins call: each records what it sees and says what the case tells it to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ringwall_plugin_cases::{Answer, Called, Cluster, Fields, GrpcAnswer, Message};
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, Infallible>;

/// Before a message of gRPC: whether it is compressed, and its length.
const GRPC_PREFIX: usize = 5;

/// What all servers of a suite share: one case runs at a time.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<Mutex<Scene>>);

#[derive(Default)]
pub(crate) struct Scene {
    pub(crate) answer: Answer,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// What the upstream has seen, from its headers on.
    pub(crate) upstream: Option<Message>,
    pub(crate) callouts: Vec<Called>,
}

impl Stage {
    pub(crate) fn scene(&self) -> MutexGuard<'_, Scene> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the upstream; its port.
    pub(crate) async fn upstream(&self) -> std::io::Result<u16> {
        let stage = self.clone();
        serve(move |request| {
            let stage = stage.clone();
            async move { stage.as_upstream(request).await }
        })
        .await
    }

    /// Starts a cluster; its port.
    pub(crate) async fn cluster(&self, name: &str) -> std::io::Result<u16> {
        let stage = self.clone();
        let name = name.to_owned();
        serve(move |request| {
            let (stage, name) = (stage.clone(), name.clone());
            async move { stage.as_cluster(&name, request).await }
        })
        .await
    }

    async fn as_upstream(&self, request: Request<Incoming>) -> std::io::Result<Response<Body>> {
        let (mut message, body) = head(request);
        self.scene().upstream = Some(message.clone());
        message.body = collect(body).await?.0;
        let mut scene = self.scene();
        scene.upstream = Some(message);
        respond(&scene.answer)
    }

    async fn as_cluster(
        &self,
        name: &str,
        request: Request<Incoming>,
    ) -> std::io::Result<Response<Body>> {
        let (mut message, body) = head(request);
        (message.body, message.trailers) = collect(body).await?;
        let is_grpc = message.headers.value("content-type");
        if is_grpc.is_some_and(|kind| kind.starts_with("application/grpc")) {
            message.body.drain(..GRPC_PREFIX.min(message.body.len()));
        }
        let mut scene = self.scene();
        let cluster = scene.clusters.get(name).cloned().unwrap_or_default();
        let answer = cluster.answer(&message);
        scene.callouts.push(Called {
            cluster: name.to_owned(),
            request: message,
        });
        if cluster.unreachable {
            return Err(std::io::Error::other("the case says: no answer"));
        }
        respond(&answer)
    }
}

/// A small server on a port of its own, for as long as the runtime lives.
async fn serve<F, R>(handle: F) -> std::io::Result<u16>
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = std::io::Result<Response<Body>>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(handle.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // An answer that fails ends the connection, which is what it is for.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(port)
}

fn head(request: Request<Incoming>) -> (Message, Incoming) {
    let (parts, body) = request.into_parts();
    let headers = fields(&parts.headers);
    let path = parts.uri.path_and_query();
    let authority = parts.uri.authority().map(|authority| authority.to_string());
    let message = Message {
        method: parts.method.to_string(),
        path: path.map_or_else(|| "/".to_owned(), ToString::to_string),
        authority: authority
            .or_else(|| headers.value("host"))
            .unwrap_or_default(),
        headers,
        ..Message::default()
    };
    (message, body)
}

/// A body and its trailers.
async fn collect(body: Incoming) -> std::io::Result<(Vec<u8>, Fields)> {
    let collected = body.collect().await.map_err(std::io::Error::other)?;
    let trailers = collected.trailers().map(fields).unwrap_or_default();
    Ok((collected.to_bytes().to_vec(), trailers))
}

/// As texts; what is not UTF-8 has replacement characters.
pub(crate) fn fields(headers: &HeaderMap) -> Fields {
    Fields::new(headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    }))
}

fn respond(answer: &Answer) -> std::io::Result<Response<Body>> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers.iter() {
        response = response.header(name, value);
    }
    let body = match &answer.grpc {
        None => Full::new(Bytes::from(answer.body.clone())).boxed(),
        Some(grpc) => {
            response = response.header("content-type", "application/grpc");
            grpc_body(grpc)
        }
    };
    response.body(body).map_err(std::io::Error::other)
}

/// A message with its prefix, where the call succeeds, and the status in trailers.
fn grpc_body(answer: &GrpcAnswer) -> Body {
    let mut frames = Vec::new();
    if answer.status == 0 {
        let mut message = BytesMut::from(&[0_u8][..]);
        let length = u32::try_from(answer.body.len()).unwrap_or(u32::MAX);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&answer.body);
        frames.push(Ok(Frame::data(message.freeze())));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(answer.status));
    if let Ok(message) = HeaderValue::from_str(&answer.message) {
        trailers.insert(HeaderName::from_static("grpc-message"), message);
    }
    frames.push(Ok(Frame::trailers(trailers)));
    StreamBody::new(futures_util::stream::iter(frames)).boxed()
}
