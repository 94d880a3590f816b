//! Step 6: the port's plugins, on the way to the application and back.
//!
//! Owns: what plugins are told about a request, and that a request which they have changed is still one that the policy
//! permits: it is asked again, about the path and the fields as they are now. They see what the peer may say and not what this
//! proxy adds: identity is stated after them. The body's limit is about what the peer sends. Must not: run guests.
//! Read next: `plugins/http.rs`.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::{HeaderMap, Response, header};
use ringwall_data_path::fields;
use ringwall_data_path::permit::Permit;

use super::admit::Purpose;
use super::authorize;
use super::exchange::Exchange;
use super::limit::Limited;
use super::strip::{Stripped, ends_here};
use crate::body::ProxyBody;
use crate::inbound::caller::Caller;
use crate::plugins::facts;
use crate::plugins::http::{Answer, Passed, Stream, pass};
use crate::refusal::Refusal;

/// Evidence: what the plugins have left of the request is still authorized.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub(super) stripped: Stripped,
    pub(super) permit: Permit,
    pub(super) plugins: Stream,
}

/// Passes the request; `Break` is a plugin's own answer.
pub(crate) async fn filter(
    caller: &Arc<Caller>,
    limited: Limited,
    exchange: &mut Exchange,
) -> Result<ControlFlow<Response<ProxyBody>, Filtered>, Refusal> {
    let Limited { authorized, permit } = limited;
    let (mut stripped, user) = authorized.into_request();
    let worker = &caller.session.worker;
    let limit = worker.shared.config.limits.max_body;
    let (is_tunnel, has_bytes) = match stripped.purpose {
        Purpose::Tunnel => (true, true),
        Purpose::WebSocket(_) => (false, true),
        Purpose::Request { grpc } => {
            let mut body = exchange.count(stripped.body);
            // The egress gateway has limits of its own.
            if !grpc && worker.shared.egress.is_none() {
                check_length(&stripped.parts.headers, limit)?;
                body = body.limited(limit);
            }
            stripped.body = body;
            (false, false)
        }
    };
    let filters = worker.shared.filters.load();
    let chain = filters.inbound(stripped.port.number).clone();
    drop(filters);
    if is_tunnel && worker.shared.egress.is_some() && !chain.is_empty() {
        // Whatever is in the tunnel, nobody would see it.
        return Err(Refusal::Filter("filter-tunnel", None));
    }
    if is_tunnel || chain.is_empty() {
        // Bytes have a chain of their own (`tunnel.rs`), and HTTP in a tunnel comes by here.
        return Ok(ControlFlow::Continue(Filtered {
            stripped,
            permit,
            plugins: Stream::default(),
        }));
    }
    let Stripped {
        parts, body, port, ..
    } = stripped;
    let facts = || {
        let mut facts = facts::inbound(caller, port.number);
        facts.request_id = Some(exchange.trace.id().into());
        facts.metadata = user.as_deref().map(facts::user);
        facts
    };
    let passed = pass(worker, &chain, facts, (parts, body), has_bytes).await?;
    let (parts, body, plugins) = match passed {
        Passed::On(parts, body, plugins) => (*parts, body, plugins),
        Passed::Answered(Answer { response, why }) => {
            exchange.refused(&why);
            return Ok(ControlFlow::Break(response));
        }
    };
    let mut stripped = Stripped {
        parts,
        body,
        ..stripped
    };
    fields::remove(&mut stripped.parts.headers, ends_here);
    if !authorize::still_holds(caller, &stripped, user.as_deref()) {
        return Err(Refusal::Filter("filter-left-the-policy", None));
    }
    Ok(ControlFlow::Continue(Filtered {
        stripped,
        permit,
        plugins,
    }))
}

/// A length beyond the limit is refused before a byte of the body is read.
fn check_length(headers: &HeaderMap, limit: u64) -> Result<(), Refusal> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(());
    };
    let length: Option<u64> = length.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) if length <= limit => Ok(()),
        Some(_) => Err(Refusal::BodyTooLarge),
        None => Err(Refusal::Malformed("invalid-content-length")),
    }
}
