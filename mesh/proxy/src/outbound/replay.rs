//! A request body that can be sent again while it is small.
//!
//! Owns: [`Replay`], which keeps what has gone by up to [`LIMIT`] bytes, and [`ReplayBody`], one reading of it. A larger body
//! streams on without being kept, and then there is no second attempt. What a former reading has not taken, the next one
//! takes from the source.
//! Must not: read ahead: a byte is taken from the caller when the peer has room for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use ringwall_http_io::body::BoxError;
use thiserror::Error;

/// Bytes of one request that are kept for another attempt.
pub(crate) const LIMIT: usize = 64 * 1024;
/// Frames that are kept, so that a body of very small ones costs no more.
const MAX_FRAMES: usize = 1024;

/// A body, of which readings can be had.
#[derive(Debug)]
pub(crate) struct Replay<B> {
    shared: Arc<Mutex<Shared<B>>>,
}

/// One reading, from the first byte to the last.
#[derive(Debug)]
pub(crate) struct ReplayBody<B> {
    shared: Arc<Mutex<Shared<B>>>,
    reading: u64,
    /// Frames that this reading has given.
    given: usize,
    done: bool,
}

#[derive(Debug)]
struct Shared<B> {
    /// Gone when it has ended.
    source: Option<B>,
    kept: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    /// Something was not kept.
    leaked: bool,
    /// The reading that may take from the source.
    reading: u64,
    waker: Option<Waker>,
}

#[derive(Debug, Error)]
#[error("another attempt has taken over the body")]
struct Superseded;

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    pub(crate) fn new(source: B) -> Self {
        let shared = Shared {
            source: Some(source).filter(|source| !source.is_end_stream()),
            kept: Vec::new(),
            size: 0,
            trailers: None,
            leaked: false,
            reading: 0,
            waker: None,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// A new reading; `None` when not everything was kept. A former one gets nothing more from the source.
    pub(crate) fn read(&self) -> Option<ReplayBody<B>> {
        let mut shared = self.shared.lock();
        if shared.leaked {
            return None;
        }
        shared.reading += 1;
        let reading = shared.reading;
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
        drop(shared);
        Some(ReplayBody {
            shared: Arc::clone(&self.shared),
            reading,
            given: 0,
            done: false,
        })
    }

    pub(crate) fn is_whole(&self) -> bool {
        !self.shared.lock().leaked
    }

    /// Everything is kept and nothing more comes: readings do not get into each other's way.
    pub(crate) fn is_complete(&self) -> bool {
        let shared = self.shared.lock();
        !shared.leaked && shared.source.is_none()
    }

    /// There will be no further reading: nothing is kept from now on.
    pub(crate) fn settle(&self) {
        let mut shared = self.shared.lock();
        // The present reading may be behind what is kept, if it is a repetition.
        shared.leaked = true;
    }
}

impl<B> Shared<B> {
    fn keep(&mut self, data: &Bytes) {
        if self.size + data.len() > LIMIT || self.kept.len() >= MAX_FRAMES {
            self.leaked = true;
        }
        if self.leaked {
            // Readings that have not given these yet are void, but for the present one, which has.
            self.kept = Vec::new();
            return;
        }
        self.size += data.len();
        self.kept.push(data.clone());
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        let shared = &mut *this.shared.lock();
        if let Some(data) = shared.kept.get(this.given) {
            this.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if shared.reading != this.reading && (shared.source.is_some() || shared.leaked) {
            this.done = true;
            return Poll::Ready(Some(Err(Superseded.into())));
        }
        let Some(source) = &mut shared.source else {
            this.done = true;
            let trailers = shared.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let polled = Pin::new(source).poll_frame(cx);
        if polled.is_pending() {
            shared.waker = Some(cx.waker().clone());
        }
        let frame = ready!(polled);
        match frame {
            None => {
                shared.source = None;
                this.done = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                shared.source = None;
                shared.leaked = true;
                this.done = true;
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    shared.keep(data);
                    this.given += 1;
                    if source_ended(shared) {
                        shared.source = None;
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    shared.trailers = Some(trailers.clone());
                    shared.source = None;
                    this.done = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        self.done
            || (shared.source.is_none()
                && shared.trailers.is_none()
                && shared.kept.len() <= self.given)
    }

    fn size_hint(&self) -> SizeHint {
        // Lengths are in the head; frames of HTTP/2 need none.
        SizeHint::default()
    }
}

fn source_ended<B: Body>(shared: &Shared<B>) -> bool {
    shared.source.as_ref().is_none_or(Body::is_end_stream)
}

#[cfg(test)]
#[path = "replay/tests.rs"]
mod tests;
