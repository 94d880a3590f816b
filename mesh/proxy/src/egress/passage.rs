//! TLS passthrough: a tunnel whose end was declared, and whose first message says the same.
//!
//! Owns: the check of the ClientHello before a byte goes out, the copy of bytes, and their end when nothing moves.
//! Must not: read beyond the first message; method and path are the workload's and its server's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ringwall_tls::{Sni, sni};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::refusal::Refusal;
use super::response::Record;
use super::target::Host;
use ringwall_observe::Verdict;

/// Longest ClientHello: one with post-quantum keys has about 2 KiB.
const MAX_HELLO: usize = 16 * 1024;

/// A connection that stands, to a server that the caller may reach.
pub(crate) struct Passage {
    pub(super) stream: TcpStream,
    pub(super) host: Host,
    /// For the first message.
    pub(super) patience: Duration,
    pub(super) idle: Duration,
    pub(super) record: Record,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Passage {
    /// Carries `client`'s bytes until either side ends.
    pub(crate) async fn carry<S>(self, mut client: S) -> Result<(), Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self {
            stream,
            host,
            patience,
            idle,
            mut record,
            permit,
        } = self;
        let carried = Box::pin(carry(
            &mut client,
            stream,
            &host,
            patience,
            idle,
            &mut record,
        ))
        .await;
        if let Err(refusal) = &carried {
            record.verdict = refusal.verdict();
            if let Some(flow) = &mut record.flow {
                tracing::warn!(
                    caller = &*flow.caller,
                    host = %host,
                    port = flow.port,
                    refusal = refusal.name(),
                    reason = %refusal,
                    "egress tunnel ended"
                );
                flow.reason = refusal.name().into();
            }
        }
        drop((record, permit));
        carried
    }
}

async fn carry<S>(
    client: &mut S,
    mut server: TcpStream,
    host: &Host,
    patience: Duration,
    idle: Duration,
    record: &mut Record,
) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let first = match timeout(patience, hello(client, host)).await {
        Ok(first) => first?,
        Err(_elapsed) => return Err(Refusal::Timeout),
    };
    let failed = |error: io::Error| Refusal::Exchange(error.to_string());
    server.write_all(&first).await.map_err(failed)?;
    record.sent.fetch_add(first.len() as u64, Ordering::Relaxed);
    let received = Arc::new(AtomicU64::new(0));
    let mut server = Watched {
        inner: server,
        sent: Arc::clone(&record.sent),
        received: Arc::clone(&received),
    };
    let sent = Arc::clone(&record.sent);
    let moved = || {
        (
            sent.load(Ordering::Relaxed),
            received.load(Ordering::Relaxed),
        )
    };
    let silence = async {
        loop {
            let before = moved();
            sleep(idle).await;
            if moved() == before {
                return;
            }
        }
    };
    let outcome = tokio::select! {
        copied = tokio::io::copy_bidirectional(client, &mut server) => copied.map(drop).map_err(failed),
        () = silence => Err(Refusal::Timeout),
    };
    record.received = received.load(Ordering::Relaxed);
    // A peer that goes without the formal end of TLS is everyday life, not a fault of the passage.
    record.verdict = Verdict::Allowed;
    outcome
}

/// The first message, whole, once it asks for `host`.
async fn hello<S: AsyncRead + Unpin>(client: &mut S, host: &Host) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        let refused = |seen: &str| Refusal::Sni {
            seen: seen.to_owned(),
        };
        match (sni(&bytes), host) {
            (Sni::Incomplete, _) => {}
            (Sni::Name(name), host) => {
                return match Host::parse(&name) {
                    Ok(asked) if asked == *host => Ok(bytes),
                    _ => Err(refused(&name.escape_default().to_string())),
                };
            }
            // RFC 6066 §3: an address is not sent as a server's name.
            (Sni::Absent, Host::Ip(_)) => return Ok(bytes),
            (Sni::Absent, Host::Name(_)) => return Err(refused("no name")),
            (Sni::NotTls, _) => return Err(refused("something else than TLS")),
        }
        if bytes.len() >= MAX_HELLO {
            return Err(refused("a message that is too long"));
        }
        let room = MAX_HELLO - bytes.len();
        let read = (&mut *client).take(room as u64).read_buf(&mut bytes).await;
        match read {
            Ok(0) => return Err(refused("nothing: the tunnel was closed")),
            Ok(_) => {}
            Err(error) => return Err(Refusal::Exchange(error.to_string())),
        }
    }
}

/// A socket whose bytes are counted.
struct Watched {
    inner: TcpStream,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.received.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
