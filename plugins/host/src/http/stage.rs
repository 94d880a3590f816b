//! A body on its way through the filters that look at it.
//!
//! Owns: the pause. Each filter is a stage that draws from the one before; what it releases waits in its queue. A filter
//! that has paused is given further chunks, as the specification has it, until what it holds reaches the limit; one that
//! holds the whole stream (a pause in the headers, see `HeadersPause`) is given none. Nothing runs but when the body is
//! polled, or the head waited for. Must not: know chains or responses.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::callouts::BoxError;
use crate::http::fields::Head;
use crate::http::local::{Cause, Ended};
use crate::http::shared::StreamShared;
use crate::instance::{Instance, Outcome, Released, Way};
use crate::spec::OnFailure;

/// What the reader of a body is told when a plugin has ended the stream.
#[derive(Debug, thiserror::Error)]
#[error("a plugin has ended the stream: {0:?}")]
struct StreamEnded(Cause);

enum Out {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    No,
    /// Body callbacks go on.
    Body,
    Whole,
}

/// One filter's part.
pub(super) struct Stage {
    pub(super) instance: Arc<Instance>,
    pub(super) id: u32,
    /// In the chain.
    place: usize,
    /// Released by a callback of the body, or from elsewhere.
    pub(super) head: Option<Head>,
    queue: VecDeque<Out>,
    hold: Hold,
    pause: Option<Pin<Box<Sleep>>>,
    seen_wishes: u32,
    /// Nothing more comes in.
    input_ended: bool,
    /// Nothing more goes out but the queue.
    pub(super) is_done: bool,
    /// The plugin has failed open.
    is_bypassed: bool,
    /// Its body callbacks are called; otherwise it is here for the head alone.
    looks_at_body: bool,
}

impl Stage {
    pub(super) fn new(instance: Arc<Instance>, id: u32, place: usize, looks_at_body: bool) -> Self {
        Self {
            instance,
            id,
            place,
            head: None,
            queue: VecDeque::new(),
            hold: Hold::No,
            pause: None,
            seen_wishes: 0,
            input_ended: false,
            is_done: false,
            is_bypassed: false,
            looks_at_body,
        }
    }

    /// Bytes that wait to be read.
    pub(super) fn queued(&self) -> usize {
        let sizes = self.queue.iter().map(|out| match out {
            Out::Data(bytes) => bytes.len(),
            Out::Trailers(_) => 0,
        });
        sizes.sum()
    }

    pub(super) fn accept(&mut self, shared: &StreamShared, outcome: Outcome) -> Result<(), Ended> {
        match outcome {
            Outcome::Continue(released) => self.absorb(released),
            Outcome::Paused { whole: true } => self.hold = Hold::Whole,
            Outcome::Paused { whole: false } => self.hold = Hold::Body,
            Outcome::Local(local) => return Err(Ended::Local(local)),
            Outcome::Closed => return Err(Ended::Closed),
            Outcome::Overflow => return Err(Ended::TooLarge(Way::Request)),
            Outcome::Failed(failure, held) => {
                let version = &self.instance.version;
                match version.spec.on_failure {
                    OnFailure::Closed => {
                        version.metrics.failed_closed.add(1);
                        return Err(Ended::Failed(failure));
                    }
                    OnFailure::Open => {
                        version.metrics.failed_open.add(1);
                        shared.bypass(self.place);
                        self.is_bypassed = true;
                        self.absorb(held);
                    }
                }
            }
        }
        Ok(())
    }

    fn absorb(&mut self, released: Released) {
        self.hold = Hold::No;
        self.pause = None;
        if released.head.is_some() {
            self.head = released.head;
        }
        self.queue.extend(released.body.into_iter().map(Out::Data));
        self.queue.extend(released.trailers.map(Out::Trailers));
        self.is_done |= released.end;
    }

    /// Ready when the plugin has held for too long.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let limit: Duration = self.instance.version.spec.limits.pause;
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        pause.as_mut().poll(context)
    }
}

/// All stages of one body, the first one nearest to its source.
pub(crate) struct Pipeline {
    shared: Arc<StreamShared>,
    way: Way,
    pub(super) stages: Vec<Stage>,
    has_failed: bool,
}

