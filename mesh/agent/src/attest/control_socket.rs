//! The supervisor's line to the agent: JSON lines over a socket that only its user can open.
//!
//! Owns: who may speak. The socket is 0600, and of the processes that can open it only the agent's
//! own parent and root are heard, unless the configuration says that every process of the user is.
//! In: `{"pid": 17, "started": 4711, "workload": "orders"}`, `started` being field 22 of
//! `/proc/PID/stat`. Out, for each line: `{"ok": true}` or `{"ok": false, "error": "…"}`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Uid, getppid};
use ringwall_identity::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::attest::{Peer, Registry};

/// Supervisors at the same time: one, and the next one while the first ends.
const MAX_CONNECTIONS: usize = 8;
/// Longest line.
const MAX_LINE_BYTES: u64 = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    pid: i32,
    started: u64,
    workload: String,
}

#[derive(Serialize)]
struct Answer {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The bound socket.
pub(crate) struct ControlSocket {
    listener: UnixListener,
    rules: Arc<Rules>,
}

struct Rules {
    registry: Arc<Registry>,
    domain: TrustDomain,
    any_process_of_user: bool,
}

impl ControlSocket {
    /// Binds `path` with mode 0600.
    pub(crate) fn bind(
        path: &Path,
        registry: Arc<Registry>,
        domain: TrustDomain,
        any_process_of_user: bool,
    ) -> io::Result<Self> {
        let listener = crate::api::bind(path, 0o600)?;
        let rules = Arc::new(Rules {
            registry,
            domain,
            any_process_of_user,
        });
        Ok(Self { listener, rules })
    }

    /// Listens for ever.
    pub(crate) async fn run(self) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(%error, "cannot accept supervisors");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let rules = Arc::clone(&self.rules);
            tokio::spawn(async move {
                if let Err(error) = rules.listen(stream).await {
                    tracing::warn!(%error, "a supervisor is not heard any more");
                }
                drop(permit);
            });
        }
    }
}

impl Rules {
    async fn listen(&self, stream: UnixStream) -> io::Result<()> {
        let peer = Peer::of(&stream)?;
        if !self.hears(&peer) {
            return Err(io::Error::other(format!(
                "process {} of user {} is not the supervisor",
                peer.pid(),
                peer.uid()
            )));
        }
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = (&mut read).take(MAX_LINE_BYTES);
            if limited.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            if line.last() != Some(&b'\n') {
                return Err(io::Error::other("a line that does not end"));
            }
            // Whoever has connected may be gone, and have left the connection to a child.
            if !peer.is_still_there() {
                return Err(io::Error::other("the supervisor is gone"));
            }
            let error = self.take(&line).err();
            let answer = Answer {
                ok: error.is_none(),
                error,
            };
            let mut text = serde_json::to_vec(&answer)?;
            text.push(b'\n');
            write.write_all(&text).await?;
        }
    }

    fn hears(&self, peer: &Peer) -> bool {
        let root = peer.uid() == 0 && !Uid::effective().is_root();
        let user = peer.uid() == Uid::effective().as_raw();
        let parent = peer.pid() == getppid().as_raw();
        root || (user && (parent || self.any_process_of_user))
    }

    fn take(&self, line: &[u8]) -> Result<(), String> {
        let word: Word = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        SpiffeId::workload(&self.domain, &word.workload).map_err(|error| error.to_string())?;
        self.registry
            .enter(word.pid, word.started, &word.workload)
            .map_err(|error| error.to_string())?;
        tracing::info!(
            pid = word.pid,
            workload = word.workload,
            "the supervisor has started a workload"
        );
        Ok(())
    }
}
