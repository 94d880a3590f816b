//! The functions of WASI preview 1 that guests import.
//!
//! Owns: as much of WASI as a plugin needs: lines to the log, clocks, random bytes, its own environment. There are no files,
//! sockets or arguments: their functions are there, because toolchains import them, and answer that they are not.
//! Must not: reach anything of the host's.

use wasmtime::{Caller, Linker};

use crate::abi::{LogLevel, memory};
use crate::hostcalls::{Guest, Span, enter, split, system};
use crate::instance::{GuestFault, Host};

// `errno`, in WASI's numbers.
const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOSYS: u32 = 52;
const NOTSUP: u32 = 58;

/// Both names of preview 1.
const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];
/// Most bytes of one `random_get`.
const MAX_RANDOM: u32 = 64 << 10;
/// Most parts of one write.
const MAX_IOVECS: u32 = 1024;

/// What Emscripten's guests import beside the ABI.
pub(super) const ENV: &[&str] = &["emscripten_notify_memory_growth", "pthread_equal"];

type Errno = Result<(), u32>;

macro_rules! table {
    ($( $name:literal ($($arg:ident : $ty:ty),*) => $call:expr; )*) => {
        const NAMES: &[&str] = &[$($name,)* "proc_exit"];

        fn register_in(linker: &mut Linker<Host>, module: &str) -> wasmtime::Result<()> {
            $(
                linker.func_wrap(
                    module,
                    $name,
                    |mut caller: Caller<'_, Host>, $($arg: $ty),*| -> wasmtime::Result<u32> {
                        // Allowed within the allocator: it may have something to say before it aborts.
                        let _ = enter(&mut caller)?;
                        let call: fn(Guest<'_, '_>, $($ty),*) -> Errno = $call;
                        let errno = match call(&mut caller, $($arg),*) {
                            Ok(()) => SUCCESS,
                            Err(errno) => errno,
                        };
                        if let Some(observer) = &caller.data().observer {
                            let plugin = &caller.data().version.spec.name;
                            observer.hostcall(plugin, $name, Some(errno));
                        }
                        Ok(errno)
                    },
                )?;
            )*
            Ok(())
        }
    };
}

