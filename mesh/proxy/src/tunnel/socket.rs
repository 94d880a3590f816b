//! Sockets as bodies: what is read becomes frames, frames become what is written.
//!
//! Owns: reading without a buffer per connection: an idle one costs none (R25). Must not: know HTTP.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use ringwall_data_path::gulp::poll_gulp;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;

/// What comes from a socket, as a body that ends where the socket's other side stops writing.
pub(crate) struct ReadBody {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    other: Option<oneshot::Receiver<()>>,
}

/// The other direction of a pair, for whoever carries it: dropped before [`Link::done`], it breaks off the first.
#[derive(Debug)]
pub(crate) struct Link(oneshot::Sender<()>);

impl Link {
    /// This direction has ended as it should; the other may go on.
    pub(crate) fn done(self) {
        // The other one may be over already.
        let _over = self.0.send(());
    }
}

impl fmt::Debug for ReadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBody").finish_non_exhaustive()
    }
}

impl ReadBody {
    pub(crate) fn new(reader: impl AsyncRead + Send + 'static) -> Self {
        Self {
            reader: Box::pin(reader),
            other: None,
        }
    }

    /// One direction of a pair: it breaks off with the other one.
    pub(crate) fn linked(reader: impl AsyncRead + Send + 'static) -> (Self, Link) {
        let (sender, receiver) = oneshot::channel();
        let body = Self {
            other: Some(receiver),
            ..Self::new(reader)
        };
        (body, Link(sender))
    }

    fn poll_other(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(other) = &mut self.other else {
            return Ok(());
        };
        match Pin::new(other).poll(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => self.other = None,
            Poll::Ready(Err(_)) => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        Ok(())
    }
}

impl Body for ReadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.poll_other(cx)?;
        let data = ready!(poll_gulp(self.reader.as_mut(), cx))?;
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }
}

/// Writes all of `body`'s data, and then says that no more comes.
///
/// # Errors
/// Of the writer, or `BrokenPipe` when the body broke off.
pub(crate) async fn feed<B, W>(mut body: B, mut writer: W) -> io::Result<()>
where
    B: Body<Data = Bytes> + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    writer.write_all(&data).await?;
                    writer.flush().await?;
                }
            }
            Some(Err(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            None => return writer.shutdown().await,
        }
    }
}
