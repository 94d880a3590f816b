//! A response on its way in: without what ends at this hop, and within the rule's limits until its last byte.
//!
//! Owns: the body that carries the flow's record, the place in the rule's limit and the connection to their ends.
//! Must not: follow a redirect; a workload that does comes here again, and is asked again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use ringwall_http_io::BoxBody;
use ringwall_http_io::body::BoxError;
use ringwall_http_io::headers::{strip_hop_by_hop, strip_trusted};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use super::pool::{Key, Pool};
use ringwall_observe::{Flow, Observer, Verdict};

/// Takes out what ends here. `Alt-Svc` would send workloads past this gateway (RFC 7838).
pub(crate) fn strip(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    strip_trusted(headers);
    headers.remove(header::ALT_SVC);
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the response is longer than {0} bytes")]
    TooLarge(u64),
    #[error("nothing came within {0:?}")]
    Idle(Duration),
}

/// A flow that is recorded when it ends.
pub(crate) struct Record {
    pub(crate) observer: Arc<Observer>,
    pub(crate) flow: Option<Flow>,
    pub(crate) verdict: Verdict,
    pub(crate) began: Instant,
    pub(crate) sent: Arc<AtomicU64>,
    pub(crate) received: u64,
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(mut flow) = self.flow.take() else {
            return;
        };
        flow.bytes_sent = self.sent.load(Ordering::Relaxed);
        flow.bytes_received = self.received;
        flow.duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.observer.record(self.verdict, || flow);
    }
}

/// Where an HTTP/1.1 connection goes when its response has ended.
pub(crate) struct Home {
    pub(crate) pool: Arc<Pool>,
    pub(crate) key: Key,
    pub(crate) sender: http1::SendRequest<BoxBody>,
    pub(crate) born: Instant,
}

/// The body of a response.
pub(crate) struct Limited {
    inner: Incoming,
    left: u64,
    limit: u64,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    home: Option<Home>,
    record: Record,
    _permit: OwnedSemaphorePermit,
}

impl Limited {
    pub(crate) fn new(
        inner: Incoming,
        (limit, idle): (u64, Duration),
        home: Option<Home>,
        record: Record,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let mut body = Self {
            inner,
            left: limit,
            limit,
            idle,
            timer: Box::pin(sleep(idle)),
            home,
            record,
            _permit: permit,
        };
        if body.inner.is_end_stream() {
            body.ended();
        }
        body
    }

    fn ended(&mut self) {
        if let Some(home) = self.home.take() {
            home.pool.give_back(home.key, home.sender, home.born);
        }
    }

    fn cut(&mut self, why: Cut) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // The connection is in the middle of something that nobody wants.
        self.home = None;
        self.failed(&why.to_string());
        Poll::Ready(Some(Err(Box::new(why))))
    }

    fn failed(&mut self, why: &str) {
        self.record.verdict = Verdict::Error;
        if let Some(flow) = &mut self.record.flow {
            flow.reason = why.into();
        }
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if this.timer.as_mut().poll(cx).is_ready() {
                    let idle = this.idle;
                    return this.cut(Cut::Idle(idle));
                }
                return Poll::Pending;
            }
        };
        match frame {
            None => {
                this.ended();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                this.home = None;
                this.failed(&error.to_string());
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip(trailers);
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(left) = this.left.checked_sub(bytes) else {
                    let limit = this.limit;
                    return this.cut(Cut::TooLarge(limit));
                };
                this.left = left;
                this.record.received = this.record.received.saturating_add(bytes);
                this.timer.as_mut().reset(Instant::now() + this.idle);
                if this.inner.is_end_stream() {
                    this.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
