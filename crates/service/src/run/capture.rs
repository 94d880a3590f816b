//! A component in a container whose connections the kernel captures: it begins when the kernel refuses, and tells its health
//! without a connection.
//!
//! Owns: the wait for the kernel, which a container engine does not keep for us (it starts containers again in any order), and
//! the health check's question on a unix socket: over TCP, the component's port answers its own proxy alone.
//! Must not: dial or listen; until [`refuses`] nothing of the component has run.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream},
    },
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use crate::shell::Shell;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long nothing is said about the wait.
const QUIET: Duration = Duration::from_secs(2);
/// Documentation (RFC 5737): nobody is there, and nothing is sent: a datagram's connect(2) only asks for the way.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
/// EPERM: what a hook says. A missing route has another word.
const REFUSED: i32 = 1;
/// For one answer about health.
const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST_ANSWER: u64 = 4096;
const READY: &str = "ready\n";

/// Waits until the kernel refuses what no policy allows: from then on this process is captured.
pub(super) async fn awaited() {
    let begun = tokio::time::Instant::now();
    let mut said = false;
    while !refuses() {
        if !said && begun.elapsed() > QUIET {
            said = true;
            tracing::warn!(
                "nothing is dialled or served before the kernel captures this container; the agent enrols it (docs/containers.md)"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a connection that no policy allows is refused, by a hook that knows this process's workload. In a group that is
/// attached to and not enrolled, there is no socket at all.
fn refuses() -> bool {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return false;
    };
    let connected = socket.connect(NOBODY);
    connected.is_err_and(|error| error.raw_os_error() == Some(REFUSED))
}

/// Answers the health check of the container's engine for as long as the process lives.
pub(super) fn tell_health(shell: &Shell) -> io::Result<()> {
    let socket = UnixListener::bind_addr(&place(&shell.config.name)?)?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixListener::from_std(socket)?;
    let health = shell.health.clone();
    tokio::spawn(async move {
        loop {
            let Ok((mut asker, _)) = socket.accept().await else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let readiness = health.readiness().await;
            let answer = match readiness.ready {
                true => READY.to_owned(),
                false => serde_json::to_string(&readiness).unwrap_or_default(),
            };
            let told = asker.write_all(answer.as_bytes());
            // Who does not listen has asked for nothing.
            let _ = tokio::time::timeout(LOOK, told).await;
        }
    });
    Ok(())
}

/// Asks the process `name` beside us. The reason where it is not ready.
pub(super) fn ask(name: &str) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let asked = UnixStream::connect_addr(&place(name).map_err(failed)?).map_err(failed)?;
    asked.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut answer = String::new();
    let mut answered = asked.take(LONGEST_ANSWER);
    answered.read_to_string(&mut answer).map_err(failed)?;
    match answer == READY {
        true => Ok(()),
        false => Err(format!("answers: {answer}")),
    }
}

/// Of the network namespace, which the component shares with its proxy alone.
fn place(name: &str) -> io::Result<UnixAddress> {
    UnixAddress::from_abstract_name(format!("ringwall/{name}/health"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attack_without_the_kernel_nothing_begins() {
        assert!(
            !refuses(),
            "these tests run outside of every workload's group"
        );
        let waited = tokio::time::timeout(LOOK * 3, awaited()).await;
        assert!(waited.is_err());
    }

    #[test]
    fn nobody_there_is_not_ready() {
        assert!(ask("nobody-of-that-name").is_err());
    }
}
