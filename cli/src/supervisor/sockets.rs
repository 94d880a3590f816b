//! Listening sockets that we hold for proxies: one that is replaced, or has crashed, loses no
//! connection, since callers wait in the socket's queue meanwhile.
//!
//! Owns: binding them once, and handing them to a process that is being started. Must not: accept.

use std::io::IoSlice;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::error::CliError;

/// The sockets of one process, in the order in which it takes them over. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sockets(Arc<Vec<TcpListener>>);

impl Sockets {
    /// Binds them all.
    pub(super) fn bind(whose: &str, addresses: &[SocketAddr]) -> Result<Self, CliError> {
        let bound: Result<Vec<TcpListener>, CliError> = addresses
            .iter()
            .map(|address| {
                TcpListener::bind(address).map_err(|error| {
                    let port = address.port();
                    CliError::PortsTaken(vec![format!(
                        "port {port} of {whose} cannot be listened on: {error}\n  \
                         fix: `ss -ltnp 'sport = :{port}'` says who has it"
                    )])
                })
            })
            .collect();
        Ok(Self(Arc::new(bound?)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sends them over `line`, whose other end is the process's standard input.
    pub(super) fn send(&self, line: &UnixStream) -> Result<(), CliError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let numbers: Vec<RawFd> = self.0.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let byte = [IoSlice::new(b"s")];
        let to: Option<&UnixAddr> = None;
        sendmsg(line.as_raw_fd(), &byte, &rights, MsgFlags::empty(), to)
            .map(drop)
            .map_err(|errno| CliError::Io {
                what: "handing over sockets".into(),
                source: errno.into(),
            })
    }
}
