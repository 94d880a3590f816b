//! A body that stands in memory, cut into chunks as a connection would bring it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// As much as a proxy reads at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// It knows its length and its end, as a body with a `content-length` does.
#[derive(Debug, Default)]
pub(crate) struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    pub(crate) fn new(body: &[u8], trailers: Option<HeaderMap>) -> Self {
        let chunks = body.chunks(CHUNK).map(Bytes::copy_from_slice);
        let frames = chunks.map(Frame::data);
        Self(frames.chain(trailers.map(Frame::trailers)).collect())
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let sizes = self.0.iter().filter_map(Frame::data_ref).map(Bytes::len);
        SizeHint::with_exact(sizes.sum::<usize>() as u64)
    }
}
