//! The programs: which there are, what each is for, how it is attached.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::Ebpf;
use aya::programs::{CgroupSkb, Program, ProgramError, TestRun, TestRunOptions, Xdp};

use crate::error::{Error, Result};
use crate::sys;

/// What stops: these hold without the others, and are attached first.
pub const ENFORCEMENT: [&str; 5] = [
    "rw_egress",
    "rw_ingress",
    "rw_create",
    "rw_bind4",
    "rw_bind6",
];

/// What redirects, and lets connections through.
pub const CAPTURE: [&str; 10] = [
    "rw_sockops",
    "rw_getsockopt",
    "rw_getpeername4",
    "rw_getpeername6",
    "rw_recvmsg4",
    "rw_recvmsg6",
    "rw_sendmsg4",
    "rw_sendmsg6",
    "rw_connect4",
    "rw_connect6",
];

/// What lets bytes go from socket to socket. It is attached to a map, and nothing needs it.
pub const ACCELERATION: &str = "rw_msg";

/// What steers connections to the proxy's listener. It is attached to network namespaces.
pub(crate) const STEERING: &str = "rw_lookup";

/// Every program of a control group, in the order of attachment: nothing passes before what judges packets stands.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    ENFORCEMENT.into_iter().chain(CAPTURE)
}

/// Loads a program into the kernel.
pub(crate) fn load(object: &mut Ebpf, name: &'static str) -> Result<()> {
    let program = find(object, name)?;
    let loaded = match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| Error::load(name, error))
}

/// Attaches a loaded program to a control group, or to a network namespace by its file, and pins the link.
pub(crate) fn attach(object: &Ebpf, name: &'static str, group: &Path, pin: &Path) -> Result<()> {
    let failed = |source: io::Error| Error::Attach {
        program: name,
        path: group.to_path_buf(),
        source,
    };
    let folder = File::open(group).map_err(failed)?;
    let link = with_descriptor(object, name, |program| {
        sys::link(program, folder.as_fd(), attach_type(name))
    })?;
    sys::pin(&link.map_err(failed)?, pin).map_err(failed)
}

/// `enum bpf_attach_type` of the kernel.
fn attach_type(name: &str) -> u32 {
    match name {
        "rw_ingress" => 0,
        "rw_egress" => 1,
        "rw_create" => 2,
        "rw_sockops" => 3,
        "rw_bind4" => 8,
        "rw_bind6" => 9,
        "rw_connect4" => 10,
        "rw_connect6" => 11,
        "rw_sendmsg4" => 14,
        "rw_sendmsg6" => 15,
        "rw_recvmsg4" => 19,
        "rw_recvmsg6" => 20,
        "rw_getsockopt" => 21,
        "rw_getpeername4" => 29,
        "rw_getpeername6" => 30,
        STEERING => 36,
        // No such type: the kernel refuses it by EINVAL.
        _ => u32::MAX,
    }
}

/// Gives a loaded program's descriptor to `use_it`.
pub(crate) fn with_descriptor<T>(
    object: &Ebpf,
    name: &'static str,
    use_it: impl FnOnce(BorrowedFd<'_>) -> T,
) -> Result<T> {
    let program = object.program(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    let descriptor = program.fd().map_err(|error| Error::load(name, error))?;
    Ok(use_it(descriptor.as_fd()))
}

/// Runs a packet program over bytes, from the calling process's control group. True where the packet would pass.
pub(crate) fn rehearse(object: &Ebpf, name: &'static str, frame: &[u8]) -> Result<bool> {
    let program = object.program(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    let program: &CgroupSkb = program
        .try_into()
        .map_err(|error| Error::load(name, error))?;
    let options = TestRunOptions {
        data_in: Some(frame),
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .map_err(|error| Error::load(name, error))?;
    Ok(result.return_value == 1)
}

/// The same for a program of drivers.
pub(crate) fn rehearse_driver(object: &Ebpf, name: &'static str, frame: &[u8]) -> Result<bool> {
    /// `XDP_PASS`.
    const PASS: u32 = 2;
    let program = object.program(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    let program: &Xdp = program
        .try_into()
        .map_err(|error| Error::load(name, error))?;
    let options = TestRunOptions {
        data_in: Some(frame),
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .map_err(|error| Error::load(name, error))?;
    Ok(result.return_value == PASS)
}

fn find<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program> {
    object.program_mut(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })
}
