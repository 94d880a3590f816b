//! Reading in gulps: as much as a socket has, in one system call, into a buffer that a worker's sockets share.
//!
//! Owns: that buffer, and [`Gulped`] below TLS, since rustls asks for 4 KiB at a time and each question would be a
//! system call. An idle connection holds nothing. Must not: look at the bytes, or touch what is written.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes that one read takes at most. rustls takes 64 KiB at once: with the header of an HTTP/2 frame (RFC 9113 §4.1) in front, a
/// gulp is four full records of TLS and one write, where 64 KiB would leave nine bytes to a record and a write of their own.
const GULP: usize = 64 * 1024 - 9;
/// Less than this is copied out of the shared buffer; more is handed on with it.
const SMALL: usize = 8 * 1024;

thread_local! {
    /// Shared by all sockets of a worker: empty between two reads.
    static SHARED: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// What the socket has, a little less than 64 KiB at most; empty at its end.
pub fn poll_gulp<S: AsyncRead + ?Sized>(
    socket: Pin<&mut S>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    poll_shared(socket, cx, detach)
}

/// Moves what fits from `rest` to `buf`. Memory goes back with the last byte: the connection may live for long.
pub fn give(rest: &mut Bytes, buf: &mut ReadBuf<'_>) {
    let length = rest.len().min(buf.remaining());
    buf.put_slice(rest.get(..length).unwrap_or_default());
    rest.advance(length);
    if rest.is_empty() {
        *rest = Bytes::new();
    }
}

/// Reads into the shared buffer, which `take` leaves empty.
fn poll_shared<S: AsyncRead + ?Sized, T>(
    socket: Pin<&mut S>,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut BytesMut) -> T,
) -> Poll<io::Result<T>> {
    // Taken out for the time of the read: what is read may stand on another socket that is read like this.
    let mut shared = SHARED.take();
    shared.reserve(GULP);
    let read = poll_read_buf(socket, cx, &mut shared);
    let taken = read.map_ok(|_| take(&mut shared));
    SHARED.set(shared);
    taken
}

fn detach(shared: &mut BytesMut) -> Bytes {
    if shared.len() >= SMALL {
        return shared.split().freeze();
    }
    let copy = Bytes::copy_from_slice(shared);
    shared.clear();
    copy
}

/// A socket below TLS.
#[derive(Debug)]
pub struct Gulped<S> {
    inner: S,
    /// Read and not yet asked for.
    rest: Bytes,
}

impl<S> Gulped<S> {
    pub const fn new(inner: S) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
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
        if this.rest.is_empty() {
            // What was asked for goes where it is wanted at once; only what is left over takes memory.
            this.rest = ready!(poll_shared(Pin::new(&mut this.inner), cx, |shared| {
                if shared.len() > buf.remaining() {
                    return detach(shared);
                }
                buf.put_slice(shared);
                shared.clear();
                Bytes::new()
            }))?;
        }
        give(&mut this.rest, buf);
        Poll::Ready(Ok(()))
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
    async fn small_questions_make_one_read() {
        let (mut far, near) = tokio::io::duplex(GULP);
        far.write_all(&[9; 20_000]).await.unwrap();
        let mut gulped = Gulped::new(Counting(near, 0));
        let mut part = [0; 4096];
        for expected in [4096, 4096, 4096, 4096, 3616] {
            assert_eq!(gulped.read(&mut part).await.unwrap(), expected);
        }
        assert_eq!(gulped.inner.1, 1);
        assert!(gulped.rest.is_empty());
    }

    #[tokio::test]
    async fn one_may_stand_on_another() {
        let (mut far, near) = tokio::io::duplex(GULP);
        far.write_all(&[9; 20_000]).await.unwrap();
        let mut outer = Gulped::new(Gulped::new(near));
        let mut seen = vec![0; 20_000];
        outer.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, [9; 20_000]);
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
