//! The functions that guests call: the ABI's table.
//!
//! Owns: names and types of all host functions, the count of calls in a callback, and how results reach a guest's memory.
//! Must not: hold the meaning of any; each group has a file under `hostcalls/`. A function that fails leaves the guest with
//! a status and the host as it was; only running out of calls, or a guest's own allocator, ends in a trap.

mod buffers;
mod calls;
mod grpc;
mod headers;
mod property;
mod shared;
mod stream;
mod system;
mod wasi;

use wasmtime::{Caller, Linker};

use crate::abi::{Status, memory};
use crate::instance::{GuestFault, Host};

/// What a host function comes to.
pub(crate) type Answer = Result<(), Fault>;
type Guest<'a, 'b> = &'a mut Caller<'b, Host>;

/// Why one has not done what was asked.
pub(crate) enum Fault {
    Status(Status),
    /// The guest's allocator has trapped.
    Trap(wasmtime::Error),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// A place in a guest's memory, as the guest has given it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span(pub(crate) u32, pub(crate) u32);

impl Span {
    fn of(self, bytes: &[u8]) -> Result<&[u8], Status> {
        memory::slice(bytes, self.0, self.1)
    }
}

/// Where a pointer and a length are to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out(pub(crate) u32, pub(crate) u32);

macro_rules! table {
    ($( $name:literal ($($arg:ident),*) => $path:path [ $($given:expr),* ]; )*) => {
        const ENV: &[&str] = &[$($name,)* "proxy_increment_metric", "proxy_record_metric"];

        fn register_env(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
            $(
                linker.func_wrap(
                    "env",
                    $name,
                    |mut caller: Caller<'_, Host>, $($arg: u32),*| -> wasmtime::Result<u32> {
                        if !enter(&mut caller)? {
                            return Ok(Status::InternalFailure as u32);
                        }
                        let answer = $path(&mut caller, $($given),*);
                        leave(&mut caller, $name, answer)
                    },
                )?;
            )*
            Ok(())
        }
    };
}

table! {
    "proxy_log" (level, at, size) => system::log [level, Span(at, size)];
    "proxy_get_log_level" (out) => system::get_log_level [out];
    "proxy_get_current_time_nanoseconds" (out) => system::get_current_time [out];
    "proxy_set_tick_period_milliseconds" (period) => system::set_tick_period [period];
    "proxy_call_foreign_function" (name, name_size, at, size, out, out_size) => system::call_foreign [Span(name, name_size), Span(at, size), Out(out, out_size)];
    "proxy_get_configuration" (out, out_size) => system::get_configuration [Out(out, out_size)];
    "proxy_define_metric" (kind, name, name_size, out) => system::define_metric [kind, Span(name, name_size), out];
    "proxy_get_metric" (id, out) => system::get_metric [id, out];

    "proxy_get_header_map_size" (kind, out) => headers::get_size [kind, out];
    "proxy_get_header_map_pairs" (kind, out, out_size) => headers::get_pairs [kind, Out(out, out_size)];
    "proxy_set_header_map_pairs" (kind, at, size) => headers::set_pairs [kind, Span(at, size)];
    "proxy_get_header_map_value" (kind, key, key_size, out, out_size) => headers::get_value [kind, Span(key, key_size), Out(out, out_size)];
    "proxy_add_header_map_value" (kind, key, key_size, at, size) => headers::add_value [kind, Span(key, key_size), Span(at, size)];
    "proxy_replace_header_map_value" (kind, key, key_size, at, size) => headers::replace_value [kind, Span(key, key_size), Span(at, size)];
    "proxy_remove_header_map_value" (kind, key, key_size) => headers::remove_value [kind, Span(key, key_size)];

    "proxy_get_buffer_bytes" (kind, start, size, out, out_size) => buffers::get_bytes [kind, start, size, Out(out, out_size)];
    "proxy_get_buffer_status" (kind, out_size, out_flags) => buffers::get_status [kind, Out(out_size, out_flags)];
    "proxy_set_buffer_bytes" (kind, start, size, at, length) => buffers::set_bytes [kind, start, size, Span(at, length)];

    "proxy_continue_stream" (kind) => stream::continue_stream [kind];
    "proxy_continue_request" () => stream::continue_stream [0];
    "proxy_continue_response" () => stream::continue_stream [1];
    "proxy_close_stream" (kind) => stream::close_stream [kind];
    "proxy_clear_route_cache" () => stream::clear_route_cache [];
    "proxy_send_local_response" (status, details, details_size, body, body_size, headers, headers_size, grpc) => stream::send_local_response [status, Span(details, details_size), Span(body, body_size), Span(headers, headers_size), grpc];
    "proxy_set_effective_context" (context) => stream::set_effective_context [context];
    "proxy_done" () => stream::done [];
    "proxy_get_status" (code, out, out_size) => stream::get_status [code, Out(out, out_size)];

    "proxy_http_call" (cluster, cluster_size, headers, headers_size, body, body_size, trailers, trailers_size, timeout, out) => calls::http_call [Span(cluster, cluster_size), Span(headers, headers_size), Span(body, body_size), Span(trailers, trailers_size), timeout, out];
    "proxy_grpc_call" (cluster, cluster_size, service, service_size, method, method_size, metadata, metadata_size, message, message_size, timeout, out) => grpc::call [[Span(cluster, cluster_size), Span(service, service_size), Span(method, method_size), Span(metadata, metadata_size)], Span(message, message_size), timeout, out];
    "proxy_grpc_stream" (cluster, cluster_size, service, service_size, method, method_size, metadata, metadata_size, out) => grpc::stream [[Span(cluster, cluster_size), Span(service, service_size), Span(method, method_size), Span(metadata, metadata_size)], out];
    "proxy_grpc_send" (id, at, size, end) => grpc::send [id, Span(at, size), end];
    "proxy_grpc_cancel" (id) => grpc::cancel [id];
    "proxy_grpc_close" (id) => grpc::close [id];

    "proxy_set_shared_data" (key, key_size, at, size, cas) => shared::set_data [Span(key, key_size), Span(at, size), cas];
    "proxy_get_shared_data" (key, key_size, out, out_size, cas) => shared::get_data [Span(key, key_size), Out(out, out_size), cas];
    "proxy_register_shared_queue" (name, name_size, out) => shared::register_queue [Span(name, name_size), out];
    "proxy_resolve_shared_queue" (vm, vm_size, name, name_size, out) => shared::resolve_queue [Span(vm, vm_size), Span(name, name_size), out];
    "proxy_enqueue_shared_queue" (id, at, size) => shared::enqueue [id, Span(at, size)];
    "proxy_dequeue_shared_queue" (id, out, out_size) => shared::dequeue [id, Out(out, out_size)];

    "proxy_get_property" (path, path_size, out, out_size) => property::get [Span(path, path_size), Out(out, out_size)];
    "proxy_set_property" (path, path_size, at, size) => property::set [Span(path, path_size), Span(at, size)];
}

