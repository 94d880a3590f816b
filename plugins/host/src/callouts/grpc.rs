//! gRPC over HTTP/2, as far as a plugin's calls need it.
//!
//! Owns: length-prefixed messages, `grpc-status` and its stand-ins. Messages are not compressed: none is asked for, and one
//! that comes all the same ends the call. Must not: know protobuf.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;

use crate::callouts::{BoxError, CalloutBody, Callouts, never};
use crate::instance::Message;

// Codes of gRPC's status.
const OK: u32 = 0;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// Bytes before each message: a flag and a length.
const PREFIX: usize = 5;
/// The longest status message that a plugin is given.
const MAX_STATUS_MESSAGE: usize = 1024;

/// The head of a call, if the names are such.
pub(crate) fn request(
    authority: &str,
    service: &str,
    method: &str,
    metadata: HeaderMap,
) -> Option<Request<()>> {
    let is_name = |text: &str| !text.is_empty() && !text.contains(['/', '?', '#']);
    if !is_name(service) || !is_name(method) {
        return None;
    }
    let uri = Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query(format!("/{service}/{method}"))
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    *headers = metadata;
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Some(request)
}

/// A message with its prefix.
pub(crate) fn frame(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    Some(framed.freeze())
}

/// Takes the first whole message out of what has arrived.
fn unframe(arrived: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, End> {
    let Some(prefix) = arrived.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(End::new(INTERNAL, "a compressed message was not asked for"));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(End::new(
            RESOURCE_EXHAUSTED,
            "the message is longer than allowed",
        ));
    }
    if arrived.len() - PREFIX < length {
        return Ok(None);
    }
    arrived.advance(PREFIX);
    Ok(Some(arrived.split_to(length).freeze()))
}

/// How a call ends.
struct End {
    status: u32,
    message: String,
}

impl End {
    fn new(status: u32, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// From trailers, or from headers where there is nothing else.
    fn from_fields(fields: &HeaderMap) -> Option<Self> {
        let status = fields.get("grpc-status")?.to_str().ok()?.parse();
        let message = fields
            .get("grpc-message")
            .map_or(&b""[..], HeaderValue::as_bytes);
        let message = message.get(..MAX_STATUS_MESSAGE.min(message.len()));
        let message = String::from_utf8_lossy(message.unwrap_or_default());
        Some(Self::new(status.unwrap_or(UNKNOWN), message))
    }

    fn into_message(self) -> Message {
        Message::Close {
            status: self.status,
            message: self.message,
        }
    }
}

/// What a unary call ends with: its message, or why there is none. As Envoy, one callback and no more.
pub(crate) async fn grpc_call(
    callouts: Arc<dyn Callouts>,
    cluster: String,
    request: Request<Bytes>,
    limit: usize,
) -> Message {
    let request = request.map(|body| Full::new(body).map_err(never).boxed_unsync());
    let mut only = None;
    let ended = exchange(&*callouts, &cluster, request, limit, |message| {
        if let Message::Data(bytes) = message {
            only = Some(bytes);
        }
        true
    });
    let end = ended.await;
    match only {
        Some(message) if end.status == OK => Message::Data(message),
        None if end.status == OK => End::new(INTERNAL, "there was no message").into_message(),
        _ => end.into_message(),
    }
}

pub(crate) fn in_time(answer: Result<Message, tokio::time::error::Elapsed>) -> Message {
    let late = |_| End::new(DEADLINE_EXCEEDED, "timed out").into_message();
    answer.unwrap_or_else(late)
}

/// A stream to its end; `deliver` says whether anybody still listens.
pub(crate) async fn grpc_stream(
    callouts: Arc<dyn Callouts>,
    cluster: String,
    request: Request<()>,
    messages: mpsc::Receiver<Bytes>,
    limit: usize,
    time: Duration,
    mut deliver: impl FnMut(Message) -> bool + Send,
) {
    let request = request.map(|()| Outgoing(messages).boxed_unsync());
    let ended = exchange(&*callouts, &cluster, request, limit, &mut deliver);
    let ended = tokio::time::timeout(time, ended).await;
    let end = ended.unwrap_or_else(|_| End::new(DEADLINE_EXCEEDED, "timed out"));
    deliver(end.into_message());
}

async fn exchange(
    callouts: &dyn Callouts,
    cluster: &str,
    request: Request<CalloutBody>,
    limit: usize,
    mut deliver: impl FnMut(Message) -> bool + Send,
) -> End {
    let response = match callouts.send(cluster, request).await {
        Ok(response) => response,
        Err(error) => return End::new(UNAVAILABLE, error.to_string()),
    };
    let (head, mut body) = response.into_parts();
    if let Some(end) = not_grpc(&head.headers, head.status) {
        return end;
    }
    let early = End::from_fields(&head.headers);
    if !deliver(Message::InitialMetadata(head.headers)) {
        return End::new(OK, "");
    }
    let mut arrived = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return End::new(UNAVAILABLE, error.to_string()),
        };
        let frame = match frame.into_data() {
            Ok(data) => {
                arrived.extend_from_slice(&data);
                loop {
                    match unframe(&mut arrived, limit) {
                        Ok(None) => break,
                        Ok(Some(message)) => {
                            if !deliver(Message::Data(message)) {
                                return End::new(OK, "");
                            }
                        }
                        Err(end) => return end,
                    }
                }
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            let end = End::from_fields(&trailers);
            deliver(Message::TrailingMetadata(trailers));
            return end.unwrap_or_else(|| End::new(UNKNOWN, "there was no grpc-status"));
        }
    }
    early.unwrap_or_else(|| End::new(UNKNOWN, "there was no grpc-status"))
}

