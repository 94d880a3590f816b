//! gRPC calls and streams to declared clusters.
//!
//! Owns: their ids and their two ways to end. An upstream is named by its cluster; Envoy also takes a serialised
//! `GrpcService` there, of which only the cluster of an `envoy_grpc` is understood.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::abi::{Status, memory, pairs};
use crate::callouts;
use crate::hostcalls::calls::{known_cluster, limits, time_out};
use crate::hostcalls::stream::fields;
use crate::hostcalls::{Answer, Guest, Span, split};
use crate::instance::{Action, CallKind, Host};

pub(super) fn call(
    caller: Guest<'_, '_>,
    target: [Span; 4],
    message: Span,
    timeout: u32,
    out: u32,
) -> Answer {
    let (bytes, host) = split(caller)?;
    let (cluster, request) = begin(host, bytes, target)?;
    let message = message_of(host, message.of(bytes)?)?;
    let timeout = time_out(host, timeout)?;
    memory::slice(bytes, out, 4)?; // before anything is begun
    let id = host.add_call(CallKind::GrpcCall, None)?;
    host.actions.push(Action::GrpcCall {
        id,
        cluster,
        request: request.map(|()| message),
        timeout,
    });
    Ok(memory::write_u32(bytes, out, id)?)
}

pub(super) fn stream(caller: Guest<'_, '_>, target: [Span; 4], out: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let (cluster, request) = begin(host, bytes, target)?;
    memory::slice(bytes, out, 4)?;
    let (sender, messages) = mpsc::channel(host.version.spec.limits.grpc_queue.max(1));
    let id = host.add_call(CallKind::GrpcStream, Some(sender))?;
    host.actions.push(Action::GrpcStream {
        id,
        cluster,
        request,
        messages,
    });
    Ok(memory::write_u32(bytes, out, id)?)
}

fn begin(
    host: &Host,
    bytes: &[u8],
    target: [Span; 4],
) -> Result<(String, http::Request<()>), Status> {
    let [upstream, service, method, metadata] = target;
    let upstream = upstream.of(bytes)?;
    let name = cluster_of(upstream).unwrap_or(upstream);
    let text = |span: Span| {
        let text = span.of(bytes)?;
        std::str::from_utf8(text).map_err(|_| Status::BadArgument)
    };
    let (service, method) = (text(service)?, text(method)?);
    let metadata = fields(pairs::parse(metadata.of(bytes)?, limits(host))?)?;
    let cluster = known_cluster(host, name).ok_or(Status::ParseFailure)?;
    let request = callouts::grpc_request(&cluster, service, method, metadata);
    Ok((cluster, request.ok_or(Status::BadArgument)?))
}

/// The cluster in a serialised `GrpcService { envoy_grpc { cluster_name } }`: field 1 in field 1, short lengths.
fn cluster_of(upstream: &[u8]) -> Option<&[u8]> {
    let field = |message: &'_ [u8]| -> Option<(usize, usize)> {
        match message {
            [0x0a, length, ..] if *length < 0x80 => Some((2, usize::from(*length))),
            _ => None,
        }
    };
    let (start, length) = field(upstream)?;
    let inner = upstream.get(start..)?.get(..length)?;
    let (start, length) = field(inner)?;
    inner.get(start..)?.get(..length)
}

fn message_of(host: &Host, message: &[u8]) -> Result<Bytes, Status> {
    if message.len() > host.version.spec.limits.call_body {
        return Err(host.refuse("a message beyond the limit", Status::InternalFailure));
    }
    callouts::frame(message).ok_or(Status::InternalFailure)
}

pub(super) fn send(caller: Guest<'_, '_>, id: u32, message: Span, end: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let message = message.of(bytes)?;
    let framed = message_of(host, message)?;
    let call = host.calls.get_mut(&id).ok_or(Status::NotFound)?;
    if call.kind != CallKind::GrpcStream {
        return Err(Status::BadArgument.into());
    }
    // This side has ended already.
    let sender = call.messages.as_ref().ok_or(Status::BadArgument)?;
    let sent = sender.try_send(framed);
    if end != 0 {
        call.messages = None;
    }
    if sent.is_err() {
        return Err(host
            .refuse("more messages than can wait", Status::InternalFailure)
            .into());
    }
    Ok(())
}

/// Ends the call; nothing more is delivered.
pub(super) fn cancel(caller: Guest<'_, '_>, id: u32) -> Answer {
    let host = caller.data_mut();
    grpc(host, id)?;
    host.end_call(id);
    Ok(())
}

/// Of a stream, ends this side only.
pub(super) fn close(caller: Guest<'_, '_>, id: u32) -> Answer {
    let host = caller.data_mut();
    match grpc(host, id)? {
        CallKind::GrpcStream => {
            if let Some(call) = host.calls.get_mut(&id) {
                call.messages = None;
            }
        }
        CallKind::GrpcCall | CallKind::Http => {
            host.end_call(id);
        }
    }
    Ok(())
}

fn grpc(host: &Host, id: u32) -> Result<CallKind, Status> {
    match host.calls.get(&id).map(|call| call.kind) {
        None => Err(Status::NotFound),
        Some(CallKind::Http) => Err(Status::BadArgument),
        Some(kind) => Ok(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r90_the_cluster_of_envoy_s_message_is_found() {
        assert_eq!(cluster_of(b"\x0a\x06\x0a\x04echo"), Some(&b"echo"[..]));
        for other in [
            &b"echo"[..],
            b"",
            b"\x0a",
            b"\x0a\x06\x0a\x09echo",
            b"\x0a\xff\x01",
        ] {
            assert_eq!(cluster_of(other), None);
        }
    }
}
