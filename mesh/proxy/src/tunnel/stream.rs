//! One HTTP/2 stream as a pair of pipes: opaque bytes through a tunnel.
//!
//! Owns: [`TunnelStream`] for whoever wants to read and write, and [`splice`], which joins it to a socket without
//! a buffer of its own. Half-close passes both ways. Must not: know what the bytes are.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use ringwall_data_path::gulp::give;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::H2Body;
use super::pipe::{PipeError, pipe};
use super::socket::{ReadBody, feed};

/// Opaque bytes over one stream; dropping it resets the stream.
pub(crate) struct TunnelStream {
    send: SendStream<Bytes>,
    recv: H2Body,
    /// Received and not yet read.
    rest: Bytes,
}

/// Bytes that went through so far; readable while they do.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// From the socket into the tunnel.
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").finish_non_exhaustive()
    }
}

impl TunnelStream {
    pub(super) const fn new(send: SendStream<Bytes>, recv: H2Body) -> Self {
        Self {
            send,
            recv,
            rest: Bytes::new(),
        }
    }
}

/// Carries bytes between `socket` and `tunnel` until both directions have ended, counting them in `moved`.
///
/// # Errors
/// When either side breaks: both are then closed.
pub(crate) async fn splice<S>(socket: S, tunnel: TunnelStream, moved: &Moved) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(socket);
    let up = Counted(ReadBody::new(reader), &moved.up);
    let down = Counted(tunnel.recv, &moved.down);
    let up = async { pipe(up, tunnel.send).await.map_err(io_error) };
    tokio::try_join!(up, feed(down, writer)).map(|_| ())
}

fn io_error(error: PipeError) -> io::Error {
    match error {
        PipeError::Stream(error) => h2_io_error(error),
        PipeError::Body(error) => io::Error::other(error),
    }
}

fn h2_io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or(io::ErrorKind::BrokenPipe.into())
    } else if error.is_reset() {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    } else {
        io::Error::new(io::ErrorKind::BrokenPipe, error)
    }
}

/// Counts the data of a body.
struct Counted<'a, B>(B, &'a AtomicU64);

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<'_, B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.1.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.recv).poll_frame(cx)) {
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(h2_io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        give(&mut this.rest, buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(bytes.len());
        let room = loop {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(room)) => break room,
                Some(Err(error)) => return Poll::Ready(Err(h2_io_error(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        let data = Bytes::copy_from_slice(taken);
        self.send.send_data(data, false).map_err(h2_io_error)?;
        Poll::Ready(Ok(taken.len()))
    }

    /// The connection's own task writes; there is nothing to wait for here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            // It has ended already: with or without an error of the peer.
            Err(_) => Poll::Ready(match ready!(self.send.poll_reset(cx)) {
                Ok(Reason::NO_ERROR | Reason::CANCEL) => Ok(()),
                Ok(reason) => Err(h2_io_error(reason.into())),
                Err(error) => Err(h2_io_error(error)),
            }),
        }
    }
}
