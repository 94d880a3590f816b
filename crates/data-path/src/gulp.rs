//! A socket that is read in gulps: rustls asks for 4 KiB at a time, and each question would be a system call.
//!
//! Owns: what was read and not yet asked for; an idle connection holds nothing. Must not: look at the bytes, or touch
//! what is written.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one read takes at most.
const GULP: usize = 64 * 1024;

thread_local! {
    /// Shared by all sockets of a worker: what a read leaves in it is taken out before the next one.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A socket below TLS.
#[derive(Debug)]
pub struct Gulped<S> {
    inner: S,
    /// Read and not yet asked for, from `taken` on.
    rest: Vec<u8>,
    taken: usize,
}

impl<S> Gulped<S> {
    pub const fn new(inner: S) -> Self {
        Self {
            inner,
            rest: Vec::new(),
            taken: 0,
        }
    }

    /// The socket itself. Reading from it would lose what is held here.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let left = self.rest.get(self.taken..).unwrap_or_default();
        let length = left.len().min(buf.remaining());
        buf.put_slice(left.get(..length).unwrap_or_default());
        self.taken += length;
        if self.taken >= self.rest.len() {
            (self.rest, self.taken) = (Vec::new(), 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gulped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            this.give(buf);
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= GULP {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(GULP, 0);
            let mut gulp = ReadBuf::new(scratch);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut gulp))?;
            let filled = gulp.filled();
            let (now, later) = filled.split_at(filled.len().min(buf.remaining()));
            buf.put_slice(now);
            this.rest.extend_from_slice(later);
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gulped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_once_and_in_order_whatever_is_asked_for() {
        let (mut far, near) = tokio::io::duplex(3 * GULP);
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(2 * GULP + 77).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut gulped = Gulped::new(near);
        let mut seen = Vec::new();
        for size in [1, 4096, 7, GULP - 1, GULP + 1].into_iter().cycle() {
            let mut part = vec![0; size];
            let length = gulped.read(&mut part).await.unwrap();
            if length == 0 {
                break;
            }
            seen.extend_from_slice(&part[..length]);
        }
        assert_eq!(seen, sent);
    }

    #[tokio::test]
    async fn small_questions_make_one_read_and_an_idle_one_holds_nothing() {
        let (mut far, near) = tokio::io::duplex(GULP);
        far.write_all(&[9; 5000]).await.unwrap();
        let mut gulped = Gulped::new(Counting(near, 0));
        let mut part = [0; 4096];
        assert_eq!(gulped.read(&mut part).await.unwrap(), 4096);
        assert_eq!(gulped.read(&mut part).await.unwrap(), 904);
        assert_eq!(gulped.get_ref().1, 1);
        assert_eq!(gulped.rest.capacity(), 0);
    }

    struct Counting<S>(S, usize);

    impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }
}
