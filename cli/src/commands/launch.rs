//! `ringwall launch` (hidden): a process that is about to become another program. It joins its control
//! group and takes over listening sockets first, so that the program never runs anywhere else.
//!
//! Owns: the child's side of a start; `supervisor/unit.rs` has the parent's. The sockets come over
//! standard input, which is a socket pair and stays: its end tells the program that the supervisor is
//! gone. Must not: open anything, so that the sockets get the first free numbers (systemd's protocol,
//! sd_listen_fds(3)); what was open where the platform was started from is closed, and no component's either.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use crate::cgroups;
use crate::confine::confine;
use crate::error::CliError;

/// Sockets that one process may take over.
pub(crate) const MOST_SOCKETS: usize = 32;

#[derive(Args, Clone, Debug)]
pub(super) struct LaunchArgs {
    /// Control group to join
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
    /// Give up what leads around the kernel's hooks of that group (docs/ebpf.md)
    #[arg(long, requires = "cgroup")]
    confine: bool,
    /// Listening sockets to take over from standard input
    #[arg(long, value_name = "N", default_value_t = 0)]
    sockets: usize,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Becomes the program; returns only when that fails.
pub(super) fn run(args: &LaunchArgs) -> Result<ExitCode, CliError> {
    close_inherited()?;
    let first = match args.sockets {
        0 => None,
        count => Some(receive(count)?),
    };
    if let Some(group) = &args.cgroup {
        cgroups::join(group)?;
    }
    if args.confine {
        confine()?;
    }
    let (program, rest) = args
        .command
        .split_first()
        .ok_or_else(|| CliError::internal("starting", "no program"))?;
    let mut command = Command::new(program);
    command.args(rest);
    if let Some(first) = first {
        command
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS", args.sockets.to_string())
            .env("LISTEN_FDS_FIRST_FD", first.to_string());
    }
    Err(CliError::Io {
        what: format!("starting {program}"),
        source: command.exec(),
    })
}

/// Leaves standard input, output and error.
fn close_inherited() -> Result<(), CliError> {
    let folder = "/proc/self/fd";
    let entries = std::fs::read_dir(folder)
        .map_err(|source| CliError::io("listing", folder.as_ref(), source))?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let inherited: Vec<RawFd> = numbers.filter(|number| *number > 2).collect();
    for number in inherited {
        // One of them was the listing's own, and is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Takes the sockets; gives the number of the first.
fn receive(count: usize) -> Result<RawFd, CliError> {
    let failed = |why: String| CliError::internal("taking over sockets", why);
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; MOST_SOCKETS]);
    // Not closed at exec: the program is to have them.
    let message = recvmsg::<UnixAddr>(
        std::io::stdin().as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .map_err(|error| failed(error.to_string()))?;
    let parts = message.cmsgs().map_err(|error| failed(error.to_string()))?;
    let mut sockets = Vec::new();
    for part in parts {
        if let ControlMessageOwned::ScmRights(received) = part {
            sockets.extend(received);
        }
    }
    let first = sockets.first().copied().unwrap_or_default();
    let in_a_row = (first..)
        .zip(&sockets)
        .all(|(number, socket)| number == *socket);
    if sockets.len() == count && in_a_row {
        Ok(first)
    } else {
        Err(failed(format!(
            "{count} were to come, and {sockets:?} came"
        )))
    }
}
