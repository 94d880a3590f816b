//! The unix socket: binding it, and the limits of connections.
//!
//! Owns: how many connections there are, in all and for each workload, so that one that opens as many
//! as it can leaves the others theirs; the limits of HTTP/2 on each.
//! Must not: answer.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::api::Shared;
use crate::api::authority::Rewriter;
use crate::attest::Peer;

/// Connections of one workload; callers that are nobody share one such number.
const MAX_OF_ONE: usize = 64;
/// Connections in all.
const MAX_CONNECTIONS: usize = 1024;
/// Streams of one connection.
const MAX_STREAMS: u32 = 32;
const MAX_HEADER_BYTES: u32 = 8 * 1024;
/// A peer that hangs is noticed after these.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const READ_BYTES: usize = 2048;
/// Pause when the process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// The bound socket. Its file is removed at the end.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

/// What calls know of their connection.
#[derive(Clone)]
pub(crate) struct Connection {
    /// None when it was gone before it could be looked at.
    pub(crate) peer: Option<Arc<Peer>>,
}

/// Binds a unix socket with `mode`, in place of one that nobody listens to any more.
pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if StdStream::connect(path).is_ok() {
        let taken = format!("{} is served by another process", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Bound beside its place, so that nobody can connect before the mode is what it must be.
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// The HTTP/2 server with its limits.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

impl Socket {
    /// Binds the socket of the Workload API: everybody may connect.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: bind(path, 0o666)?,
            path: path.to_owned(),
        })
    }

    /// Accepts for ever. A connection beyond a limit is closed at once.
    pub(super) fn connections(
        self,
        shared: Arc<Shared>,
    ) -> impl Stream<Item = io::Result<LimitedStream>> {
        let counts = Arc::new(Counts::default());
        futures_util::stream::unfold((self, shared, counts), |(socket, shared, counts)| async {
            let stream = loop {
                if let Some(stream) = socket.accept(&shared, &counts).await {
                    break stream;
                }
            };
            Some((Ok(stream), (socket, shared, counts)))
        })
    }

    async fn accept(&self, shared: &Shared, counts: &Arc<Counts>) -> Option<LimitedStream> {
        let stream = match self.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot accept callers");
                tokio::time::sleep(PAUSE).await;
                return None;
            }
        };
        let peer = Peer::of(&stream).ok();
        // For the limits alone; each call is decided on its own.
        let workload = peer
            .as_ref()
            .and_then(|peer| shared.attestor.workload(peer).ok())
            .unwrap_or_default();
        let Some(counted) = counts.enter(&workload) else {
            shared.metrics.refused("too_many_connections");
            tracing::warn!(workload, "too many connections");
            return None;
        };
        let peer = peer.map(Arc::new);
        Some(LimitedStream {
            stream,
            rewriter: Rewriter::new(),
            ready: Vec::new(),
            connection: Connection { peer },
            _counted: counted,
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Where another agent has taken the place already, the file is not ours; it binds by rename,
        // so that this race costs it a restart at most.
        let _gone = fs::remove_file(&self.path);
    }
}

/// Open connections by workload; nobody's are under the empty name.
#[derive(Default)]
struct Counts(Mutex<HashMap<String, usize>>);

struct Counted {
    counts: Arc<Counts>,
    workload: String,
}

impl Counts {
    fn enter(self: &Arc<Self>, workload: &str) -> Option<Counted> {
        let mut counts = self.0.lock();
        let all: usize = counts.values().sum();
        let own = counts.get(workload).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS || own >= MAX_OF_ONE {
            return None;
        }
        counts.insert(workload.to_owned(), own + 1);
        Some(Counted {
            counts: Arc::clone(self),
            workload: workload.to_owned(),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.workload) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.workload);
            }
        }
    }
}

/// An accepted connection that counts while it is open.
pub(crate) struct LimitedStream {
    stream: UnixStream,
    rewriter: Rewriter,
    /// What was read and is not taken yet.
    ready: Vec<u8>,
    connection: Connection,
    _counted: Counted,
}

impl Connected for LimitedStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter.take(read.filled(), &mut this.ready);
        }
        let now = this.ready.len().min(buffer.remaining());
        let (taken, _) = this.ready.split_at(now);
        buffer.put_slice(taken);
        this.ready.drain(..now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_and_takes_the_place_of_a_dead_one_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        let first = bind(&path, 0o600).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let error = bind(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists(), "what a killed process leaves");
        assert!(bind(&path, 0o666).is_ok());
    }

    #[test]
    fn connections_are_limited_for_each_workload_and_in_all() {
        let counts = Arc::new(Counts::default());
        let orders: Vec<_> = (0..MAX_OF_ONE)
            .map(|_| counts.enter("orders").unwrap())
            .collect();
        assert!(counts.enter("orders").is_none());
        assert!(counts.enter("").is_some(), "another one has its own");
        drop(orders);
        assert!(counts.0.lock().is_empty());
        let mut all = Vec::new();
        for workload in 0..MAX_CONNECTIONS / MAX_OF_ONE {
            for _ in 0..MAX_OF_ONE {
                all.push(counts.enter(&workload.to_string()).unwrap());
            }
        }
        assert!(counts.enter("one-more").is_none());
    }
}
