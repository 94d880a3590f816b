//! Buffers: bodies, stream data, what a call has answered, configuration.
//!
//! Owns: which is open now. Where Envoy takes only a prefix or the end to write to, any place is taken here, as the
//! specification has it.

use crate::abi::{BufferKind, Status, memory};
use crate::hostcalls::{Answer, Guest, Out, Span, give_with, split};
use crate::instance::{Buffer, Configuring, Context, ContextKind, Host};
use crate::spec::BodyAccess;

/// What is in a buffer.
enum View<'a> {
    Body(&'a Buffer),
    Bytes(&'a [u8]),
}

impl View<'_> {
    const fn len(&self) -> usize {
        match self {
            Self::Body(buffer) => buffer.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

pub(super) fn get_bytes(
    caller: Guest<'_, '_>,
    kind: u32,
    start: u32,
    size: u32,
    out: Out,
) -> Answer {
    let kind = BufferKind::try_from(kind)?;
    let start = usize::try_from(start).map_err(|_| Status::BadArgument)?;
    let size = usize::try_from(size).map_err(|_| Status::BadArgument)?;
    let length = view(caller.data(), kind)?.len();
    let rest = length.checked_sub(start).ok_or(Status::BadArgument)?;
    give_with(caller, rest.min(size), out, |target, host| {
        match view(host, kind).ok()? {
            View::Body(buffer) => buffer.copy(start, target),
            View::Bytes(bytes) => {
                let part = bytes.get(start..)?.get(..target.len())?;
                target.copy_from_slice(part);
            }
        }
        Some(())
    })
}

pub(super) fn get_status(caller: Guest<'_, '_>, kind: u32, out: Out) -> Answer {
    let kind = BufferKind::try_from(kind)?;
    let length = view(caller.data(), kind)?.len();
    let length = u32::try_from(length).map_err(|_| Status::InternalFailure)?;
    let (bytes, _) = split(caller)?;
    memory::write_u32(bytes, out.0, length)?;
    memory::write_u32(bytes, out.1, 0)?;
    Ok(())
}

pub(super) fn set_bytes(
    caller: Guest<'_, '_>,
    kind: u32,
    start: u32,
    size: u32,
    data: Span,
) -> Answer {
    let kind = BufferKind::try_from(kind)?;
    let (bytes, host) = split(caller)?;
    let data = data.of(bytes)?;
    let capabilities = &host.version.spec.capabilities;
    let access = match kind {
        BufferKind::RequestBody | BufferKind::ResponseBody => capabilities.body,
        BufferKind::Downstream | BufferKind::Upstream => capabilities.stream_data,
        _ => {
            view(host, kind)?;
            return Err(Status::BadArgument.into()); // of others, nothing is written
        }
    };
    let limit = host.version.spec.limits.buffered_body;
    view(host, kind)?;
    if access != BodyAccess::Write {
        return Err(host
            .refuse("a body that it may not change", Status::InternalFailure)
            .into());
    }
    let context = host.context().ok_or(Status::NotFound)?;
    let side = match kind {
        BufferKind::RequestBody | BufferKind::Downstream => &mut context.request,
        _ => &mut context.response,
    };
    let buffer = &mut side.body;
    let start = usize::try_from(start).map_err(|_| Status::BadArgument)?;
    let size = usize::try_from(size).map_err(|_| Status::BadArgument)?;
    let replaced = buffer.len().saturating_sub(start).min(size);
    let after = buffer.len() - replaced + data.len();
    if after > limit && after > buffer.len() {
        return Err(host
            .refuse("a body beyond the limit", Status::InternalFailure)
            .into());
    }
    buffer.splice(start, size, data);
    Ok(())
}

fn view(host: &Host, kind: BufferKind) -> Result<View<'_>, Status> {
    let spec = &host.version.spec;
    match kind {
        BufferKind::RequestBody => body(host, ContextKind::Http, |context| &context.request),
        BufferKind::ResponseBody => body(host, ContextKind::Http, |context| &context.response),
        BufferKind::Downstream => body(host, ContextKind::Tcp, |context| &context.request),
        BufferKind::Upstream => body(host, ContextKind::Tcp, |context| &context.response),
        BufferKind::VmConfiguration => Ok(View::Bytes(&spec.vm_configuration)),
        BufferKind::PluginConfiguration if host.configuring == Configuring::Plugin => {
            Ok(View::Bytes(&spec.configuration))
        }
        BufferKind::CallResponseBody => delivered(host.delivery.call_body.as_deref()),
        BufferKind::GrpcMessage => delivered(host.delivery.grpc_message.as_deref()),
        BufferKind::PluginConfiguration | BufferKind::ForeignArguments => Err(Status::NotFound),
    }
}

fn delivered(bytes: Option<&[u8]>) -> Result<View<'_>, Status> {
    bytes.map(View::Bytes).ok_or(Status::NotFound)
}

fn body<'h>(
    host: &'h Host,
    kind: ContextKind,
    side: impl FnOnce(&'h Context) -> &'h crate::instance::Side,
) -> Result<View<'h>, Status> {
    let capabilities = &host.version.spec.capabilities;
    let access = match kind {
        ContextKind::Tcp => capabilities.stream_data,
        ContextKind::Http | ContextKind::Root => capabilities.body,
    };
    if access == BodyAccess::None {
        return Err(Status::NotFound);
    }
    let context = host
        .contexts
        .get(&host.effective())
        .ok_or(Status::NotFound)?;
    if context.kind != kind {
        return Err(Status::NotFound);
    }
    let side = side(context);
    side.body_open
        .then_some(View::Body(&side.body))
        .ok_or(Status::NotFound)
}
