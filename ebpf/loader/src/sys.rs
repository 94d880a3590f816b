//! The calls of bpf(2) for links of control groups and interfaces: making one, pinning it, opening the pin, replacing its program.
//!
//! aya has no pins for links of every program type, and keeps the replacement to itself. Each is one syscall with a
//! structure as long as the kernel reads it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr` as far as these calls read it; the kernel wants the rest to be zero, or not there.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    /// Of an interface: its number.
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// `BPF_SK_MSG_VERDICT`
const SK_MSG_VERDICT: u32 = 7;

/// Runs a program for what the sockets of a map send, in place of another one. The map keeps it.
pub(crate) fn attach_to_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let attribute = ProgAttach {
        target_fd: number(&map)?,
        attach_bpf_fd: number(&program)?,
        attach_type: SK_MSG_VERDICT,
        attach_flags: 0,
    };
    bpf(BPF_PROG_ATTACH, &attribute).map(drop)
}

/// Opens what is pinned there.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attribute = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &attribute)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a program at an interface, by its number in the calling thread's network namespace, for as long as somebody has the
/// link.
pub(crate) fn link_to(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let attribute = LinkCreate {
        prog_fd: number(&program)?,
        target_fd: interface,
        attach_type,
        flags,
    };
    let fd = bpf(BPF_LINK_CREATE, &attribute)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a program in a control group for as long as somebody has the link. Others may be attached beside it.
pub(crate) fn link(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attribute = LinkCreate {
        prog_fd: number(&program)?,
        target_fd: number(&group)?,
        attach_type,
        flags: 0,
    };
    let fd = bpf(BPF_LINK_CREATE, &attribute)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps a link without a process.
pub(crate) fn pin(link: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attribute = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: number(link)?,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attribute).map(drop)
}

/// From the next packet or call on, the link runs the other program.
pub(crate) fn replace_program(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let attribute = LinkUpdate {
        link_fd: number(link)?,
        new_prog_fd: number(&program)?,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &attribute).map(drop)
}

/// Ends the link that is pinned at `pin`, if there is one: its program does not run any more when this returns. Were only the
/// pin taken away, it would go on until the kernel comes to it.
pub(crate) fn end_link(pin: &Path) -> io::Result<()> {
    let link = match open_pin(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link?,
    };
    bpf(BPF_LINK_DETACH, &number(&link)?)?;
    fs::remove_file(pin)
}

/// Ends all links that are pinned in a folder, if there is one.
pub(crate) fn end_links(folder: &Path) -> io::Result<()> {
    let pins = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        pins => pins?,
    };
    for pin in pins {
        end_link(&pin?.path())?;
    }
    Ok(())
}

fn number(descriptor: &impl AsRawFd) -> io::Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).map_err(io::Error::other)
}

fn bpf<T>(command: libc::c_long, attribute: &T) -> io::Result<i32> {
    // SAFETY: the attribute is a plain structure of the given size, and what it points to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attribute),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
