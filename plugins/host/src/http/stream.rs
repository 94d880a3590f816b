//! One HTTP stream: what an embedder calls, in the order of a request.
//!
//! Owns: the order of filters (requests forwards, responses backwards), who sees what, and what a failure means for the
//! stream. As in Envoy, a response made by a plugin on the request's way passes the filters that have seen the request;
//! one made on the response's way does not. Must not: read bodies; `stage.rs` does.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body;

use crate::callouts::BoxError;
use crate::chain::Chain;
use crate::http::fields::Head;
use crate::http::filtered::Filtered;
use crate::http::local::{Ended, Refused};
use crate::http::shared::StreamShared;
use crate::http::stage::{Pipeline, Stage};
use crate::instance::{ContextKind, Failure, Instance, Outcome, Way};
use crate::plugin::Version;
use crate::properties::StreamInfo;
use crate::spec::{BodyAccess, OnFailure};
use crate::worker::WorkerInner;

/// A stream through the plugins of a route. It ends in them when it and both bodies have been dropped.
#[derive(Clone)]
pub struct HttpStream {
    inner: Arc<StreamInner>,
}

impl std::fmt::Debug for HttpStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HttpStream").finish_non_exhaustive()
    }
}

pub(crate) struct StreamInner {
    pub(crate) shared: Arc<StreamShared>,
    filters: Box<[Filter]>,
    response_sent: AtomicBool,
}

/// A plugin's part in this stream.
struct Filter {
    version: Arc<Version>,
    target: Result<Arc<Instance>, Failure>,
    /// Its context in the guest; 0 before there is one.
    context: AtomicU32,
    /// In the chain.
    place: usize,
}

impl HttpStream {
    pub(crate) fn open(worker: &Arc<WorkerInner>, chain: &Chain, info: StreamInfo) -> Self {
        let filters = chain.plugins.iter().enumerate().map(|(place, plugin)| {
            let version = plugin.pick();
            Filter {
                target: worker.instance(&version),
                version,
                context: AtomicU32::new(0),
                place,
            }
        });
        Self {
            inner: Arc::new(StreamInner {
                filters: filters.collect(),
                shared: Arc::new(StreamShared::new(info, chain.plugins.len())),
                response_sent: AtomicBool::new(false),
            }),
        }
    }

