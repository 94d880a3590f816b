//! What the operator asks of a running supervisor: one JSON object on a line, over a socket that only
//! its user can open; the answer is one line.
//!
//! Owns: the socket and the wire form. Must not: act; the loop does.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::error::CliError;

/// Requests that may wait.
const WAITING: usize = 8;
/// Longest request.
const LONGEST: u64 = 4096;
/// Time for a request to come once somebody has connected.
const PATIENCE: Duration = Duration::from_secs(5);

/// Replace the process of a service proxy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upgrade {
    pub(crate) upgrade: String,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    /// One sentence.
    pub(crate) said: String,
}

/// A request with its way back.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) name: String,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// The open socket.
#[derive(Debug)]
pub(super) struct Requests {
    requests: mpsc::Receiver<Request>,
}

impl Requests {
    /// Binds the socket anew; a task reads from it.
    pub(super) fn listen(path: &Path) -> Result<Self, CliError> {
        let bound = bind(path).map_err(|error| CliError::io("listening on", path, error))?;
        let (sender, requests) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            while let Ok((stream, _)) = bound.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    // Who does not wait for the answer has it done all the same.
                    let _ = serve(stream, sender).await;
                });
            }
        });
        Ok(Self { requests })
    }

    pub(super) async fn next(&mut self) -> Option<Request> {
        self.requests.recv().await
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(stream: UnixStream, sender: mpsc::Sender<Request>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(LONGEST));
    tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await??;
    let outcome = match serde_json::from_str::<Upgrade>(&line) {
        Err(error) => Outcome {
            ok: false,
            said: format!("no request of this version: {error}"),
        },
        Ok(Upgrade { upgrade: name }) => {
            let (reply, answer) = oneshot::channel();
            let gone = || Outcome {
                ok: false,
                said: "the platform is stopping".into(),
            };
            match sender.send(Request { name, reply }).await {
                Ok(()) => answer.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
    };
    let mut text = serde_json::to_vec(&outcome)?;
    text.push(b'\n');
    write.write_all(&text).await
}
