//! HTTP/1.1, guarded byte by byte.

use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ringwall_data_path::io::GuardedStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Handler, Session};
use crate::body::ProxyBody;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Serves the connection until it ends.
pub(crate) async fn http1<S, H>(session: Arc<Session>, stream: S, handler: Arc<H>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let shared = Arc::clone(&session.worker.shared);
    let guarded = GuardedStream::http1(stream, Arc::clone(&session.watch), session.io_limits());
    let offence = guarded.offence();
    let mut server = http1::Builder::new();
    // No timers in hyper: the watch ends slow connections at no cost per request.
    server
        .header_read_timeout(None)
        .max_buf_size(shared.config.limits.max_head)
        .half_close(false);
    let connection = Arc::clone(&session);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let handler = Arc::clone(&handler);
        let shared = Arc::clone(&shared);
        let connection = Arc::clone(&connection);
        async move {
            let mut response = handler.handle(request.map(ProxyBody::http1)).await;
            if shared.is_draining() || connection.wanes() {
                response.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let ended = server
        .serve_connection(TokioIo::new(guarded), service)
        .with_upgrades()
        .await;
    if let Some(violation) = offence.get() {
        session.malformed(violation.as_str());
    } else if ended.is_err_and(|error| error.is_parse()) {
        session.malformed("unparsable");
    }
}