    /// Passes the request's head, and prepares its body, which plugins see while it is read. An error is the answer to
    /// the client.
    pub async fn request<B>(&self, request: Request<B>) -> Result<Request<Filtered<B>>, Refused>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let (head, source) = request.into_parts();
        let shared = &self.inner.shared;
        shared.note_protocol(&head);
        let mut body = Filtered::new(source, Some(Arc::clone(&self.inner)), Way::Request);
        let mut head = Head::Request(Box::new(head));
        for filter in &self.inner.filters {
            match self.inner.pass(filter, Way::Request, head, &mut body).await {
                Ok(passed) => head = passed,
                Err(ended) => return Err(self.refuse(ended).await),
            }
        }
        let Head::Request(mut head) = head else {
            return Err(self.refuse(Ended::Closed).await);
        };
        if !self.inner.filters.is_empty() {
            shared.seen.note_request(&mut head);
        }
        Ok(Request::from_parts(*head, body))
    }

    /// The same for the response, the last filter first.
    pub async fn response<B>(&self, response: Response<B>) -> Result<Response<Filtered<B>>, Refused>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        self.inner
            .respond(response)
            .await
            .map_err(|ended| self.answer(ended))
    }

    /// Whether a plugin has changed the method, the authority or the path: what was decided by them may have to be decided
    /// again.
    pub fn is_rewritten(&self) -> bool {
        self.inner.shared.is_rewritten()
    }

    /// Resolves if a plugin ends the stream after its request's head has passed: while its body is read, or while the
    /// response is awaited. To be awaited beside the upstream's response.
    pub async fn interrupted(&self) -> Refused {
        let inner = &self.inner;
        let ended = poll_fn(|context| {
            inner.shared.wait_for_interrupt(context.waker());
            if let Some(ended) = inner.shared.ended.lock().take() {
                return Poll::Ready(ended);
            }
            // Nearly always nobody has wished anything, and no instance has to be asked.
            if inner.shared.wishes() == 0 {
                return Poll::Pending;
            }
            inner.wish().map_or(Poll::Pending, Poll::Ready)
        });
        let ended = ended.await;
        self.refuse(ended).await
    }

    /// Awaits `work`, such as the upstream's response, unless a plugin ends the stream meanwhile. An end that makes `work` fail,
    /// since the body that it sends breaks off, is the plugin's and not the failure.
    pub async fn beside<T>(&self, work: impl Future<Output = T>) -> Result<T, Refused> {
        let mut interrupted = pin!(self.interrupted());
        let done = tokio::select! {
            biased;
            refused = &mut interrupted => return Err(refused),
            done = work => done,
        };
        if self.inner.shared.has_ended() {
            return Err(interrupted.await);
        }
        Ok(done)
    }

    /// A response of a plugin's, through the filters that have seen the request.
    async fn refuse(&self, ended: Ended) -> Refused {
        let cause = ended.cause();
        if self.inner.response_sent.load(Ordering::Relaxed) {
            return Refused {
                cause,
                response: None,
            };
        }
        let is_grpc = self.inner.shared.is_grpc.load(Ordering::Relaxed);
        let Some(response) = ended.into_response(is_grpc) else {
            return Refused {
                cause,
                response: None,
            };
        };
        // Whoever has failed has nothing to say to that.
        for filter in &self.inner.filters {
            let lost = filter
                .target
                .as_ref()
                .is_ok_and(|instance| instance.has_failed());
            if lost {
                self.inner.shared.bypass(filter.place);
            }
        }
        match self.inner.respond(response).await {
            Ok(response) => Refused {
                cause,
                response: Some(response),
            },
            Err(ended) => self.answer(ended),
        }
    }

    /// A response of a plugin's, to the client at once.
    fn answer(&self, ended: Ended) -> Refused {
        let cause = ended.cause();
        let is_grpc = self.inner.shared.is_grpc.load(Ordering::Relaxed);
        let response = ended.into_response(is_grpc);
        self.inner.response_sent.store(true, Ordering::Relaxed);
        let response = response.map(|response| self.inner.note(response));
        Refused {
            cause,
            response: response.map(|response| {
                let stream = Arc::clone(&self.inner);
                response.map(|body| Filtered::new(body, Some(stream), Way::Response))
            }),
        }
    }
}

