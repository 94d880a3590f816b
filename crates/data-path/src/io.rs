//! A client connection's bytes on their way to hyper: checked, counted and timed.
//!
//! Owns: feeding every byte of an HTTP/1.1 connection through [`HeadGuard`] and arming the deadlines of
//! [`Watch`]. On an offence the rest is replaced by bytes that hyper answers with 400 and a close, so that
//! sound pipelined requests before it are still served. Must not: buffer, or know routes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::guard::{HeadGuard, Violation};
use crate::watch::{Watch, millis};

/// Cannot stand in a request head or in chunk framing; with the empty line it makes hyper look at once.
const POISON: &[u8] = b"\0\r\n\r\n";

/// How long a body may trickle before its rate counts.
const BODY_GRACE: Duration = Duration::from_secs(10);

/// Limits that the connection's I/O enforces.
#[derive(Debug, Clone, Copy)]
pub struct IoLimits {
    pub header: Duration,
    pub body_idle: Duration,
    /// Bytes per second.
    pub body_min_rate: u64,
    pub write: Duration,
    pub max_head: usize,
}

/// The bytes of one client connection.
#[derive(Debug)]
pub struct GuardedStream<S> {
    inner: S,
    watch: Arc<Watch>,
    limits: IoLimits,
    /// `None` for HTTP/2: the h2 crate has one strict framing and its own limits.
    guard: Option<HeadGuard>,
    offence: Offended,
    head_by: Option<u64>,
    body: Option<Trickle>,
    write_blocked: bool,
}

/// How slowly a body comes, counted only while the gateway waits for it.
#[derive(Debug, Default)]
struct Trickle {
    bytes: u64,
    waited: u64,
    waiting_since: Option<u64>,
}

/// The offence of a connection, still readable when hyper has swallowed the stream.
#[derive(Debug, Clone, Default)]
pub struct Offended(Arc<OnceLock<Violation>>);

impl Offended {
    pub fn get(&self) -> Option<Violation> {
        self.0.get().copied()
    }

    fn set(&self, violation: Violation) {
        // The first offence counts; after it nothing more is read.
        let _first = self.0.set(violation);
    }
}

impl<S> GuardedStream<S> {
    pub fn offence(&self) -> Offended {
        self.offence.clone()
    }

    pub fn http1(inner: S, watch: Arc<Watch>, limits: IoLimits) -> Self {
        // hyper answers 431 at `max_head`; the guard is the fence behind it.
        let guard = HeadGuard::new(limits.max_head * 2);
        Self {
            guard: Some(guard),
            ..Self::http2(inner, watch, limits)
        }
    }

    pub fn http2(inner: S, watch: Arc<Watch>, limits: IoLimits) -> Self {
        Self {
            inner,
            watch,
            limits,
            guard: None,
            offence: Offended::default(),
            head_by: None,
            body: None,
            write_blocked: false,
        }
    }

    /// Arms the deadline that fits what is being waited for.
    fn wait(&mut self) {
        let watch = &self.watch;
        let now = watch.clock.now();
        match &self.guard {
            Some(guard) if guard.in_body() => {
                let body = self.body.get_or_insert_default();
                let since = *body.waiting_since.get_or_insert(now);
                let due = millis(BODY_GRACE) + body.bytes * 1000 / self.limits.body_min_rate.max(1);
                let slow = since + due.saturating_sub(body.waited);
                watch.read_until(slow.min(since + millis(self.limits.body_idle)));
            }
            Some(guard) if guard.head_is_partial() => {
                let by = *self.head_by.get_or_insert(now + millis(self.limits.header));
                watch.read_until(by);
            }
            _ if watch.is_busy() || watch.is_upgraded() => watch.read_whenever(),
            // Before the first request, the deadline that the accept has set still runs.
            Some(_) | None => {}
        }
    }

    /// Checks the bytes that were just read into `buf` beyond `before`.
    fn check(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = buf.filled().get(before..).unwrap_or_default();
        let count = fresh.len();
        let Some(guard) = self.guard.as_mut().filter(|_| !self.watch.is_upgraded()) else {
            return;
        };
        if let Err(offence) = guard.inspect(fresh) {
            self.offence.set(offence.violation);
            buf.set_filled(before + offence.message_start.unwrap_or(0));
            if buf.remaining() >= POISON.len() {
                buf.put_slice(POISON);
            }
            return;
        }
        if !guard.head_is_partial() {
            self.head_by = None;
        }
        if guard.in_body() {
            let now = self.watch.clock.now();
            let body = self.body.get_or_insert_default();
            body.bytes += count as u64;
            if let Some(since) = body.waiting_since.take() {
                body.waited += now.saturating_sub(since);
            }
            self.watch.read_whenever();
        } else {
            self.body = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.offence.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Pending => {
                this.wait();
                Poll::Pending
            }
            Poll::Ready(result) => {
                result?;
                this.watch.moved();
                this.check(buf, before);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> GuardedStream<S> {
    fn wrote(&mut self, progress: bool) {
        if progress {
            self.watch.moved();
            if self.write_blocked {
                self.write_blocked = false;
                self.watch.write_whenever();
            }
        } else if !self.write_blocked {
            self.write_blocked = true;
            self.watch.write_within(self.limits.write);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.wrote(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = ready!(Pin::new(&mut self.inner).poll_shutdown(cx));
        Poll::Ready(done)
    }
}
