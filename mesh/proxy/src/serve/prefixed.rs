//! A stream whose first bytes were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use ringwall_data_path::gulp::give;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives `prefix` before what the stream itself has; writes go through.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    prefix: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    /// The first `length` bytes of `read` come first.
    pub(crate) fn new(inner: S, read: &[u8], length: usize) -> Self {
        Self {
            prefix: Bytes::copy_from_slice(read.get(..length).unwrap_or_default()),
            inner,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.prefix.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        give(&mut this.prefix, buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::serve::{Spoken, detect};

    async fn spoken(bytes: &[u8], cut: usize) -> (Spoken, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(64);
        let (head, tail) = bytes.split_at(cut);
        let (head, tail) = (head.to_vec(), tail.to_vec());
        let writer = tokio::spawn(async move {
            near.write_all(&head).await.expect("write");
            tokio::task::yield_now().await;
            near.write_all(&tail).await.expect("write");
        });
        let (spoken, mut stream) = detect(far).await.expect("detected");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("read");
        writer.await.expect("written");
        (spoken, all)
    }

    #[tokio::test]
    async fn the_two_are_told_apart_and_no_byte_is_lost() {
        for (bytes, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest"[..], Spoken::Http2),
            (b"GET / HTTP/1.1\r\n\r\n", Spoken::Http1),
            (b"PUT / HTTP/1.1\r\n\r\n", Spoken::Http1),
            (b"PRINT / HTTP/1.1\r\n\r\n", Spoken::Http1),
        ] {
            for cut in 0..6 {
                assert_eq!(spoken(bytes, cut).await, (expected, bytes.to_vec()));
            }
        }
    }

    #[tokio::test]
    async fn a_connection_without_a_byte_is_an_error() {
        let (near, far) = tokio::io::duplex(64);
        drop(near);
        assert!(detect(far).await.is_err());
    }
}