/// Puts all of them into the linker of a runtime.
pub(crate) fn register(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    register_env(linker)?;
    // The two that take a 64-bit number.
    linker.func_wrap(
        "env",
        "proxy_record_metric",
        |mut caller: Caller<'_, Host>, id: u32, value: u64| -> wasmtime::Result<u32> {
            if !enter(&mut caller)? {
                return Ok(Status::InternalFailure as u32);
            }
            let defined = &caller.data().version.metrics.defined;
            let answer = defined.record(id, value).map_err(Fault::from);
            leave(&mut caller, "proxy_record_metric", answer)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_increment_metric",
        |mut caller: Caller<'_, Host>, id: u32, delta: i64| -> wasmtime::Result<u32> {
            if !enter(&mut caller)? {
                return Ok(Status::InternalFailure as u32);
            }
            let defined = &caller.data().version.metrics.defined;
            let answer = defined.increment(id, delta).map_err(Fault::from);
            leave(&mut caller, "proxy_increment_metric", answer)
        },
    )?;
    wasi::register(linker)
}

/// Whether a module may import it.
pub(crate) fn is_known(module: &str, name: &str) -> bool {
    match module {
        "env" => ENV.contains(&name) || wasi::ENV.contains(&name),
        _ => wasi::is_known(module, name),
    }
}

/// Counts a call. False: it comes from within the guest's allocator and is refused.
fn enter(caller: Guest<'_, '_>) -> wasmtime::Result<bool> {
    let host = caller.data_mut();
    host.hostcalls += 1;
    if host.hostcalls > host.version.spec.limits.hostcalls {
        return Err(wasmtime::Error::new(GuestFault::Flood));
    }
    if host.is_allocating {
        host.refuse("a call from within its allocator", Status::InternalFailure);
        return Ok(false);
    }
    Ok(true)
}

fn leave(caller: Guest<'_, '_>, name: &'static str, answer: Answer) -> wasmtime::Result<u32> {
    let status = match answer {
        Ok(()) => Status::Ok,
        Err(Fault::Status(status)) => status,
        Err(Fault::Trap(error)) => return Err(error),
    };
    let host = caller.data();
    if let Some(observer) = &host.observer {
        observer.hostcall(&host.version.spec.name, name, Some(status as u32));
    }
    Ok(status as u32)
}

/// The guest's memory and the host's side of it, at once.
fn split<'c>(caller: &'c mut Caller<'_, Host>) -> Result<(&'c mut [u8], &'c mut Host), Status> {
    let memory = caller.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    Ok(memory.data_and_store_mut(caller))
}

/// Bytes for the guest, allocated by itself.
fn allocate(caller: Guest<'_, '_>, size: u32) -> Result<u32, Fault> {
    // Taken out while it runs: nobody else calls it then, and a copy would take its type from the engine's registry.
    let function = caller.data_mut().allocate.take();
    let function = function.ok_or(Status::InvalidMemoryAccess)?;
    caller.data_mut().is_allocating = true;
    let place = function.call(&mut *caller, size);
    let host = caller.data_mut();
    host.is_allocating = false;
    host.allocate = Some(function);
    match place.map_err(Fault::Trap)? {
        0 => Err(Status::InvalidMemoryAccess.into()),
        place => Ok(place),
    }
}

/// Hands `size` bytes to the guest, which `fill` writes.
fn give_with(
    caller: Guest<'_, '_>,
    size: usize,
    out: Out,
    fill: impl FnOnce(&mut [u8], &Host) -> Option<()>,
) -> Answer {
    let size = u32::try_from(size).map_err(|_| Status::InternalFailure)?;
    let place = match size {
        0 => 0,
        size => allocate(caller, size)?,
    };
    let (bytes, host) = split(caller)?;
    if size > 0 {
        let target = memory::slice_mut(bytes, place, size)?;
        fill(target, host).ok_or(Status::InternalFailure)?;
    }
    memory::write_u32(bytes, out.0, place)?;
    memory::write_u32(bytes, out.1, size)?;
    Ok(())
}

/// Hands bytes to the guest.
fn give(caller: Guest<'_, '_>, bytes: &[u8], out: Out) -> Answer {
    give_with(caller, bytes.len(), out, |target, _| {
        target.copy_from_slice(bytes);
        Some(())
    })
}