impl StreamInner {
    async fn respond<B>(
        self: &Arc<Self>,
        response: Response<B>,
    ) -> Result<Response<Filtered<B>>, Ended>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let (head, source) = response.into_parts();
        let mut body = Filtered::new(source, Some(Arc::clone(self)), Way::Response);
        let mut head = Head::Response(Box::new(head));
        for filter in self.filters.iter().rev() {
            head = self.pass(filter, Way::Response, head, &mut body).await?;
        }
        let Head::Response(head) = head else {
            return Err(Ended::Closed);
        };
        self.response_sent.store(true, Ordering::Relaxed);
        Ok(self.note(Response::from_parts(*head, body)))
    }

    fn note<B>(&self, response: Response<B>) -> Response<B> {
        let (mut head, body) = response.into_parts();
        if self.filters.iter().any(Filter::looks_back) {
            self.shared.seen.note_response(&mut head);
        }
        Response::from_parts(head, body)
    }

    /// One filter: its headers callback, and a stage for the body if it wants to see that.
    async fn pass<B>(
        &self,
        filter: &Filter,
        way: Way,
        head: Head,
        body: &mut Filtered<B>,
    ) -> Result<Head, Ended>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut id = filter.context.load(Ordering::Relaxed);
        let is_unseen = id == 0 && way == Way::Response;
        if is_unseen || self.shared.is_bypassed(filter.place) {
            return Ok(head);
        }
        let instance = match &filter.target {
            Ok(instance) => instance,
            Err(failure) => return filter.failed(&self.shared, failure.clone()).map(|()| head),
        };
        if id == 0 {
            id = match instance.open(ContextKind::Http, &self.shared) {
                Ok(id) => id,
                Err(failure) => return filter.failed(&self.shared, failure).map(|()| head),
            };
            filter.context.store(id, Ordering::Relaxed);
        }
        let end = body.is_end_stream();
        let outcome = instance.on_headers(id, way, head, end);
        let sees_body = !end && instance.sees_body(way);
        let mut stage = Stage::new(Arc::clone(instance), id, filter.place, sees_body);
        if let Outcome::Failed(failure, held) = outcome {
            filter.failed(&self.shared, failure)?;
            return held.head.ok_or(Ended::Closed);
        }
        stage.accept(&self.shared, outcome)?;
        let had_length = |head: &Head| match head {
            Head::Request(head) => head.headers.contains_key(header::CONTENT_LENGTH),
            Head::Response(head) => head.headers.contains_key(header::CONTENT_LENGTH),
        };
        let released = stage.head.take();
        if sees_body || released.is_none() {
            body.add(&self.shared, way, stage);
        }
        let head = match released {
            Some(head) => head,
            None => body.wait_for_head().await?,
        };
        let may_change = filter.version.spec.capabilities.body == BodyAccess::Write;
        if !may_change || !sees_body || !had_length(&head) {
            return Ok(head);
        }
        Ok(reframe(head, body))
    }

    /// What a plugin has asked for outside the stream's own callbacks.
    fn wish(&self) -> Option<Ended> {
        let mut filters = self.filters.iter();
        filters.find_map(|filter| {
            let instance = filter.target.as_ref().ok()?;
            let id = filter.context.load(Ordering::Relaxed);
            if id == 0 || self.shared.is_bypassed(filter.place) {
                return None;
            }
            instance.wish(id)
        })
    }
}

/// The length of a body that a plugin may change is known when it has all passed, or not at all.
fn reframe<B>(mut head: Head, body: &Filtered<B>) -> Head {
    let stage = body
        .pipeline
        .as_ref()
        .and_then(|pipeline| pipeline.stages.last());
    let length = stage.filter(|stage| stage.is_done).map(Stage::queued);
    let headers = match &mut head {
        Head::Request(head) => &mut head.headers,
        Head::Response(head) => &mut head.headers,
    };
    match length {
        Some(length) => headers.insert(header::CONTENT_LENGTH, length.into()),
        None => headers.remove(header::CONTENT_LENGTH),
    };
    head
}

impl<B> Filtered<B> {
    fn add(&mut self, shared: &Arc<StreamShared>, way: Way, stage: Stage) {
        let pipeline = self
            .pipeline
            .get_or_insert_with(|| Box::new(Pipeline::new(Arc::clone(shared), way)));
        pipeline.stages.push(stage);
    }
}

impl<B> Filtered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    async fn wait_for_head(&mut self) -> Result<Head, Ended> {
        let Self {
            source, pipeline, ..
        } = self;
        let waited = poll_fn(|context| match pipeline {
            Some(pipeline) => pipeline.poll_head(source, context),
            None => Poll::Ready(Err(Ended::Closed)),
        });
        waited.await
    }
}

impl Filter {
    /// Closed: the stream ends. Open: it goes on without this filter.
    fn failed(&self, shared: &StreamShared, failure: Failure) -> Result<(), Ended> {
        let metrics = &self.version.metrics;
        shared.bypass(self.place);
        match self.version.spec.on_failure {
            OnFailure::Closed => {
                metrics.failed_closed.add(1);
                Err(Ended::Failed(failure))
            }
            OnFailure::Open => {
                metrics.failed_open.add(1);
                Ok(())
            }
        }
    }

    fn looks_back(&self) -> bool {
        self.target
            .as_ref()
            .is_ok_and(|instance| instance.looks_back)
    }
}

impl Drop for StreamInner {
    fn drop(&mut self) {
        for filter in &self.filters {
            let id = filter.context.load(Ordering::Relaxed);
            if let Ok(instance) = &filter.target
                && id != 0
            {
                instance.finish(id);
            }
        }
    }
}
