//! Logging, time, timers, metrics, foreign functions, and the oldest ABI's configuration.
//!
//! Owns: the rate and the form of log lines. A line of a plugin is text from outside: it is cut, and its control characters
//! are written out.

use std::time::Instant;

use crate::abi::{LogLevel, Status, memory};
use crate::hostcalls::{Answer, Guest, Out, Span, give, split};
use crate::instance::{Action, Configuring, Host};
use crate::metrics::MetricKind;
use crate::properties::unix_nanoseconds;

pub(super) fn log(caller: Guest<'_, '_>, level: u32, message: Span) -> Answer {
    let (bytes, host) = split(caller)?;
    let level = LogLevel::try_from(level)?;
    write_log(host, level, message.of(bytes)?);
    Ok(())
}

/// One line, unless there have been too many.
pub(super) fn write_log(host: &mut Host, level: LogLevel, message: &[u8]) {
    let limits = &host.version.spec.limits;
    let message = message.get(..limits.log_line).unwrap_or(message);
    let plugin = &*host.version.spec.name;
    if let Some(observer) = &host.observer {
        observer.log(plugin, level, &String::from_utf8_lossy(message));
    }
    if !host
        .logs
        .admits(Instant::now(), limits.log_lines_per_second)
    {
        host.version.metrics.log_lines_dropped.add(1);
        return;
    }
    let mut line = String::with_capacity(message.len());
    for character in String::from_utf8_lossy(message).chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    let context = host.effective();
    match level {
        LogLevel::Trace => tracing::trace!(plugin, context, line, "a plugin says"),
        LogLevel::Debug => tracing::debug!(plugin, context, line, "a plugin says"),
        LogLevel::Info => tracing::info!(plugin, context, line, "a plugin says"),
        LogLevel::Warn => tracing::warn!(plugin, context, line, "a plugin says"),
        LogLevel::Error | LogLevel::Critical => {
            tracing::error!(plugin, context, line, "a plugin says");
        }
    }
}

pub(super) fn get_log_level(caller: Guest<'_, '_>, out: u32) -> Answer {
    use tracing::level_filters::LevelFilter;

    let level = match LevelFilter::current() {
        LevelFilter::TRACE => LogLevel::Trace,
        LevelFilter::DEBUG => LogLevel::Debug,
        LevelFilter::INFO => LogLevel::Info,
        LevelFilter::WARN => LogLevel::Warn,
        LevelFilter::ERROR => LogLevel::Error,
        _ => LogLevel::Critical,
    };
    let (bytes, host) = split(caller)?;
    // Whoever watches wants to hear everything.
    let level = host.observer.as_ref().map_or(level, |_| LogLevel::Trace);
    Ok(memory::write_u32(bytes, out, level as u32)?)
}

/// The time of day, in nanoseconds since 1970.
pub(super) fn now(host: &Host) -> u64 {
    unix_nanoseconds((host.runtime.clock)())
        .max(0)
        .unsigned_abs()
}

pub(super) fn get_current_time(caller: Guest<'_, '_>, out: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    Ok(memory::write_u64(bytes, out, now(host))?)
}

pub(super) fn set_tick_period(caller: Guest<'_, '_>, milliseconds: u32) -> Answer {
    let host = caller.data_mut();
    let least = host.version.spec.limits.tick_period;
    host.tick = crate::instance::period(milliseconds, least);
    host.actions
        .retain(|action| !matches!(action, Action::Timer));
    host.actions.push(Action::Timer);
    Ok(())
}

pub(super) fn define_metric(caller: Guest<'_, '_>, kind: u32, name: Span, out: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let kind = MetricKind::try_from(kind)?;
    let name = name.of(bytes)?;
    memory::slice(bytes, out, 4)?;
    let limit = host.version.spec.limits.metrics;
    let id = host.version.metrics.defined.define(kind, name, limit)?;
    Ok(memory::write_u32(bytes, out, id)?)
}

pub(super) fn get_metric(caller: Guest<'_, '_>, id: u32, out: u32) -> Answer {
    let (bytes, host) = split(caller)?;
    let value = host.version.metrics.defined.get(id)?;
    Ok(memory::write_u64(bytes, out, value)?)
}

pub(super) fn call_foreign(caller: Guest<'_, '_>, name: Span, arguments: Span, out: Out) -> Answer {
    let (bytes, host) = split(caller)?;
    let name = std::str::from_utf8(name.of(bytes)?).map_err(|_| Status::NotFound)?;
    let arguments = arguments.of(bytes)?;
    if !host
        .version
        .spec
        .capabilities
        .foreign_functions
        .allows(name)
    {
        return Err(host
            .refuse("a function that it may not call", Status::NotFound)
            .into());
    }
    if arguments.len() > host.version.spec.limits.call_body {
        return Err(host
            .refuse("arguments beyond the limit", Status::InternalFailure)
            .into());
    }
    let function = host.runtime.foreign.get(name).ok_or(Status::NotFound)?;
    let result = function(arguments)?;
    match out {
        // Whoever gives no place wants no result.
        Out(0, 0) => Ok(()),
        out => give(caller, &result, out),
    }
}

pub(super) fn get_configuration(caller: Guest<'_, '_>, out: Out) -> Answer {
    let host = caller.data();
    let spec = &host.version.spec;
    let configuration = match host.configuring {
        Configuring::Plugin => spec.configuration.clone(),
        Configuring::Vm | Configuring::No => spec.vm_configuration.clone(),
    };
    give(caller, &configuration, out)
}
