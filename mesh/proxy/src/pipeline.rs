//! The path of a peer's request, top to bottom: the one function to read.
//!
//! Owns: the order of the steps. Each step is a verb in a file of its own under `pipeline/`; steps hand each other
//! evidence ([`admit::Admitted`], [`identify::Identified`], [`authorize::Authorized`], [`limit::Limited`],
//! [`filter::Filtered`]), and `forward` takes what only `authorize.rs` can begin: forgetting authorization does not compile.
//! Must not: hold logic of its own.

pub(crate) mod admit;
pub(crate) mod authorize;
pub(crate) mod exchange;
pub(crate) mod filter;
pub(crate) mod forward;
pub(crate) mod identify;
mod leave;
pub(crate) mod limit;
pub(crate) mod loopback;
pub(crate) mod respond;
pub(crate) mod speak;
pub(crate) mod strip;
mod tunnel;
mod upgrade;

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use http::{Request, Response};

use self::exchange::Exchange;
use self::filter::Filtered;
use crate::body::ProxyBody;
use crate::inbound::caller::Caller;
use crate::refusal::Refusal;

pub(crate) use self::tunnel::tcp;

/// Serves one request. It cannot fail: a refusal is a response too.
pub(crate) async fn run(caller: Arc<Caller>, request: Request<ProxyBody>) -> Response<ProxyBody> {
    let mut exchange = Box::new(Exchange::open(&caller, &request));
    match proxy(&mut exchange, request).await {
        Ok(response) => respond::pass(response, exchange),
        Err(refusal) => respond::refuse(&refusal, exchange),
    }
}

async fn proxy(
    exchange: &mut Exchange,
    request: Request<ProxyBody>,
) -> Result<Response<ProxyBody>, Refusal> {
    let caller = Arc::clone(&exchange.caller);
    let admitted = admit::admit(&caller, request, exchange)?;
    let stripped = strip::strip(admitted);
    let identified = identify::identify(&caller, stripped, exchange).await;
    let authorized = authorize::authorize(&caller, identified, exchange)?;
    let limited = limit::limit(&caller, authorized)?;
    let filtered = match filter::filter(&caller, limited, exchange).await? {
        ControlFlow::Continue(filtered) => filtered,
        ControlFlow::Break(answer) => return Ok(answer),
    };
    let plugins = filtered.plugins.clone();
    let raced = {
        // Where it stands, and not moved: it is the largest part of a request's state.
        let sending = pin!(send(&caller, filtered, exchange));
        plugins.race(sending).await?
    };
    plugins.back(raced, exchange).await
}

async fn send(
    caller: &Arc<Caller>,
    filtered: Filtered,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    if let Some(egress) = &caller.session.worker.shared.egress {
        return Box::pin(leave::leave(caller, egress, filtered, exchange)).await;
    }
    let outgoing = speak::speak(caller, filtered, exchange);
    forward::forward(caller, outgoing, exchange).await
}
