//! Step 8: to the application and back.
//!
//! Owns: the choice of HTTP/1.1 or HTTP/2 for the way over loopback, the one retry that is safe, and the wait for a
//! response head. Takes what only an authorized request becomes. Must not: buffer bodies.

use std::error::Error as _;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;

use super::admit::Purpose;
use super::exchange::Exchange;
use super::speak::Outgoing;
use super::strip::strip_response;
use super::{tunnel, upgrade};
use crate::body::{BodyError, ProxyBody};
use crate::inbound::apps::{AppPool, Lease, NoLease};
use crate::inbound::caller::Caller;
use crate::refusal::Refusal;
use crate::tunnel::SendError;

pub(crate) async fn forward(
    caller: &Arc<Caller>,
    outgoing: Outgoing,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let Outgoing {
        parts,
        body,
        port,
        purpose,
        http2,
        permit,
    } = outgoing;
    exchange.permit = Some(permit);
    let grpc = purpose.is_grpc();
    match purpose {
        Purpose::Tunnel => return Box::pin(tunnel::forward(caller, port, body, exchange)).await,
        Purpose::WebSocket(how) => {
            return Box::pin(upgrade::forward(caller, port, parts, body, how, exchange)).await;
        }
        Purpose::Request { .. } => {}
    }
    let limits = &caller.session.worker.shared.config.limits;
    let request = Request::from_parts(parts, body);
    let pool = caller.session.worker.inbound.apps.pool(port.app);
    let answer = async {
        if http2 {
            http2_exchange(&pool, request).await
        } else {
            http1_exchange(&pool, request, exchange).await
        }
    };
    // A call of gRPC may be silent for as long as it likes: its caller has the deadline.
    let answer = match (!grpc).then_some(limits.response_timeout) {
        Some(limit) => within(limit, answer).await?,
        None => answer.await,
    };
    let mut response = answer?;
    exchange.answered();
    strip_response(response.headers_mut());
    Ok(response)
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Refusal> {
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_elapsed| Refusal::Timeout)
}

async fn http2_exchange(
    pool: &Arc<AppPool>,
    request: Request<ProxyBody>,
) -> Result<Response<ProxyBody>, Refusal> {
    match pool.http2().send(request).await {
        Ok(response) => Ok(response.map(ProxyBody::http2)),
        Err(error) => Err(refusal_of(error)),
    }
}

pub(super) fn refusal_of(error: SendError) -> Refusal {
    match error {
        SendError::Connect(error) => Refusal::Connect(error),
        SendError::ConnectTimeout(_) => Refusal::Connect("no connection in time".into()),
        SendError::Pending => Refusal::Overloaded("too-many-pending"),
        SendError::Body(error) => match error.downcast_ref::<BodyError>() {
            Some(BodyError::TooLarge { .. }) => Refusal::BodyTooLarge,
            _ => Refusal::Malformed("body-broken"),
        },
        other => Refusal::Failed(other.to_string().into()),
    }
}

/// Sends on a pooled connection; where that one turns out to be stale, once more on a new one.
///
/// The second attempt is made only when nothing was sent, or when the method is idempotent, the request has no body
/// and no byte of a response has come (RFC 9110 §9.2.2).
async fn http1_exchange(
    pool: &Arc<AppPool>,
    request: Request<ProxyBody>,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let lease = pool.lease().await.map_err(no_lease)?;
    let (response, lease) = attempt(pool, lease, request).await?;
    if http_body::Body::is_end_stream(response.body()) {
        lease.give_back();
    } else {
        exchange.lease = Some(lease);
    }
    Ok(response.map(ProxyBody::http1))
}

async fn attempt(
    pool: &Arc<AppPool>,
    mut lease: Lease,
    request: Request<ProxyBody>,
) -> Result<(Response<Incoming>, Lease), Refusal> {
    let spare = (lease.reused && is_repeatable(&request)).then(|| copy_of(&request));
    let mut error = match lease.sender.try_send_request(request).await {
        Ok(response) => return Ok((response, lease)),
        Err(error) => error,
    };
    let unsent = error.take_message();
    let error = error.into_error();
    let again = unsent.or_else(|| spare.filter(|_| closed_without_answer(&error)));
    match again.filter(|_| lease.reused) {
        None => Err(failed(&error)),
        Some(request) => {
            drop(lease);
            let mut lease = pool.dial().await.map_err(no_lease)?;
            match lease.sender.try_send_request(request).await {
                Ok(response) => Ok((response, lease)),
                Err(error) => Err(failed(&error.into_error())),
            }
        }
    }
}

/// The application closed the connection while it was idle: the request met a closed door.
fn closed_without_answer(error: &hyper::Error) -> bool {
    let reset = error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|io| {
            matches!(
                io.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            )
        });
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || reset
}

fn is_repeatable(request: &Request<ProxyBody>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    idempotent && request.body().is_empty()
}

fn copy_of(request: &Request<ProxyBody>) -> Request<ProxyBody> {
    let mut copy = Request::new(ProxyBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

pub(super) fn no_lease(no_lease: NoLease) -> Refusal {
    match no_lease {
        NoLease::Busy => Refusal::Overloaded("too-many-connections"),
        NoLease::Dial(error) => Refusal::Connect(error),
    }
}

/// What went wrong may be the caller's doing: a body over the limit, or one that never came.
pub(super) fn failed(error: &hyper::Error) -> Refusal {
    let body = error
        .source()
        .and_then(|source| source.downcast_ref::<BodyError>());
    match body {
        Some(BodyError::TooLarge { .. }) => Refusal::BodyTooLarge,
        Some(_) => Refusal::Malformed("body-broken"),
        None => {
            let cause = error
                .source()
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            Refusal::Failed(format!("{error}{cause}").into())
        }
    }
}
