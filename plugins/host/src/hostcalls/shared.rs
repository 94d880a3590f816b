//! Shared data and queues.
//!
//! Owns: which keys and queues the plugin may touch. Data of another `vm_id` cannot be named; a queue of another can be
//! resolved, as the ABI has it, if its name is allowed.

use std::sync::Arc;

use bytes::Bytes;

use crate::abi::{Status, memory};
use crate::hostcalls::{Answer, Guest, Out, Span, give, split};
use crate::instance::{Action, Host};

/// The longest name of a queue, in bytes.
const MAX_NAME: usize = 256;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn may_touch(host: &Host, key: &[u8]) -> bool {
    text(key).is_some_and(|key| host.version.spec.capabilities.shared_data.allows(key))
}

fn may_queue(host: &Host, name: &[u8]) -> bool {
    text(name).is_some_and(|name| host.version.spec.capabilities.queues.allows(name))
}

pub(super) fn get_data(caller: Guest<'_, '_>, key: Span, out: Out, out_cas: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let key = key.of(bytes)?;
    if !may_touch(host, key) {
        return Err(host
            .refuse("shared data that it may not read", Status::NotFound)
            .into());
    }
    let (value, cas) = host.version.data.get(key)?;
    give(caller, &value, out)?;
    let (bytes, _) = split(caller)?;
    Ok(memory::write_u32(bytes, out_cas, cas)?)
}

pub(super) fn set_data(caller: Guest<'_, '_>, key: Span, value: Span, cas: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let (key, value) = (key.of(bytes)?, value.of(bytes)?);
    if !may_touch(host, key) {
        let refused = host.refuse("shared data that it may not set", Status::InternalFailure);
        return Err(refused.into());
    }
    let limit = host.version.spec.limits.shared_data;
    if value.len() > limit {
        return Err(Status::InternalFailure.into()); // before it is copied
    }
    let value = Bytes::copy_from_slice(value);
    Ok(host.version.data.set(key, value, cas, limit)?)
}

pub(super) fn register_queue(caller: Guest<'_, '_>, name: Span, out: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let name = name.of(bytes)?;
    if !may_queue(host, name) {
        let refused = host.refuse("a queue that it may not use", Status::InternalFailure);
        return Err(refused.into());
    }
    memory::slice(bytes, out, 4)?;
    if name.len() > MAX_NAME {
        return Err(Status::BadArgument.into());
    }
    let spec = &host.version.spec;
    let shared = &host.runtime.shared;
    let id = shared.register(&spec.vm_id, name, &host.instance, &spec.limits)?;
    remember(host, id);
    Ok(memory::write_u32(bytes, out, id)?)
}

pub(super) fn resolve_queue(caller: Guest<'_, '_>, vm: Span, name: Span, out: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let (vm, name) = (vm.of(bytes)?, name.of(bytes)?);
    if !may_queue(host, name) {
        return Err(host
            .refuse("a queue that it may not use", Status::NotFound)
            .into());
    }
    let vm = match text(vm).ok_or(Status::NotFound)? {
        "" => Arc::clone(&host.version.spec.vm_id),
        vm => Arc::from(vm),
    };
    let id = host.runtime.shared.resolve(&vm, name)?;
    remember(host, id);
    Ok(memory::write_u32(bytes, out, id)?)
}

pub(super) fn enqueue(caller: Guest<'_, '_>, id: u32, value: Span) -> Answer {
    let (bytes, host) = split(caller)?;
    let value = value.of(bytes)?;
    known(host, id)?;
    let limits = &host.version.spec.limits;
    if value.len() > limits.queue_bytes {
        return Err(Status::InternalFailure.into()); // before it is copied
    }
    let value = Bytes::copy_from_slice(value);
    let told = host.runtime.shared.enqueue(id, value, limits)?;
    if let Some(instance) = told {
        host.actions.push(Action::QueueReady {
            instance,
            queue: id,
        });
    }
    Ok(())
}

pub(super) fn dequeue(caller: Guest<'_, '_>, id: u32, out: Out) -> Answer {
    known(caller.data(), id)?;
    let item = caller.data().runtime.shared.dequeue(id)?;
    give(caller, &item, out)
}

/// Ids are small numbers: a plugin may not guess those of others.
fn known(host: &Host, id: u32) -> Result<(), Status> {
    if host.queues.contains(&id) {
        return Ok(());
    }
    Err(host.refuse("a queue that it has not been given", Status::NotFound))
}

fn remember(host: &mut Host, id: u32) {
    if !host.queues.contains(&id) {
        host.queues.push(id);
    }
}
