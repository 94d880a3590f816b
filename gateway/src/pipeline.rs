//! The request path, top to bottom: the one function to read.
//!
//! Owns: the order of the steps. Each step is a verb in a file of its own under `pipeline/`; steps hand each
//! other evidence ([`route::Routed`], [`authenticate::Authenticated`], [`authorize::Authorized`]), and `forward`
//! takes an `Authorized` that only `authorize.rs` can make: forgetting authorization does not compile.
//! Must not: hold logic of its own.

pub(crate) mod admit;
pub(crate) mod authenticate;
pub(crate) mod authorize;
pub(crate) mod body;
pub(crate) mod contextualise;
pub(crate) mod filter;
pub(crate) mod forward;
pub(crate) mod limit;
pub(crate) mod respond;
pub(crate) mod route;
pub(crate) mod strip;
pub(crate) mod upgrade;

use std::ops::ControlFlow;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use self::body::ProxyBody;
use crate::access_log::Exchange;
use crate::conn::Connection;
use crate::refusal::Refusal;

/// Serves one request. It cannot fail: a refusal is a response too.
pub(crate) async fn run(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<ProxyBody> {
    let mut exchange = Box::new(Exchange::open(&connection, &request));
    match proxy(&mut exchange, request).await {
        Ok(response) => respond::pass(response, exchange),
        Err(refusal) => respond::refuse(&refusal, exchange),
    }
}

async fn proxy(
    exchange: &mut Exchange,
    request: Request<Incoming>,
) -> Result<Response<ProxyBody>, Refusal> {
    let connection = Arc::clone(&exchange.connection);
    let worker = &connection.worker;
    let admitted = admit::admit(&connection, request)?;
    let routed = route::route(worker, &admitted, exchange)?;
    let authenticated = authenticate::authenticate(worker, routed, &admitted, exchange).await?;
    let authorized = authorize::authorize(authenticated)?;
    limit::limit(&connection, &authorized, exchange)?;
    let stripped = strip::strip(admitted, authorized.route());
    let filtered = match filter::filter(&connection, &authorized, stripped, exchange).await? {
        ControlFlow::Continue(filtered) => filtered,
        ControlFlow::Break(answer) => return Ok(answer),
    };
    let outgoing = contextualise::contextualise(&connection, &authorized, filtered, exchange)?;
    forward::forward(&connection, authorized, outgoing, exchange).await
}
