//! HTTP/2 to one upstream, for the calls by gRPC that plugins make.
//!
//! Owns: one connection per worker and cluster, opened at the first call and shared by all, and the bound on calls at once, which
//! is that of the cluster's connections. Its certificate ends as everybody's do (R34): then the next call opens another one.
//! Must not: retry, or carry clients' requests.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use parking_lot::Mutex;
use ringwall_data_path::permit::Permit;
use ringwall_data_path::watch::{CoarseClock, millis};
use ringwall_plugin_host::{BoxError, CalloutBody};

use super::dial::{Dialer, Http2};

/// The connection to one cluster, if there is one.
pub(crate) struct Calls {
    dialer: Dialer,
    clock: Arc<CoarseClock>,
    max_calls: usize,
    under_way: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    /// On the worker's clock.
    used: AtomicU64,
    current: Mutex<Option<Connection>>,
    /// Held while one is opened, so that all calls that want it wait for the same one.
    opening: tokio::sync::Mutex<()>,
}

struct Connection {
    sender: SendRequest<CalloutBody>,
    /// When it is given no further call, on the worker's clock.
    until: u64,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls")
            .field("dialer", &self.dialer)
            .finish_non_exhaustive()
    }
}

impl Calls {
    pub(super) fn new(dialer: Dialer, clock: &Arc<CoarseClock>, max_calls: usize) -> Self {
        Self {
            dialer,
            clock: Arc::clone(clock),
            max_calls,
            under_way: Arc::default(),
            open: Arc::default(),
            used: AtomicU64::new(clock.now()),
            current: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// Sends a call; dropping the future, or the body of the answer, cancels it.
    pub(crate) async fn send(
        &self,
        request: Request<CalloutBody>,
    ) -> Result<Response<Answer>, BoxError> {
        let permit = Permit::take(&self.under_way, self.max_calls);
        let permit = permit.ok_or("too many calls are under way")?;
        let request = absolute(request).ok_or("the call names no host")?;
        let mut sender = self.sender().await?;
        self.used.store(self.clock.now(), Ordering::Relaxed);
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| Answer {
            body,
            _permit: permit,
        }))
    }

    async fn sender(&self) -> Result<SendRequest<CalloutBody>, BoxError> {
        if let Some(sender) = self.open_one() {
            return Ok(sender);
        }
        let _opening = self.opening.lock().await;
        if let Some(sender) = self.open_one() {
            return Ok(sender);
        }
        let dialled = self.dialer.dial_http2(Arc::clone(&self.open)).await;
        let Http2 { sender, usable_for } = dialled?;
        let until = usable_for.map_or(u64::MAX, |left| {
            self.clock.now().saturating_add(millis(left))
        });
        *self.current.lock() = Some(Connection {
            sender: sender.clone(),
            until,
        });
        Ok(sender)
    }

    fn open_one(&self) -> Option<SendRequest<CalloutBody>> {
        let now = self.clock.now();
        let mut current = self.current.lock();
        let usable = current.take_if(|one| one.sender.is_closed() || now >= one.until);
        drop(usable);
        current.as_ref().map(|one| one.sender.clone())
    }

    /// Closes the connection if nothing has used it since `oldest`.
    pub(super) fn sweep(&self, oldest: u64) {
        let is_idle = self.under_way.load(Ordering::Relaxed) == 0;
        if is_idle && self.used.load(Ordering::Relaxed) < oldest {
            drop(self.current.lock().take());
        }
    }
}

/// RFC 9113 §8.3.1: HTTP/2 names the host in the target.
fn absolute(request: Request<CalloutBody>) -> Option<Request<CalloutBody>> {
    let (mut parts, body) = request.into_parts();
    let host = parts.headers.remove(header::HOST);
    if parts.uri.authority().is_none() {
        let authority = Authority::try_from(host?.as_bytes()).ok()?;
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority);
        parts.uri = Uri::from_parts(uri).ok()?;
    }
    parts.version = Version::HTTP_2;
    Some(Request::from_parts(parts, body))
}

/// The body of an answer, which counts as a call under way until its end.
pub(crate) struct Answer {
    body: Incoming,
    _permit: Permit,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
