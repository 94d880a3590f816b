//! A body into the sending half of an HTTP/2 stream.
//!
//! Owns: backpressure: no frame is taken from the body before the peer's window has room. Must not: buffer.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use ringwall_http_io::body::BoxError;

/// Why a body did not reach its end.
#[derive(Debug)]
pub(crate) enum PipeError {
    /// The stream or its connection is gone.
    Stream(h2::Error),
    /// The body broke off; the stream was reset.
    Body(BoxError),
}

/// What comes next for a stream.
enum Next {
    Frame(Frame<Bytes>),
    End,
}

/// Sends all of `body`, and its trailers, and ends the stream.
pub(crate) async fn pipe<B>(mut body: B, mut send: SendStream<Bytes>) -> Result<(), PipeError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    loop {
        send.reserve_capacity(1);
        if send.capacity() == 0 {
            poll_fn(|cx| poll_room(&mut send, cx))
                .await
                .map_err(PipeError::Stream)?;
        }
        let next = poll_fn(|cx| poll_next(&mut body, &mut send, cx)).await;
        match next {
            Err(PipeError::Body(error)) => {
                send.send_reset(Reason::CANCEL);
                return Err(PipeError::Body(error));
            }
            Err(error) => return Err(error),
            Ok(Next::End) => return end(&mut send),
            Ok(Next::Frame(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    send.send_data(data, last).map_err(PipeError::Stream)?;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return send.send_trailers(trailers).map_err(PipeError::Stream);
                }
            },
        }
    }
}

fn end(send: &mut SendStream<Bytes>) -> Result<(), PipeError> {
    send.send_data(Bytes::new(), true)
        .map_err(PipeError::Stream)
}

fn poll_room(send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
    loop {
        return match send.poll_capacity(cx) {
            Poll::Ready(Some(Ok(0))) => continue,
            Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(())),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
            Poll::Ready(None) => Poll::Ready(Err(Reason::CANCEL.into())),
            Poll::Pending => Poll::Pending,
        };
    }
}

fn poll_next<B>(
    body: &mut B,
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<Next, PipeError>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    match std::pin::Pin::new(body).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(Next::Frame(frame))),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(PipeError::Body(error.into()))),
        Poll::Ready(None) => Poll::Ready(Ok(Next::End)),
        // While the body has nothing, the peer may lose interest.
        Poll::Pending => match send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Poll::Ready(Err(PipeError::Stream(reason.into()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(PipeError::Stream(error))),
            Poll::Pending => Poll::Pending,
        },
    }
}