table! {
    "fd_write" (fd: u32, iovecs: u32, count: u32, out: u32) => fd_write;
    "clock_time_get" (clock: u32, precision: u64, out: u32) => clock_time_get;
    "clock_res_get" (clock: u32, out: u32) => clock_res_get;
    "random_get" (at: u32, size: u32) => random_get;
    "environ_sizes_get" (count: u32, size: u32) => environ_sizes_get;
    "environ_get" (array: u32, buffer: u32) => environ_get;
    "args_sizes_get" (count: u32, size: u32) => args_sizes_get;
    "args_get" (_array: u32, _buffer: u32) => |_, _, _| Ok(());
    "sched_yield" () => |_| Ok(());
    "fd_fdstat_get" (fd: u32, out: u32) => fd_fdstat_get;
    "fd_close" (_fd: u32) => |_, _| Err(BADF);
    "fd_read" (_fd: u32, _iovecs: u32, _count: u32, _out: u32) => |_, _, _, _, _| Err(BADF);
    "fd_pread" (_fd: u32, _iovecs: u32, _count: u32, _offset: u64, _out: u32) => |_, _, _, _, _, _| Err(BADF);
    "fd_pwrite" (_fd: u32, _iovecs: u32, _count: u32, _offset: u64, _out: u32) => |_, _, _, _, _, _| Err(BADF);
    "fd_seek" (_fd: u32, _offset: u64, _whence: u32, _out: u32) => |_, _, _, _, _| Err(BADF);
    "fd_tell" (_fd: u32, _out: u32) => |_, _, _| Err(BADF);
    "fd_sync" (_fd: u32) => |_, _| Err(BADF);
    "fd_datasync" (_fd: u32) => |_, _| Err(BADF);
    "fd_advise" (_fd: u32, _offset: u64, _size: u64, _advice: u32) => |_, _, _, _, _| Err(BADF);
    "fd_allocate" (_fd: u32, _offset: u64, _size: u64) => |_, _, _, _| Err(BADF);
    "fd_fdstat_set_flags" (_fd: u32, _flags: u32) => |_, _, _| Err(BADF);
    "fd_fdstat_set_rights" (_fd: u32, _base: u64, _inheriting: u64) => |_, _, _, _| Err(BADF);
    "fd_filestat_get" (_fd: u32, _out: u32) => |_, _, _| Err(BADF);
    "fd_filestat_set_size" (_fd: u32, _size: u64) => |_, _, _| Err(BADF);
    "fd_filestat_set_times" (_fd: u32, _access: u64, _modify: u64, _flags: u32) => |_, _, _, _, _| Err(BADF);
    "fd_prestat_get" (_fd: u32, _out: u32) => |_, _, _| Err(BADF);
    "fd_prestat_dir_name" (_fd: u32, _at: u32, _size: u32) => |_, _, _, _| Err(BADF);
    "fd_readdir" (_fd: u32, _at: u32, _size: u32, _cookie: u64, _out: u32) => |_, _, _, _, _, _| Err(BADF);
    "fd_renumber" (_from: u32, _to: u32) => |_, _, _| Err(BADF);
    "path_create_directory" (_fd: u32, _at: u32, _size: u32) => |_, _, _, _| Err(NOSYS);
    "path_filestat_get" (_fd: u32, _flags: u32, _at: u32, _size: u32, _out: u32) => |_, _, _, _, _, _| Err(NOSYS);
    "path_filestat_set_times" (_fd: u32, _flags: u32, _at: u32, _size: u32, _access: u64, _modify: u64, _fst: u32) => |_, _, _, _, _, _, _, _| Err(NOSYS);
    "path_link" (_fd: u32, _flags: u32, _at: u32, _size: u32, _to: u32, _to_at: u32, _to_size: u32) => |_, _, _, _, _, _, _, _| Err(NOSYS);
    "path_open" (_fd: u32, _dirflags: u32, _at: u32, _size: u32, _oflags: u32, _base: u64, _inheriting: u64, _flags: u32, _out: u32) => |_, _, _, _, _, _, _, _, _, _| Err(NOSYS);
    "path_readlink" (_fd: u32, _at: u32, _size: u32, _buffer: u32, _length: u32, _out: u32) => |_, _, _, _, _, _, _| Err(NOSYS);
    "path_remove_directory" (_fd: u32, _at: u32, _size: u32) => |_, _, _, _| Err(NOSYS);
    "path_rename" (_fd: u32, _at: u32, _size: u32, _to: u32, _to_at: u32, _to_size: u32) => |_, _, _, _, _, _, _| Err(NOSYS);
    "path_symlink" (_at: u32, _size: u32, _fd: u32, _to: u32, _to_size: u32) => |_, _, _, _, _, _| Err(NOSYS);
    "path_unlink_file" (_fd: u32, _at: u32, _size: u32) => |_, _, _, _| Err(NOSYS);
    "poll_oneoff" (_in: u32, _out: u32, _count: u32, _events: u32) => |_, _, _, _, _| Err(NOSYS);
    "proc_raise" (_signal: u32) => |_, _| Err(NOSYS);
    "sock_accept" (_fd: u32, _flags: u32, _out: u32) => |_, _, _, _| Err(NOSYS);
    "sock_recv" (_fd: u32, _at: u32, _count: u32, _flags: u32, _out: u32, _oflags: u32) => |_, _, _, _, _, _, _| Err(NOSYS);
    "sock_send" (_fd: u32, _at: u32, _count: u32, _flags: u32, _out: u32) => |_, _, _, _, _, _| Err(NOSYS);
    "sock_shutdown" (_fd: u32, _how: u32) => |_, _, _| Err(NOSYS);
}

pub(super) fn register(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    for module in MODULES {
        register_in(linker, module)?;
        linker.func_wrap(
            module,
            "proc_exit",
            |_: Caller<'_, Host>, code: u32| -> wasmtime::Result<()> {
                Err(wasmtime::Error::new(GuestFault::Exit(code)))
            },
        )?;
    }
    linker.func_wrap("env", "emscripten_notify_memory_growth", |_: u32| {})?;
    linker.func_wrap("env", "pthread_equal", |left: u32, right: u32| {
        u32::from(left == right)
    })?;
    Ok(())
}

pub(super) fn is_known(module: &str, name: &str) -> bool {
    MODULES.contains(&module) && NAMES.contains(&name)
}

fn fault<T>(result: Result<T, crate::abi::Status>) -> Result<T, u32> {
    result.map_err(|_| FAULT)
}

