//! Step 9: to the upstream and back.
//!
//! Owns: the choice of a connection, the one retry that is safe, and the wait for a response head. Takes an
//! [`Authorized`], so that nothing else can be forwarded. Must not: buffer bodies.

use std::error::Error as _;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::authorize::Authorized;
use super::body::{BodyError, ProxyBody, UpstreamBody};
use super::contextualise::Outgoing;
use super::filter;
use super::strip::strip_response;
use super::upgrade;
use crate::access_log::Exchange;
use crate::conn::Connection;
use crate::refusal::Refusal;
use crate::upstream::{Lease, NoLease, Pool};

pub(crate) async fn forward(
    connection: &Arc<Connection>,
    authorized: Authorized,
    outgoing: Outgoing,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let route = authorized.route();
    let pool = connection
        .worker
        .pools
        .of(&route.cluster)
        .map_err(|error| Refusal::UpstreamConnect(error.to_string().into()))?;
    if outgoing.websocket {
        return Box::pin(upgrade::forward(
            connection, route, &pool, outgoing, exchange,
        ))
        .await;
    }
    let Outgoing {
        parts,
        body,
        plugins,
        ..
    } = outgoing;
    let request = Request::from_parts(parts, body);
    // Where it stands, and not moved: it is the largest part of a request's state.
    let sending = pin!(timeout(route.timeout, send(&pool, request)));
    let sent = match plugins.beside(sending).await {
        Ok(sent) => sent,
        Err(refused) => return filter::answer(refused, exchange),
    };
    let (response, lease) = match sent {
        Ok(sent) => sent?,
        Err(_elapsed) => return Err(Refusal::UpstreamTimeout),
    };
    exchange.upstream_answered();
    let (mut parts, body) = response.into_parts();
    strip_response(&mut parts.headers);
    let response = Response::from_parts(parts, ProxyBody::upstream(body, lease));
    plugins.response(response, exchange).await
}

/// Sends on a pooled connection; where that one turns out to be stale, once more on a new one.
///
/// The second attempt is made only when nothing was sent, or when the method is idempotent, the request has no
/// body and no byte of a response has come (RFC 9110 §9.2.2).
async fn send(
    pool: &Arc<Pool>,
    request: Request<UpstreamBody>,
) -> Result<(Response<Incoming>, Lease), Refusal> {
    let mut lease = pool.lease().await.map_err(no_lease)?;
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

/// The upstream closed the connection while it was idle: the request met a closed door.
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

fn is_repeatable(request: &Request<UpstreamBody>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    idempotent && request.body().is_empty()
}

fn copy_of(request: &Request<UpstreamBody>) -> Request<UpstreamBody> {
    let mut copy = Request::new(UpstreamBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

pub(super) fn no_lease(no_lease: NoLease) -> Refusal {
    match no_lease {
        NoLease::Busy => Refusal::UpstreamBusy,
        NoLease::Dial(error) => Refusal::UpstreamConnect(error.to_string().into()),
    }
}

/// What went wrong may be the client's doing: a body over the limit, or one that never came.
pub(super) fn failed(error: &hyper::Error) -> Refusal {
    match error
        .source()
        .and_then(|source| source.downcast_ref::<BodyError>())
    {
        Some(BodyError::TooLarge { .. }) => Refusal::BodyTooLarge,
        Some(BodyError::Stalled) => Refusal::Malformed("body-stalled"),
        Some(BodyError::Read(_)) => Refusal::Malformed("body-broken"),
        None => {
            let cause = error
                .source()
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            Refusal::UpstreamFailed(format!("{error}{cause}").into())
        }
    }
}
