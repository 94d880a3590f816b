//! Calls that plugins make to declared clusters.
//!
//! Owns: the trait by which the embedder sends them, their bounds, and gRPC's framing over it (`callouts/grpc.rs`).
//! Must not: dial. A cluster that the plugin may not call, and one that the embedder does not know, look the same to it.

mod grpc;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::instance::CallResponse;

pub(crate) use self::grpc::{frame, request as grpc_request};
pub(crate) use self::grpc::{grpc_call, grpc_stream, in_time};

/// An error of whoever sends or reads a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body in either direction. Trailers are a frame of it.
pub type CalloutBody = UnsyncBoxBody<Bytes, BoxError>;
/// The answer to come.
pub type CalloutFuture =
    Pin<Box<dyn Future<Output = Result<Response<CalloutBody>, BoxError>> + Send>>;

/// How calls leave. The embedder dials, with its own identity, and only clusters that it has been told of.
pub trait Callouts: Send + Sync + 'static {
    /// Whether there is a cluster of this name.
    fn knows(&self, cluster: &str) -> bool;

    /// Sends `request`: `:authority` is in its URI's place or in `Host`, the path in its URI. A `content-type` of
    /// `application/grpc` asks for HTTP/2. Time-outs and sizes are watched by the caller: dropping the future cancels.
    fn send(&self, cluster: &str, request: Request<CalloutBody>) -> CalloutFuture;
}

/// Knows no cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCallouts;

impl Callouts for NoCallouts {
    fn knows(&self, _cluster: &str) -> bool {
        false
    }

    fn send(&self, _cluster: &str, _request: Request<CalloutBody>) -> CalloutFuture {
        Box::pin(async { Err("there are no clusters".into()) })
    }
}

/// The whole answer to an HTTP call. `None`: it has failed, or is longer than allowed.
pub(crate) async fn http(
    callouts: Arc<dyn Callouts>,
    cluster: String,
    request: Request<Bytes>,
    trailers: HeaderMap,
    limit: usize,
) -> Option<CallResponse> {
    let request = request.map(|body| {
        let body = Full::new(body);
        if trailers.is_empty() {
            return body.map_err(never).boxed_unsync();
        }
        let trailers = async move { Some(Ok(trailers)) };
        body.with_trailers(trailers).map_err(never).boxed_unsync()
    });
    let response = callouts.send(&cluster, request).await;
    let (head, body) = response.ok()?.into_parts();
    let (body, trailers) = collect(body, limit).await?;
    Some(CallResponse {
        head,
        body,
        trailers,
    })
}

async fn collect(mut body: CalloutBody, limit: usize) -> Option<(Bytes, Option<HeaderMap>)> {
    let (mut whole, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) if whole.len() + data.len() > limit => return None,
            Ok(data) => whole.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    Some((whole.freeze(), trailers))
}

/// A body in memory cannot fail.
fn never(error: std::convert::Infallible) -> BoxError {
    match error {}
}