/// Standard output is information, standard error an error; each write is a line.
fn fd_write(caller: Guest<'_, '_>, fd: u32, iovecs: u32, count: u32, out: u32) -> Errno {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return Err(BADF),
    };
    if count > MAX_IOVECS {
        return Err(INVAL);
    }
    let (bytes, host) = fault(split(caller))?;
    let limit = host.version.spec.limits.log_line;
    let mut line = Vec::new();
    let mut written = 0_u32;
    for place in 0..count {
        let at = iovecs.checked_add(place * 8).ok_or(FAULT)?;
        let after = at.checked_add(4).ok_or(FAULT)?;
        let part = Span(
            fault(memory::read_u32(bytes, at))?,
            fault(memory::read_u32(bytes, after))?,
        );
        let text = fault(part.of(bytes))?;
        written = written.checked_add(part.1).ok_or(INVAL)?;
        let room = limit.saturating_sub(line.len()).min(text.len());
        line.extend_from_slice(text.get(..room).unwrap_or_default());
    }
    fault(memory::write_u32(bytes, out, written))?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    if !line.is_empty() {
        system::write_log(host, level, line);
    }
    Ok(())
}

fn clock_time_get(caller: Guest<'_, '_>, clock: u32, _precision: u64, out: u32) -> Errno {
    let (bytes, host) = fault(split(caller))?;
    let time = match clock {
        0 => system::now(host),
        1 => u64::try_from(host.runtime.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        _ => return Err(NOTSUP),
    };
    fault(memory::write_u64(bytes, out, time))
}

fn clock_res_get(caller: Guest<'_, '_>, clock: u32, out: u32) -> Errno {
    if clock > 1 {
        return Err(NOTSUP);
    }
    let (bytes, _) = fault(split(caller))?;
    fault(memory::write_u64(bytes, out, 1))
}

fn random_get(caller: Guest<'_, '_>, at: u32, size: u32) -> Errno {
    if size > MAX_RANDOM {
        return Err(INVAL);
    }
    let (bytes, _) = fault(split(caller))?;
    let target = fault(memory::slice_mut(bytes, at, size))?;
    aws_lc_rs::rand::fill(target).map_err(|_| NOSYS)
}

fn environment(host: &Host) -> Vec<Vec<u8>> {
    if !host.version.spec.capabilities.environment {
        return Vec::new();
    }
    let variables = host.version.spec.environment.iter();
    variables
        .map(|(name, value)| format!("{name}={value}\0").into_bytes())
        .collect()
}

fn environ_sizes_get(caller: Guest<'_, '_>, count: u32, size: u32) -> Errno {
    let (bytes, host) = fault(split(caller))?;
    let variables = environment(host);
    let length = |number: usize| u32::try_from(number).map_err(|_| INVAL);
    let total = length(variables.iter().map(Vec::len).sum())?;
    fault(memory::write_u32(bytes, count, length(variables.len())?))?;
    fault(memory::write_u32(bytes, size, total))
}

fn environ_get(caller: Guest<'_, '_>, array: u32, buffer: u32) -> Errno {
    let (bytes, host) = fault(split(caller))?;
    let (mut array, mut buffer) = (array, buffer);
    for variable in environment(host) {
        fault(memory::write_u32(bytes, array, buffer))?;
        fault(memory::write(bytes, buffer, &variable))?;
        let size = u32::try_from(variable.len()).map_err(|_| INVAL)?;
        array = array.checked_add(4).ok_or(FAULT)?;
        buffer = buffer.checked_add(size).ok_or(FAULT)?;
    }
    Ok(())
}

fn args_sizes_get(caller: Guest<'_, '_>, count: u32, size: u32) -> Errno {
    let (bytes, _) = fault(split(caller))?;
    fault(memory::write_u32(bytes, count, 0))?;
    fault(memory::write_u32(bytes, size, 0))
}

/// Standard output and error can be written to, and nothing else be done with.
fn fd_fdstat_get(caller: Guest<'_, '_>, fd: u32, out: u32) -> Errno {
    if fd != 1 && fd != 2 {
        return Err(BADF);
    }
    let (bytes, _) = fault(split(caller))?;
    let mut stat = [0_u8; 24];
    if let Some(rights) = stat.get_mut(8..16) {
        rights.copy_from_slice(&64_u64.to_le_bytes());
    }
    fault(memory::write(bytes, out, &stat))
}
