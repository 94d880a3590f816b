//! One request through the plugin to the upstream and back, and the plugin's own calls.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ringwall_http_io::headers::strip_hop_by_hop;
use ringwall_plugin_host::{
    BoxError, CalloutBody, CalloutFuture, Callouts, Chain, ConnectionInfo, HttpStream, Refused,
    StreamInfo, Worker,
};
use serde_json::{Map, Value, json};

use super::Upstream;

pub(super) type OutBody = UnsyncBoxBody<Bytes, BoxError>;
type Plain = Client<HttpConnector, OutBody>;

const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Until an upstream has begun to answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// As much of a body the echo takes, in bytes.
const ECHO_BODY: usize = 1024 * 1024;

/// Everything that a request needs.
pub(super) struct Exchange {
    worker: Worker,
    chain: Chain,
    upstream: Upstream,
    address: SocketAddr,
    client: Plain,
}

impl Exchange {
    pub(super) fn new(
        worker: Worker,
        chain: Chain,
        upstream: Upstream,
        address: SocketAddr,
    ) -> Self {
        Self {
            worker,
            chain,
            upstream,
            address,
            client: client(false),
        }
    }

    /// The answer (`None`: the stream is reset), and whether it is the plugin's own.
    pub(super) async fn run(
        &self,
        source: SocketAddr,
        mut request: Request<Incoming>,
    ) -> (Option<Response<OutBody>>, bool) {
        strip_hop_by_hop(request.headers_mut());
        let stream = self.worker.open(&self.chain, self.info(source));
        match self.pass(&stream, request).await {
            Ok(response) => (Some(response), false),
            Err(refused) => {
                let response = refused.response;
                (response.map(|response| response.map(boxed)), true)
            }
        }
    }

    async fn pass(
        &self,
        stream: &HttpStream,
        request: Request<Incoming>,
    ) -> Result<Response<OutBody>, Refused> {
        let passed = stream.request(request).await?.map(boxed);
        let answered = tokio::select! {
            biased;
            refused = stream.interrupted() => return Err(refused),
            answered = self.forward(passed) => answered,
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                // Perhaps because the plugin has ended the stream while its body was read.
                let mut interrupted = pin!(stream.interrupted());
                let now = poll_fn(|context| {
                    Poll::Ready(match interrupted.as_mut().poll(context) {
                        Poll::Ready(refused) => Some(refused),
                        Poll::Pending => None,
                    })
                });
                if let Some(refused) = now.await {
                    return Err(refused);
                }
                bad_gateway(&error)
            }
        };
        strip_hop_by_hop(response.headers_mut());
        Ok(stream.response(response).await?.map(boxed))
    }

    async fn forward(&self, mut request: Request<OutBody>) -> Result<Response<OutBody>, String> {
        let to = match &self.upstream {
            Upstream::Echo => return echo(request).await,
            Upstream::Http(authority) => authority,
        };
        address(&mut request, to)?;
        let answer = tokio::time::timeout(ANSWER_TIME, self.client.request(request)).await;
        let answer = answer.map_err(|_| format!("http://{to} does not answer in time"))?;
        let answer = answer.map_err(|error| format!("http://{to}: {}", causes(&error)))?;
        Ok(answer.map(boxed))
    }

    fn info(&self, source: SocketAddr) -> StreamInfo {
        let connection = ConnectionInfo {
            source: Some(source),
            destination: Some(self.address),
            ..ConnectionInfo::default()
        };
        let mut info = StreamInfo::new(Arc::new(connection), SystemTime::now());
        info.cluster_name = "upstream".into();
        info
    }
}

/// The clusters that were named on the command line.
pub(super) struct Clusters {
    known: BTreeMap<String, Authority>,
    client: Plain,
    grpc: Plain,
}

impl Clusters {
    pub(super) fn new(known: BTreeMap<String, Authority>) -> Self {
        Self {
            known,
            client: client(false),
            grpc: client(true),
        }
    }
}

impl Callouts for Clusters {
    fn knows(&self, cluster: &str) -> bool {
        self.known.contains_key(cluster)
    }

    fn send(&self, cluster: &str, mut request: Request<CalloutBody>) -> CalloutFuture {
        let Some(to) = self.known.get(cluster) else {
            return Box::pin(async { Err(BoxError::from("there is no such cluster")) });
        };
        let kind = request.headers().get(CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let client = if is_grpc { &self.grpc } else { &self.client };
        if let Err(error) = address(&mut request, to) {
            return Box::pin(async { Err(BoxError::from(error)) });
        }
        let answer = client.request(request);
        Box::pin(async move { Ok(answer.await?.map(boxed)) })
    }
}

/// Plain HTTP/1.1, or HTTP/2 by prior knowledge.
fn client(is_http2: bool) -> Plain {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIME));
    connector.set_nodelay(true);
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(is_http2);
    builder.build(connector)
}

/// Sends a request to `to`; for whom it is meant stays in `host`.
fn address<B>(request: &mut Request<B>, to: &Authority) -> Result<(), String> {
    let named = request.uri().authority().map(Authority::as_str);
    if let Some(named) = named
        && !request.headers().contains_key(HOST)
    {
        let value = HeaderValue::from_str(named).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, value);
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(to.clone());
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Says what has arrived.
async fn echo(request: Request<OutBody>) -> Result<Response<OutBody>, String> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, ECHO_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Err(format!("the body: {error}")),
    };
    let mut headers = Map::new();
    for name in head.headers.keys() {
        let values = head.headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        headers.insert(name.to_string(), Value::from(values.join(", ")));
    }
    let path = head.uri.path_and_query();
    let mut said = json!({
        "method": head.method.as_str(),
        "path": path.map_or("/", |path| path.as_str()),
        "headers": headers,
    });
    if let Some(members) = said.as_object_mut()
        && !body.is_empty()
    {
        let text = std::str::from_utf8(&body).ok();
        let text = text.map_or_else(|| json!({ "bytes": body.len() }), Value::from);
        members.insert("body".to_owned(), text);
    }
    Ok(whole(
        StatusCode::OK,
        "application/json",
        &format!("{said:#}\n"),
    ))
}

fn bad_gateway(error: &str) -> Response<OutBody> {
    let text = format!("the upstream cannot be asked: {error}\n");
    whole(StatusCode::BAD_GATEWAY, "text/plain", &text)
}

fn whole(status: StatusCode, kind: &'static str, text: &str) -> Response<OutBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(boxed(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(http::header::CONTENT_LENGTH, text.len().into());
    response
}

fn boxed<B>(body: B) -> OutBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// An error with what has caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
