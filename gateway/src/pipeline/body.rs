//! The two bodies of a proxied request, streamed under a limit.
//!
//! Owns: [`RequestBody`] (counted against the route's limit), [`UpstreamBody`] (the same, perhaps past plugins) and
//! [`ProxyBody`] (returns the upstream connection to its pool and completes the access log at its end). Trailers end here: both sides would have to agree on
//! which of them are trusted. Must not: buffer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use ringwall_plugin_host::{BoxError, CalloutBody, Filtered};
use thiserror::Error;
use tokio::time::{Sleep, sleep};

use crate::access_log::Exchange;
use crate::refusal::Refusal;
use crate::upstream::Lease;

/// Why a body ended early.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    #[error("the request body exceeds {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the request body stalled")]
    Stalled,
    #[error(transparent)]
    Read(#[from] hyper::Error),
}

/// What the client sends, on its way to the upstream.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Option<Incoming>,
    left: u64,
    limit: u64,
    sent: Option<Arc<AtomicU64>>,
    /// HTTP/2 only: on HTTP/1.1 the connection's watch does this without a timer.
    idle: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, limit: u64, idle: Option<Duration>) -> Self {
        let inner = Some(inner).filter(|body| !body.is_end_stream());
        let idle = idle
            .filter(|_| inner.is_some())
            .map(|idle| (Box::pin(sleep(idle)), idle));
        let sent = inner.is_some().then(Arc::default);
        Self {
            inner,
            left: limit,
            limit,
            sent,
            idle,
        }
    }

    /// The same for a request whose length, if it has one, is within the limit: beyond it, it is refused before a byte of
    /// the body is read.
    pub(crate) fn within(
        parts: &Parts,
        inner: Incoming,
        limit: u64,
        idle: Option<Duration>,
    ) -> Result<Self, Refusal> {
        if let Some(length) = parts.headers.get(header::CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|text| text.parse().ok());
            match length {
                Some(length) if limit >= length => {}
                Some(_) => return Err(Refusal::BodyTooLarge),
                None => return Err(Refusal::Malformed("invalid-content-length")),
            }
        }
        Ok(Self::new(inner, limit, idle))
    }

    pub(crate) fn empty() -> Self {
        Self {
            inner: None,
            left: 0,
            limit: 0,
            sent: None,
            idle: None,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// Bytes that went through, readable after the body is gone; none where there is no body.
    pub(crate) fn counter(&self) -> Option<Arc<AtomicU64>> {
        self.sent.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        let frame = match polled {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if let Some((timer, _)) = &mut this.idle {
                    ready!(timer.as_mut().poll(cx));
                    this.inner = None;
                    return Poll::Ready(Some(Err(BodyError::Stalled)));
                }
                return Poll::Pending;
            }
        };
        if let Some((timer, idle)) = &mut this.idle {
            timer.as_mut().reset(tokio::time::Instant::now() + *idle);
        }
        let Some(frame) = frame.transpose()? else {
            this.inner = None;
            return Poll::Ready(None);
        };
        let Ok(data) = frame.into_data() else {
            this.inner = None;
            return Poll::Ready(None);
        };
        let length = data.len() as u64;
        if length > this.left {
            this.inner = None;
            return Poll::Ready(Some(Err(BodyError::TooLarge { limit: this.limit })));
        }
        this.left -= length;
        if let Some(sent) = &this.sent {
            sent.fetch_add(length, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// What an upstream receives.
#[derive(Debug)]
pub(crate) enum UpstreamBody {
    Client(RequestBody),
    /// Past the plugins of the route.
    Filtered(Box<Filtered<RequestBody>>),
    /// Of a plugin's own call.
    Call(CalloutBody),
}

impl UpstreamBody {
    pub(crate) fn empty() -> Self {
        Self::Client(RequestBody::empty())
    }

    /// Whether there is none, so that the request can be sent twice.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Client(body) => body.is_empty(),
            Self::Filtered(_) | Self::Call(_) => false,
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Client(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Filtered(body) => Pin::new(body).poll_frame(cx),
            Self::Call(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Filtered(body) => body.is_end_stream(),
            Self::Call(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Filtered(body) => body.size_hint(),
            Self::Call(body) => body.size_hint(),
        }
    }
}

/// What the client receives.
#[derive(Debug)]
pub(crate) struct ProxyBody {
    kind: Kind,
    exchange: Option<Box<Exchange>>,
}

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Upstream {
        inner: Incoming,
        lease: Option<Lease>,
    },
    /// Past the plugins of the route.
    Filtered(Box<Filtered<ProxyBody>>),
    /// What a plugin answers.
    Local(Box<Filtered<Full<Bytes>>>),
}

impl ProxyBody {
    pub(crate) const fn full(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Full(Some(bytes)),
            exchange: None,
        }
    }

    pub(crate) const fn empty() -> Self {
        Self {
            kind: Kind::Full(None),
            exchange: None,
        }
    }

    /// Streams `inner`; at its end `lease` goes back to its pool.
    pub(crate) fn upstream(inner: Incoming, lease: Lease) -> Self {
        if inner.is_end_stream() {
            lease.give_back();
            return Self::empty();
        }
        Self {
            kind: Kind::Upstream {
                inner,
                lease: Some(lease),
            },
            exchange: None,
        }
    }

    pub(crate) fn filtered(body: Filtered<Self>) -> Self {
        Self {
            kind: Kind::Filtered(Box::new(body)),
            exchange: None,
        }
    }

    pub(crate) fn local(body: Filtered<Full<Bytes>>) -> Self {
        Self {
            kind: Kind::Local(Box::new(body)),
            exchange: None,
        }
    }

    /// Ties the record of the request to this body: it is written when the body ends.
    /// `headless`: the response to HEAD, whose body nobody reads.
    pub(crate) fn record(&mut self, mut exchange: Box<Exchange>, headless: bool) {
        exchange.complete = headless || self.is_end_stream();
        if !exchange.complete {
            self.exchange = Some(exchange);
        }
    }

    fn finish(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.complete = true;
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let data = match &mut this.kind {
            Kind::Full(bytes) => bytes.take(),
            Kind::Upstream { inner, lease } => {
                let frame = ready!(Pin::new(&mut *inner).poll_frame(cx)).transpose()?;
                let data = frame.and_then(|frame| frame.into_data().ok());
                let ended = data.is_none() || inner.is_end_stream();
                if let Some(lease) = lease.take_if(|_| ended) {
                    lease.give_back();
                }
                data
            }
            Kind::Filtered(body) => data(ready!(Pin::new(body).poll_frame(cx)))?,
            Kind::Local(body) => data(ready!(Pin::new(body).poll_frame(cx)))?,
        };
        if let (Some(data), Some(exchange)) = (&data, &mut this.exchange) {
            exchange.bytes_out += data.len() as u64;
        }
        if this.is_end_stream() || data.is_none() {
            this.finish();
        }
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Upstream { inner, .. } => inner.is_end_stream(),
            Kind::Filtered(body) => body.is_end_stream(),
            Kind::Local(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Upstream { inner, .. } => inner.size_hint(),
            Kind::Filtered(body) => body.size_hint(),
            Kind::Local(body) => body.size_hint(),
        }
    }
}

/// The bytes of a frame; trailers are none.
fn data(frame: Option<Result<Frame<Bytes>, BoxError>>) -> Result<Option<Bytes>, BoxError> {
    Ok(frame.transpose()?.and_then(|frame| frame.into_data().ok()))
}
