//! The receiving half of an HTTP/2 stream as a body.
//!
//! Owns: the release of flow-control credit as data is taken, and the place that the stream has in its connection.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame};

use super::pool::Place;

/// What comes on one stream.
pub(crate) struct H2Body {
    recv: RecvStream,
    data_done: bool,
    /// Of a stream that we opened.
    _place: Option<Place>,
}

impl fmt::Debug for H2Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2Body").finish_non_exhaustive()
    }
}

impl H2Body {
    /// Of a stream that the peer opened.
    pub(crate) const fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            data_done: false,
            _place: None,
        }
    }

    pub(super) const fn placed(recv: RecvStream, place: Place) -> Self {
        Self {
            recv,
            data_done: false,
            _place: Some(place),
        }
    }
}

impl Body for H2Body {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        while !this.data_done {
            match ready!(this.recv.poll_data(cx)) {
                // The end of a stream may stand in an empty frame.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // Whoever takes the frame has room for it; the peer may send the next one.
                    this.recv.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // RFC 9113 §8.1: the peer needs no more of the message; what it said is complete.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.data_done = true,
            }
        }
        let trailers = ready!(this.recv.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }
}