/// Where the answer is of another protocol: the status that gRPC maps HTTP's to.
fn not_grpc(headers: &HeaderMap, status: http::StatusCode) -> Option<End> {
    if status != http::StatusCode::OK {
        let mapped = match status.as_u16() {
            400 => INTERNAL,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => UNAVAILABLE,
            _ => UNKNOWN,
        };
        return Some(End::new(mapped, format!("HTTP status {}", status.as_u16())));
    }
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_grpc = kind.is_some_and(|kind| kind.starts_with(b"application/grpc"));
    (!is_grpc).then(|| End::new(UNKNOWN, "the answer is not gRPC"))
}

/// The messages of a plugin, until it closes its side.
struct Outgoing(mpsc::Receiver<Bytes>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = self.0.poll_recv(context);
        next.map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r90_messages_are_framed_and_found_again() {
        let framed = frame(b"abc").unwrap();
        assert_eq!(framed, &b"\0\0\0\0\x03abc"[..]);
        let mut arrived = BytesMut::from(&framed[..6]);
        assert!(unframe(&mut arrived, 10).ok().unwrap().is_none());
        arrived.extend_from_slice(&framed[6..]);
        arrived.extend_from_slice(&frame(b"").unwrap());
        assert_eq!(unframe(&mut arrived, 10).ok().unwrap().unwrap(), "abc");
        assert_eq!(unframe(&mut arrived, 10).ok().unwrap().unwrap(), "");
        assert!(unframe(&mut arrived, 10).ok().unwrap().is_none());
    }

    #[test]
    fn r91_a_message_beyond_the_limit_is_not_waited_for() {
        let mut arrived = BytesMut::from(&b"\0\xff\xff\xff\xff"[..]);
        let end = unframe(&mut arrived, 10).err().unwrap();
        assert_eq!(end.status, RESOURCE_EXHAUSTED);
        let mut arrived = BytesMut::from(&b"\x01\0\0\0\0"[..]);
        assert_eq!(unframe(&mut arrived, 10).err().unwrap().status, INTERNAL);
    }

    #[test]
    fn r90_a_method_is_one_segment_of_a_path() {
        let made = request("a:1", "pkg.Service", "Method", HeaderMap::new()).unwrap();
        assert_eq!(made.uri().path(), "/pkg.Service/Method");
        for (service, method) in [
            ("", "m"),
            ("s", ""),
            ("s/x", "m"),
            ("s", "m?x"),
            ("s\r\n", "m"),
        ] {
            assert!(request("a", service, method, HeaderMap::new()).is_none());
        }
    }

    proptest! {
        #[test]
        fn r90_any_bytes_unframe_or_fail_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut arrived = BytesMut::from(&bytes[..]);
            while let Ok(Some(message)) = unframe(&mut arrived, 16) {
                prop_assert!(message.len() <= 16);
            }
        }
    }
}
