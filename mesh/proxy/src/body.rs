//! The one body type of both directions: streamed, counted, never buffered.
//!
//! Owns: [`ProxyBody`] over what can carry a message (hyper's HTTP/1.1, the h2 crate's streams, a socket behind a
//! CONNECT, bytes at hand), the limit on its length, and [`Record`], which hears of every byte and of the end.
//! Trailers pass. Must not: know directions.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use ringwall_http_io::BoxBody;
use ringwall_http_io::body::{BoxError, boxed};
use ringwall_plugin_host::Filtered;
use thiserror::Error;

use crate::tunnel::{H2Body, ReadBody};

/// Why a body ended early.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    #[error("the body exceeds {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Other(BoxError),
}

impl BodyError {
    /// An error that has passed plugins is the one that it was before them.
    fn of(error: BoxError) -> Self {
        match error.downcast() {
            Ok(own) => *own,
            Err(error) => Self::Other(error),
        }
    }
}

/// Follows a body to its end; dropped with it.
pub(crate) trait Record: Send + fmt::Debug {
    fn moved(&mut self, bytes: usize);
    /// The trailers that end the body; those of gRPC carry its status.
    fn trailers(&mut self, _trailers: &HeaderMap) {}
    /// The body ended as it should; not called for one that broke off.
    fn ended(&mut self);
}

/// A body on its way through.
pub(crate) struct ProxyBody {
    kind: Kind,
    /// Bytes that may still come, and how many there could be at first; `None`: no limit.
    left: Option<(u64, u64)>,
    record: Option<Box<dyn Record>>,
    counter: Option<Arc<AtomicU64>>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Http1(Incoming),
    Http2(H2Body),
    Socket(ReadBody),
    Boxed(BoxBody),
    /// Past plugins.
    Filtered(Box<Filtered<ProxyBody>>),
}

impl fmt::Debug for ProxyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyBody").finish_non_exhaustive()
    }
}

impl ProxyBody {
    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            left: None,
            record: None,
            counter: None,
        }
    }

    pub(crate) const fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::empty();
        }
        Self::of(Kind::Full(bytes))
    }

    pub(crate) fn http1(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self::of(Kind::Http1(incoming))
    }

    pub(crate) fn http2(body: H2Body) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self::of(Kind::Http2(body))
    }

    /// What is read from the other side of a tunnel.
    pub(crate) const fn socket(body: ReadBody) -> Self {
        Self::of(Kind::Socket(body))
    }

    pub(crate) const fn boxed(body: BoxBody) -> Self {
        Self::of(Kind::Boxed(body))
    }

    /// Past plugins, which may look at it while it is read.
    pub(crate) fn filtered(body: Filtered<Self>) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self::of(Kind::Filtered(Box::new(body)))
    }

    /// What a plugin answers in the place of the other side.
    pub(crate) fn local(body: Filtered<Full<Bytes>>) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self::boxed(boxed(body))
    }

    /// Whether it is one direction of a stream of bytes, which is no body at all.
    pub(crate) const fn is_socket(&self) -> bool {
        matches!(self.kind, Kind::Socket(_))
    }

    /// Ends the body with an error after `limit` bytes.
    pub(crate) fn limited(mut self, limit: u64) -> Self {
        self.left = Some((limit, limit));
        self
    }

    /// Adds every byte to `counter`, which can be read while they pass.
    pub(crate) fn counted(mut self, counter: Arc<AtomicU64>) -> Self {
        self.counter = Some(counter);
        self
    }

    /// Lets `record` follow the body. An empty one has ended at once.
    pub(crate) fn recorded(mut self, mut record: Box<dyn Record>) -> Self {
        if self.is_end_stream() {
            record.ended();
        } else {
            self.record = Some(record);
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    fn end(&mut self) {
        self.kind = Kind::Empty;
        if let Some(mut record) = self.record.take() {
            record.ended();
        }
    }

    /// Drops the source, so that its connection learns of it, and the record without its end.
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.kind = Kind::Empty;
        self.record = None;
        Poll::Ready(Some(Err(error)))
    }

    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Kind::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Kind::Socket(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Other),
            Kind::Filtered(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::of),
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match ready!(this.poll_kind(cx)) {
            None => {
                this.end();
                return Poll::Ready(None);
            }
            Some(Err(error)) => return this.fail(error),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            if let Some((left, limit)) = &mut this.left {
                let limit = *limit;
                match left.checked_sub(data.len() as u64) {
                    Some(rest) => *left = rest,
                    None => return this.fail(BodyError::TooLarge { limit }),
                }
            }
            if let Some(counter) = &this.counter {
                counter.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            if let Some(record) = &mut this.record {
                record.moved(data.len());
            }
        } else if let (Some(record), Some(trailers)) = (&mut this.record, frame.trailers_ref()) {
            record.trailers(trailers);
        }
        if this.is_end_stream() {
            this.end();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
            Kind::Socket(_) => false,
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Filtered(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(_) | Kind::Socket(_) => SizeHint::default(),
            Kind::Boxed(body) => body.size_hint(),
            Kind::Filtered(body) => body.size_hint(),
        }
    }
}
