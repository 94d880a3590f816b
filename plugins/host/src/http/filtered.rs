//! A body that passes plugins.
//!
//! Owns: nothing but the way: without a plugin that looks at it, frames go through as they are.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::callouts::BoxError;
use crate::http::stage::Pipeline;
use crate::http::stream::StreamInner;
use crate::instance::Way;

/// The body of a filtered message. While it lives, so does its stream in the plugins.
pub struct Filtered<B> {
    pub(super) source: B,
    pub(super) pipeline: Option<Box<Pipeline>>,
    stream: Option<Arc<StreamInner>>,
    way: Way,
}

impl<B> Filtered<B> {
    pub(super) const fn new(source: B, stream: Option<Arc<StreamInner>>, way: Way) -> Self {
        Self {
            source,
            pipeline: None,
            stream,
            way,
        }
    }

    /// A body that no plugin sees.
    pub const fn untouched(source: B) -> Self {
        Self::new(source, None, Way::Response)
    }
}

impl<B> Body for Filtered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match &mut this.pipeline {
            None => {
                let frame = ready!(Pin::new(&mut this.source).poll_frame(context));
                frame.map(|frame| frame.map_err(Into::into))
            }
            Some(pipeline) => ready!(pipeline.poll_frame(&mut this.source, context)),
        };
        if let Some(Ok(frame)) = &frame
            && this.way == Way::Response
            && let Some(trailers) = frame.trailers_ref()
            && let Some(stream) = &this.stream
        {
            let _ = stream.shared.seen.response_trailers.set(trailers.clone());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.pipeline {
            None => self.source.is_end_stream(),
            Some(pipeline) => pipeline.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.pipeline {
            None => self.source.size_hint(),
            Some(pipeline) => pipeline.size_hint(),
        }
    }
}

impl<B> std::fmt::Debug for Filtered<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stages = self.pipeline.is_some();
        formatter
            .debug_struct("Filtered")
            .field("is_seen", &stages)
            .finish_non_exhaustive()
    }
}
