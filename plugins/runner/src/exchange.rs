//! One request through a plugin, to an upstream that records it and answers as the case says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use http_body_util::BodyExt as _;
use ringwall_plugin_cases::{Message, Reply, Step};
use ringwall_plugin_host::{BoxError, Cause, Chain, ConnectionInfo, Refused, StreamInfo, Worker};

use crate::convert;

/// Documentation addresses (RFC 5737, RFC 3849), as the proxy's own.
const LOCAL_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
const LOCAL_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200));

/// What a step has come to.
pub(crate) struct Outcome {
    pub(crate) client: Reply,
    /// From its headers on.
    pub(crate) upstream: Option<Message>,
    /// How the plugin has failed, if it has.
    pub(crate) failure: Option<String>,
}

/// Sends the request, and reads the answer to its end.
pub(crate) async fn run(worker: &Worker, chain: &Chain, step: &Step) -> Result<Outcome, String> {
    let stream = worker.open(chain, info(step.source));
    let request = convert::request(&step.request)?;
    let passed = match stream.request(request).await {
        Ok(passed) => passed,
        Err(refused) => return Ok(refusal(refused, None).await),
    };
    let (head, body) = passed.into_parts();
    let mut seen = convert::message(&head);
    let arrived = async {
        match body.collect().await {
            Ok(body) => body,
            // A plugin has ended the stream, and is about to say so.
            Err(_) => std::future::pending().await,
        }
    };
    let body = tokio::select! {
        biased;
        refused = stream.interrupted() => return Ok(refusal(refused, Some(seen)).await),
        body = arrived => body,
    };
    seen.trailers = body.trailers().map(convert::fields).unwrap_or_default();
    seen.body = body.to_bytes().to_vec();
    let response = convert::response(&step.upstream, &head.method)?;
    Ok(match stream.response(response).await {
        Ok(response) => Outcome {
            client: collect(response).await,
            upstream: Some(seen),
            failure: None,
        },
        Err(refused) => refusal(refused, Some(seen)).await,
    })
}

/// A stream that is reset has no answer: status 0.
async fn refusal(refused: Refused, upstream: Option<Message>) -> Outcome {
    Outcome {
        failure: match &refused.cause {
            Cause::Failed(failure) => Some(failure.to_string()),
            _ => None,
        },
        client: match refused.response {
            Some(response) => collect(response).await,
            None => Reply::default(),
        },
        upstream,
    }
}

/// A body that ends too early is none.
async fn collect<B>(response: Response<B>) -> Reply
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await;
    let body = body.map(|body| body.to_bytes().to_vec());
    convert::reply(&head, body.unwrap_or_default())
}

fn info(source: IpAddr) -> StreamInfo {
    let local = match source {
        IpAddr::V4(_) => LOCAL_V4,
        IpAddr::V6(_) => LOCAL_V6,
    };
    let connection = ConnectionInfo {
        source: Some(SocketAddr::new(source, 40_000)),
        destination: Some(SocketAddr::new(local, 443)),
        ..ConnectionInfo::default()
    };
    let mut info = StreamInfo::new(Arc::new(connection), SystemTime::now());
    info.cluster_name = "upstream".into();
    info
}