impl Pipeline {
    pub(super) const fn new(shared: Arc<StreamShared>, way: Way) -> Self {
        Self {
            shared,
            way,
            stages: Vec::new(),
            has_failed: false,
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.is_end_of(self.stages.len())
    }

    /// Whether nothing comes out of the first `count` stages any more.
    fn is_end_of(&self, count: usize) -> bool {
        let last = count.checked_sub(1).and_then(|last| self.stages.get(last));
        last.is_some_and(|stage| stage.is_done && stage.queue.is_empty())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.stages.last() {
            Some(last) if last.is_done => SizeHint::with_exact(last.queued() as u64),
            _ => SizeHint::default(),
        }
    }

    pub(super) fn poll_frame<B>(
        &mut self,
        source: &mut B,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let out = ready!(self.poll_stage(self.stages.len(), source, context));
        Poll::Ready(match out {
            None => None,
            Some(Ok(Out::Data(data))) => Some(Ok(Frame::data(data))),
            Some(Ok(Out::Trailers(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Some(Err(ended)) => {
                self.has_failed = true;
                Some(Err(self.end(ended)))
            }
        })
    }

    fn end(&self, ended: Ended) -> BoxError {
        if let Ended::Source(error) = ended {
            return error;
        }
        let error = StreamEnded(ended.cause());
        self.shared.end(ended);
        error.into()
    }

    /// Waits until the last stage's plugin lets the head go. Bodies are drawn meanwhile, if it wants to see them.
    pub(super) fn poll_head<B>(
        &mut self,
        source: &mut B,
        context: &mut Context<'_>,
    ) -> Poll<Result<Head, Ended>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        loop {
            let Some(last) = self.stages.last_mut() else {
                return Poll::Ready(Err(Ended::Closed));
            };
            if let Some(head) = last.head.take() {
                return Poll::Ready(Ok(head));
            }
            ready!(self.advance(self.stages.len(), source, context))?;
        }
    }

    /// What comes out of the first `count` stages next.
    fn poll_stage<B>(
        &mut self,
        count: usize,
        source: &mut B,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Out, Ended>>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        loop {
            let stage = count
                .checked_sub(1)
                .and_then(|last| self.stages.get_mut(last));
            let Some(stage) = stage else {
                return self.poll_source(source, context);
            };
            if let Some(out) = stage.queue.pop_front() {
                return Poll::Ready(Some(Ok(out)));
            }
            if stage.is_done {
                return Poll::Ready(None);
            }
            if let Err(ended) = ready!(self.advance(count, source, context)) {
                return Poll::Ready(Some(Err(ended)));
            }
        }
    }

    fn poll_source<B>(
        &self,
        source: &mut B,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Out, Ended>>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        loop {
            let frame = match ready!(Pin::new(&mut *source).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(Ended::Source(error.into())))),
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    self.shared.seen.note_bytes(self.way, data.len());
                    return Poll::Ready(Some(Ok(Out::Data(data))));
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return Poll::Ready(Some(Ok(Out::Trailers(trailers))));
                    }
                }
            }
        }
    }

    /// One step of the last of the first `count` stages: what a plugin has asked for meanwhile, or the next input.
    fn advance<B>(
        &mut self,
        count: usize,
        source: &mut B,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let way = self.way;
        let before = count.saturating_sub(1);
        self.shared.wait(way, context.waker());
        let wishes = self.shared.wishes();
        let Some(stage) = self.stages.get_mut(before) else {
            return Poll::Ready(Err(Ended::Closed));
        };
        if stage.hold != Hold::No || stage.seen_wishes != wishes {
            stage.seen_wishes = wishes;
            let event = (!stage.is_bypassed).then(|| stage.instance.events(stage.id, way));
            if let Some(outcome) = event.flatten() {
                return Poll::Ready(at(way, stage.accept(&self.shared, outcome)));
            }
        }
        if stage.hold != Hold::No && stage.poll_pause(context).is_ready() {
            let outcome = stage.instance.paused_too_long(stage.id, way);
            return Poll::Ready(at(way, stage.accept(&self.shared, outcome)));
        }
        if stage.hold == Hold::Whole || stage.input_ended {
            return Poll::Pending;
        }
        let input = ready!(self.poll_stage(before, source, context));
        let is_last = match before {
            0 => source.is_end_stream(),
            _ => self.is_end_of(before),
        };
        let Some(stage) = self.stages.get_mut(before) else {
            return Poll::Ready(Err(Ended::Closed));
        };
        Poll::Ready(at(way, stage.take(&self.shared, way, input, is_last)))
    }
}

impl Stage {
    fn take(
        &mut self,
        shared: &StreamShared,
        way: Way,
        input: Option<Result<Out, Ended>>,
        is_last: bool,
    ) -> Result<(), Ended> {
        let input = input.transpose()?;
        self.input_ended = is_last || !matches!(input, Some(Out::Data(_)));
        if self.is_bypassed || !self.looks_at_body {
            self.is_done = self.input_ended;
            self.queue.extend(input);
            return Ok(());
        }
        let outcome = match input {
            Some(Out::Data(data)) => self.instance.on_body(self.id, way, data, is_last),
            None => self.instance.on_body(self.id, way, Bytes::new(), true),
            Some(Out::Trailers(trailers)) => self.instance.on_trailers(self.id, way, trailers),
        };
        self.accept(shared, outcome)?;
        // What was given back by a plugin that failed, or by a guest's silence, ends as the input does.
        if self.hold == Hold::No && self.input_ended {
            self.is_done = true;
        }
        Ok(())
    }
}

/// Which body was too long.
fn at(way: Way, result: Result<(), Ended>) -> Result<(), Ended> {
    result.map_err(|ended| match ended {
        Ended::TooLarge(_) => Ended::TooLarge(way),
        other => other,
    })
}
