//! connect(2) by io_uring, which no filter of system calls sees: for the tests, and for `examples/ways-out.rs`.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::libc;
use socket2::{SockAddr, Socket};

pub(crate) fn connect(socket: &Socket, to: &SockAddr, patience: Duration) -> io::Result<()> {
    let mut ring = io_uring::IoUring::new(2)?;
    let entry = io_uring::opcode::Connect::new(
        io_uring::types::Fd(socket.as_raw_fd()),
        to.as_ptr().cast(),
        to.len(),
    );
    // SAFETY: the address and the socket outlive the ring, which gives up what it has not done.
    unsafe { ring.submission().push(&entry.build()) }.map_err(io::Error::other)?;
    let patience = io_uring::types::Timespec::from(patience);
    let wait = io_uring::types::SubmitArgs::new().timespec(&patience);
    match ring.submitter().submit_with_args(1, &wait) {
        Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
            return Err(io::ErrorKind::TimedOut.into());
        }
        other => other?,
    };
    let done = ring.completion().next();
    match done.ok_or(io::ErrorKind::TimedOut)?.result() {
        0.. => Ok(()),
        refused => Err(io::Error::from_raw_os_error(-refused)),
    }
}
