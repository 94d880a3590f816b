//! HTTP/2 over the h2 crate itself: a stream costs one task, an idle connection little more than its socket.
//!
//! Owns: the settings and their limits (rapid reset, CONTINUATION floods, head sizes), GOAWAY at a drain and at a
//! cut. Must not: look into requests.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, header};
use http_body::Body as _;
use ringwall_data_path::io::GuardedStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Handler, Session};
use crate::body::ProxyBody;
use crate::tunnel::{H2Body, MAX_FRAME, SEND_BUFFER, WINDOW_CONNECTION, WINDOW_STREAM, pipe};

/// Streams that a peer may reset before they were accepted, and that we may reset for its errors
/// (rapid reset, CVE-2023-44487 and CVE-2025-8671).
const RESETS: usize = 20;
/// How long the last GOAWAY may take to leave.
const FAREWELL: Duration = Duration::from_millis(200);

/// Serves the connection until it ends.
pub(crate) async fn http2<S, H>(session: Arc<Session>, stream: S, handler: Arc<H>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let shared = Arc::clone(&session.worker.shared);
    let limits = &shared.config.limits;
    let guarded = GuardedStream::http2(stream, Arc::clone(&session.watch), session.io_limits());
    let handshake = Builder::new()
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_head).unwrap_or(u32::MAX))
        .initial_window_size(WINDOW_STREAM)
        .initial_connection_window_size(WINDOW_CONNECTION)
        .max_frame_size(MAX_FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(RESETS))
        .enable_connect_protocol()
        .handshake::<_, Bytes>(guarded)
        .await;
    let mut connection = match handshake {
        Ok(connection) => connection,
        Err(error) => return ended(&session, &error),
    };
    let mut leaving = pin!(async {
        tokio::select! {
            () = shared.draining() => {}
            () = session.waned() => {}
        }
    });
    let mut leaves = false;
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                None => return,
                Some(Err(error)) => return ended(&session, &error),
                Some(Ok((request, respond))) => {
                    let (session, handler) = (Arc::clone(&session), Arc::clone(&handler));
                    // A task is moved when it is spawned and when it ends: this one is too large for that.
                    tokio::spawn(async move {
                        Box::pin(exchange(session, handler, request, respond)).await;
                    });
                }
            },
            () = session.cut.notified() => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                let closed = poll_fn(|cx| connection.poll_closed(cx));
                // Dropping the connection ends what is left of its streams.
                let _closed = tokio::time::timeout(FAREWELL, closed).await;
                return;
            }
            () = &mut leaving, if !leaves => {
                leaves = true;
                connection.graceful_shutdown();
            }
        }
    }
}

async fn exchange<H: Handler>(
    session: Arc<Session>,
    handler: Arc<H>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let headless = request.method() == Method::HEAD;
    let request = request.map(|recv| ProxyBody::http2(H2Body::new(recv)));
    let response: Option<Response<ProxyBody>> = {
        let mut handling = pin!(handler.handle(request));
        poll_fn(|cx| {
            if let Poll::Ready(response) = handling.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            // A peer that has lost interest, or is gone, ends the work for it.
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    let Some(response) = response else { return };
    let (mut parts, body) = response.into_parts();
    // RFC 9113 §8.2.2: there is no such field.
    parts.headers.remove(header::CONNECTION);
    let end = headless || body.is_end_stream();
    let head = Response::from_parts(parts, ());
    if let Ok(send) = respond.send_response(head, end)
        && !end
    {
        let mut piping = Box::pin(pipe(body, send));
        let sent = poll_fn(|cx| Poll::Ready(piping.as_mut().poll(cx).is_ready())).await;
        if !sent {
            // What lasts need not hold the room in which the request was handled.
            tokio::spawn(async move {
                // Whoever reads the body's record learns that it broke off; the stream was reset by then.
                let _broken = piping.await;
                drop(session);
            });
        }
    }
}

fn ended(session: &Session, error: &h2::Error) {
    // A peer that goes away is no offence; one that breaks the protocol is.
    if !error.is_io() && error.reason() != Some(Reason::NO_ERROR) {
        session.malformed("http2-protocol");
    }
}
