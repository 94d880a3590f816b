//! What happens on one stream that we open.
//!
//! Owns: the two directions of a request at once: a peer may answer before it has the whole body, and an answer may
//! stream while the body still does. Must not: choose the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body::Body;
use ringwall_http_io::body::BoxError;

use super::Switched;
use super::body::H2Body;
use super::error::SendError;
use super::pipe::{PipeError, pipe};
use super::pool::Stream;
use super::stream::TunnelStream;

impl Stream {
    /// Sends `request` and returns the head of the response; its body streams. The request's URI needs scheme, authority
    /// and path. Dropping the future resets the stream.
    ///
    /// # Errors
    /// [`SendError::is_unseen`] says whether the peer may have seen the request.
    pub(crate) async fn send<B>(self, request: Request<B>) -> Result<Response<H2Body>, SendError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let Self { mut sender, place } = self;
        let (parts, body) = request.into_parts();
        let end = body.is_end_stream();
        let sent = sender.send_request(Request::from_parts(parts, ()), end);
        // An error here means that no frame was made.
        let (mut response, send) = sent.map_err(SendError::NotTaken)?;
        if end {
            let response = response.await.map_err(SendError::of_stream)?;
            return Ok(response.map(|recv| H2Body::placed(recv, place)));
        }
        let mut piping = Some(Box::pin(pipe(body, send)));
        let response = poll_fn(|cx| {
            if let Some(running) = &mut piping
                && let Poll::Ready(ended) = running.as_mut().poll(cx)
            {
                piping = None;
                // Of a broken stream, the response knows more.
                if let Err(PipeError::Body(error)) = ended {
                    return Poll::Ready(Err(SendError::Body(error)));
                }
            }
            let response = Pin::new(&mut response).poll(cx);
            response.map_err(SendError::of_stream)
        });
        let response = response.await?;
        if let Some(rest) = piping {
            // The answer is early, or both directions stream: the rest of the body goes its own way.
            tokio::spawn(rest);
        }
        Ok(response.map(|recv| H2Body::placed(recv, place)))
    }

    /// Opens opaque bytes to `authority`, `host:port` of one of the service's ports (HBONE).
    ///
    /// # Errors
    /// As [`Self::send`]; [`SendError::Refused`] when the peer answers with anything but 2xx.
    pub(crate) async fn connect(self, authority: &str) -> Result<TunnelStream, SendError> {
        let uri: Uri = authority
            .parse()
            .map_err(|_| SendError::Connect("the tunnel's target is no authority".into()))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        match switch(self, request).await?.into_parts() {
            (_, Switched::Stream(stream)) => Ok(stream),
            (parts, Switched::Declined(_)) => Err(SendError::Refused(parts.status)),
        }
    }

    /// Opens a WebSocket (RFC 8441): `request` is the handshake as a CONNECT with `:protocol`; what comes back is
    /// the peer's answer, with a stream if it is 2xx.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) async fn websocket(
        self,
        request: Request<()>,
    ) -> Result<Response<Switched>, SendError> {
        if !self.sender.is_extended_connect_protocol_enabled() {
            return Err(SendError::NoExtendedConnect);
        }
        switch(self, request).await
    }
}

async fn switch(stream: Stream, request: Request<()>) -> Result<Response<Switched>, SendError> {
    let Stream { mut sender, place } = stream;
    let sent = sender.send_request(request, false);
    let (response, send) = sent.map_err(SendError::NotTaken)?;
    let response = response.await.map_err(SendError::of_stream)?;
    let taken = response.status().is_success();
    Ok(response.map(|recv| {
        let recv = H2Body::placed(recv, place);
        if taken {
            Switched::Stream(TunnelStream::new(send, recv))
        } else {
            Switched::Declined(recv)
        }
    }))
}
