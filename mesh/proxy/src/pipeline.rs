//! The path of a peer's request, top to bottom: the one function to read.
//!
//! Owns: the order of the steps. Each step is a verb in a file of its own under `pipeline/`; steps hand each other
//! evidence ([`admit::Admitted`], [`identify::Identified`], [`authorize::Authorized`], [`limit::Limited`]), and
//! `forward` takes what only `authorize.rs` can begin: forgetting authorization does not compile.
//! Must not: hold logic of its own.

pub(crate) mod admit;
pub(crate) mod authorize;
pub(crate) mod exchange;
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

use std::sync::Arc;

use http::{Request, Response};

use self::exchange::Exchange;
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
    if let Some(egress) = &caller.session.worker.shared.egress {
        return Box::pin(leave::leave(&caller, egress, limited, exchange)).await;
    }
    let outgoing = speak::speak(&caller, limited, exchange);
    forward::forward(&caller, outgoing, exchange).await
}
