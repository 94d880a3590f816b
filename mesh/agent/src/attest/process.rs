//! The process at the other end of a unix socket, held on to against reuse of its id.
//!
//! Owns: the process as the kernel named it when it connected: its id, when it started, and, where
//! the kernel has `SO_PEERPIDFD` (6.5), a descriptor of that very process.
//! Must not: decide what the process is.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use tokio::net::UnixStream;

/// Longest file of `/proc/PID` that is read.
const MAX_BYTES: u64 = 64 * 1024;

/// The process that has connected.
#[derive(Debug)]
pub(crate) struct Peer {
    pid: i32,
    started: u64,
    uid: u32,
    handle: Option<OwnedFd>,
}

impl Peer {
    /// The process that has connected `stream`. It may have ended already: that is an error, since
    /// nobody can say any more what it was.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let unknown = || io::Error::other("the peer is in a process namespace that we cannot see");
        let pid = credentials
            .pid()
            .filter(|pid| *pid > 0)
            .ok_or_else(unknown)?;
        // Taken before the start time is read: when the process is alive afterwards, then it is the
        // one whose start time that was.
        let handle = match getsockopt(stream, PeerPidfd) {
            Ok(handle) => Some(handle),
            // A kernel before 6.5. Any other refusal means that the process is gone: then its id may
            // already be somebody else's.
            Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => None,
            Err(errno) => return Err(errno.into()),
        };
        let started = start_time(pid)?;
        let peer = Self {
            pid,
            started,
            uid: credentials.uid(),
            handle,
        };
        if peer.is_still_there() {
            Ok(peer)
        } else {
            Err(io::Error::other("the peer is gone"))
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Clock ticks since boot.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether `/proc/PID` is still about the process that has connected.
    pub(crate) fn is_still_there(&self) -> bool {
        let handle_says = self.handle.as_ref().is_none_or(|handle| {
            let info = format!("/proc/self/fdinfo/{}", handle.as_raw_fd());
            let text = read_bounded(&info).unwrap_or_default();
            pid_of_handle(&text) == Some(self.pid)
        });
        handle_says && start_time(self.pid).is_ok_and(|started| started == self.started)
    }
}

/// When the process with this id started, in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> io::Result<u64> {
    let text = read(pid, "stat")?;
    parse_stat(&text)
        .map(|stat| stat.started)
        .ok_or_else(|| io::Error::other("a line of /proc/PID/stat that is none"))
}

/// A small file of `/proc/PID`.
pub(crate) fn read(pid: i32, name: &str) -> io::Result<String> {
    read_bounded(&format!("/proc/{pid}/{name}"))
}

fn read_bounded(path: &str) -> io::Result<String> {
    // A command's name in it may be any bytes.
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is needed of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    started: u64,
}

/// The command's name stands in parentheses and may hold anything, parentheses and line ends too: what
/// counts begins after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    /// `starttime` is the 22nd field; the state after the name is the third.
    const STARTED: usize = 22 - 3;
    let (_, rest) = text.rsplit_once(')')?;
    let started = rest.split_ascii_whitespace().nth(STARTED)?;
    Some(Stat {
        started: started.parse().ok()?,
    })
}

/// `Pid:` of a process descriptor's `fdinfo`; it is -1 when the process has ended.
fn pid_of_handle(text: &str) -> Option<i32> {
    let value = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_that_looks_like_fields_does_not_move_the_start_time() {
        let numbers = "1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        for name in ["cat", "a b", ") S 9 9 9 9", "((", "x\n22"] {
            let line = format!("12 ({name}) S {numbers}\n");
            assert_eq!(parse_stat(&line), Some(Stat { started: 4711 }), "{name}");
        }
        assert_eq!(parse_stat("12 (cat) S 1 2 3"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_end_of_a_process_is_read_from_its_descriptor() {
        assert_eq!(pid_of_handle("pos:\t0\nPid:\t42\nNSpid:\t42\n"), Some(42));
        assert_eq!(pid_of_handle("pos:\t0\nPid:\t-1\n"), Some(-1));
        assert_eq!(pid_of_handle("pos:\t0\n"), None);
    }

    #[tokio::test]
    async fn we_are_our_own_peer() {
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = Peer::of(&near).unwrap();
        assert_eq!(peer.pid(), i32::try_from(std::process::id()).unwrap());
        assert!(peer.is_still_there());
        assert!(peer.handle.is_some(), "this kernel has SO_PEERPIDFD");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = parse_stat(&text);
            let _ = pid_of_handle(&text);
        }
    }
}
