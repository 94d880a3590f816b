//! What a plugin does with a stream: let it go on, end it, answer it.
//!
//! Owns: that nothing happens inside the host function: the wish is noted in the context, and whoever drives the stream is
//! woken. As in Envoy, a wish in a context without such a stream is `OK` and does nothing.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::abi::pairs::{self, PairLimits};
use crate::abi::{Status, StreamKind, memory};
use crate::hostcalls::{Answer, Guest, Out, Span, give, split};
use crate::http::fields::is_framing;
use crate::instance::{Action, ContextKind, Host, Local, Way};

/// The longest text that a plugin may give as a reason; it goes to the log.
const MAX_DETAILS: usize = 256;

pub(super) fn continue_stream(caller: Guest<'_, '_>, kind: u32) -> Answer {
    let kind = StreamKind::try_from(kind)?;
    let Some(context) = caller.data_mut().context() else {
        return Ok(());
    };
    let way = match (kind, context.kind) {
        (StreamKind::Request, ContextKind::Http) => Way::Request,
        (StreamKind::Response, ContextKind::Http) => Way::Response,
        (StreamKind::Downstream, ContextKind::Tcp) => Way::Request,
        (StreamKind::Upstream, ContextKind::Tcp) => Way::Response,
        _ => return Ok(()),
    };
    context.side(way).resume = true;
    context.wake();
    Ok(())
}

pub(super) fn close_stream(caller: Guest<'_, '_>, kind: u32) -> Answer {
    StreamKind::try_from(kind)?;
    let host = caller.data_mut();
    may_end(host)?;
    if let Ok(context) = host.stream() {
        context.closed = true;
        context.wake();
    }
    Ok(())
}

fn may_end(host: &Host) -> Result<(), Status> {
    if host.version.spec.capabilities.local_response {
        return Ok(());
    }
    Err(host.refuse("to end or answer a stream", Status::InternalFailure))
}

/// The embedder is told; what it does is its own affair.
pub(super) fn clear_route_cache(caller: Guest<'_, '_>) -> Answer {
    let context = caller.data_mut().context();
    if let Some(shared) = context.and_then(|context| context.shared.as_ref()) {
        shared.note_rewrite();
    }
    Ok(())
}

pub(super) fn send_local_response(
    caller: Guest<'_, '_>,
    status: u32,
    details: Span,
    body: Span,
    headers: Span,
    grpc_status: u32,
) -> Answer {
    let (bytes, host) = split(caller)?;
    may_end(host)?;
    let limits = &host.version.spec.limits;
    let (details, body) = (details.of(bytes)?, body.of(bytes)?);
    let given = headers.of(bytes)?;
    let allowed = PairLimits {
        count: limits.header_count,
        bytes: limits.header_bytes,
    };
    let headers = fields(pairs::parse(given, allowed)?)?;
    let status = u16::try_from(status).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(|status| (200..600).contains(&status.as_u16()));
    let status = status.ok_or(Status::BadArgument)?;
    if body.len() > limits.buffered_body {
        return Err(host
            .refuse("a response beyond the limit", Status::InternalFailure)
            .into());
    }
    let details = details.get(..MAX_DETAILS).unwrap_or(details);
    let details = String::from_utf8_lossy(details);
    let local = Local {
        status,
        details: details.replace(|c: char| c.is_whitespace() || c.is_control(), "_"),
        headers,
        body: Bytes::copy_from_slice(body),
        // SDKs send -1 for "none".
        grpc_status: (grpc_status <= 16).then_some(grpc_status),
    };
    let metrics = std::sync::Arc::clone(&host.version.metrics);
    let Ok(context) = host.stream() else {
        return Ok(());
    };
    if context.kind != ContextKind::Http {
        return Ok(());
    }
    if context.can_respond {
        metrics.local_responses.add(1);
        context.local.get_or_insert(Box::new(local));
    } else {
        context.closed = true; // what has begun cannot be taken back
    }
    context.wake();
    Ok(())
}

/// Of a response of the plugin's own. What frames it is left out.
pub(super) fn fields(pairs: Vec<(&[u8], &[u8])>) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (key, value) in pairs {
        if key.starts_with(b":") {
            continue;
        }
        let key = HeaderName::from_bytes(key).map_err(|_| Status::BadArgument)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
        if !is_framing(&key) {
            headers.append(key, value);
        }
    }
    Ok(headers)
}

pub(super) fn set_effective_context(caller: Guest<'_, '_>, context: u32) -> Answer {
    let host = caller.data_mut();
    if !host.contexts.contains_key(&context) {
        return Err(Status::BadArgument.into());
    }
    host.effective = Some(context);
    Ok(())
}

pub(super) fn done(caller: Guest<'_, '_>) -> Answer {
    let host = caller.data_mut();
    let id = host.effective();
    match host.context() {
        Some(context) if context.is_finishing => {
            host.actions.push(Action::Finish(id));
            Ok(())
        }
        _ => Err(Status::NotFound.into()),
    }
}

pub(super) fn get_status(caller: Guest<'_, '_>, code: u32, out: Out) -> Answer {
    let (bytes, host) = split(caller)?;
    let (number, message) = host.delivery.status.clone();
    memory::write_u32(bytes, code, number)?;
    give(caller, message.as_bytes(), out)
}
