//! Opaque bytes on their way through plugins.
//!
//! Owns: the admission of a connection by its plugins, and the carrying of its bytes with the count that a record needs.
//! Must not: dial, or decide where to.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use ringwall_data_path::watch::Watch;
use ringwall_plugin_host::tcp::{Ended, RelayError};
use ringwall_plugin_host::{Chain, StreamInfo, TcpStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::ProxyBody;
use crate::refusal::Refusal;
use crate::serve::Session;
use crate::serve::live::Bond;
use crate::tunnel::{Moved, ReadBody, feed};
use crate::worker::Worker;

/// Bytes between a stream of HTTP/2 and its plugins, per direction.
const PIPE: usize = 16 * 1024;

/// A connection in the plugins of its chain.
pub(crate) struct Plugins(TcpStream);

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").finish_non_exhaustive()
    }
}

/// Why a plugin has ended bytes that flow beside their record.
pub(crate) type Late = Arc<OnceLock<Refusal>>;

/// Lets the plugins of `chain` decide about a new connection; none where nothing stands in its way.
pub(crate) async fn admit(
    worker: &Arc<Worker>,
    chain: &Chain,
    facts: impl FnOnce() -> StreamInfo,
) -> Result<Option<Plugins>, Refusal> {
    let Some(host) = super::host(worker, chain) else {
        if chain.is_empty() {
            return Ok(None);
        }
        return Err(Refusal::Filter("filter-failed", None));
    };
    let stream = host.open_tcp(chain, facts());
    stream.connected().await.map_err(refusal)?;
    Ok(Some(Plugins(stream)))
}

/// Carries bytes through the plugins until both directions have ended, counting what is read in `moved`.
pub(crate) async fn relay(
    plugins: &Plugins,
    downstream: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    moved: &Moved,
    watch: &Watch,
) -> Result<(), Refusal> {
    let downstream = Counted(downstream, &moved.up, watch);
    let upstream = Counted(upstream, &moved.down, watch);
    match plugins.0.relay(downstream, upstream).await {
        Ok(_) => Ok(()),
        Err(RelayError::Plugin(ended)) => Err(refusal(ended)),
        Err(RelayError::Io(error)) => Err(Refusal::Failed(error.to_string().into())),
    }
}

/// One side of a stream of HTTP/2 whose bytes pass plugins on their way to and from `far`: what comes is `body`, what goes is
/// returned. `late` is told if a plugin ends it.
pub(crate) fn beside(
    session: &Arc<Session>,
    bond: Bond,
    (body, far): (
        ProxyBody,
        impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ),
    plugins: Plugins,
    late: Late,
) -> ProxyBody {
    let (near, inner) = tokio::io::duplex(PIPE);
    let (reader, writer) = tokio::io::split(near);
    let (answer, link) = ReadBody::linked(reader);
    let watch = Arc::clone(&session.watch);
    session.beside(bond, async move {
        let moved = Moved::default();
        let relayed = async {
            let ended = relay(&plugins, inner, far, &moved, &watch).await;
            if let Err(why @ Refusal::Filter(..)) = &ended {
                // Nobody else tells it.
                let _told = late.set(why.clone());
            }
            ended.map_err(|_| ())
        };
        let fed = async { feed(body, writer).await.map_err(|_| ()) };
        // An end that is none of theirs drops the link, which breaks off the other side.
        if tokio::try_join!(relayed, fed).is_ok() {
            link.done();
        }
    });
    ProxyBody::socket(answer)
}

fn refusal(ended: Ended) -> Refusal {
    match ended {
        Ended::Closed => Refusal::Filter("filter-closed", None),
        Ended::TooLarge => Refusal::Filter("filter-body-too-large", None),
        Ended::Failed(failure) => {
            Refusal::Filter("filter-failed", Some(failure.to_string().into()))
        }
    }
}

/// Counts what is read, and tells the watch of it.
struct Counted<'a, S>(S, &'a AtomicU64, &'a Watch);

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        if read > 0 {
            self.1.fetch_add(read as u64, Ordering::Relaxed);
            self.2.moved();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
