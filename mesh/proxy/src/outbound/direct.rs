//! Services without a proxy, such as a database that speaks its own TLS: plain TCP, as it is.
//!
//! Owns: name, connection and breaker of such a service, and copying between two sockets without a buffer per connection:
//! one that is idle costs none. Must not: encrypt; the application and the service do.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use ringwall_data_path::watch::Watch;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::attempts::Stopped;
use super::forward::refusal;
use crate::refusal::Refusal;
use crate::resilience::Callee;
use crate::resilience::breaker::Outcome;
use crate::snapshot::Service;
use crate::tunnel::Moved;

/// Bytes that one read takes at most.
const READ: usize = 64 * 1024;

thread_local! {
    /// Shared by all connections of a worker: what a read leaves in it is written or copied before the next one.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An open connection, and to where.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
}

/// Tries the addresses of the service in their order.
pub(super) async fn dial(service: &Service, callee: &Callee) -> Result<Direct, Refusal> {
    let ticket = callee
        .consent()
        .map_err(|none| refusal(Stopped::from(none)))?;
    // Dropped halfway, it has said nothing.
    let mut verdict = Verdict {
        callee,
        ticket,
        outcome: Outcome::Neutral,
    };
    let mut why = "the service has no address".to_owned();
    for name in &service.direct {
        match connect(service, name).await {
            Ok(direct) => {
                verdict.outcome = Outcome::Success;
                return Ok(direct);
            }
            Err(error) => why = format!("{name}: {error}"),
        }
    }
    verdict.outcome = Outcome::Failure;
    Err(Refusal::Connect(why.into()))
}

async fn connect(service: &Service, name: &str) -> io::Result<Direct> {
    let attempt = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in tokio::net::lookup_host(name).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Direct { stream, address });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let limit = service.traffic.connect_timeout;
    timeout(limit, attempt).await.map_err(io::Error::from)?
}

struct Verdict<'a> {
    callee: &'a Callee,
    ticket: crate::resilience::breaker::Ticket,
    outcome: Outcome,
}

impl Drop for Verdict<'_> {
    fn drop(&mut self) {
        self.callee.conclude(&self.ticket, self.outcome);
    }
}

/// Carries bytes until both directions have ended, counting them in `moved`.
///
/// # Errors
/// When either side breaks: both are then closed.
pub(super) async fn splice(
    near: TcpStream,
    far: TcpStream,
    moved: &Moved,
    watch: &Watch,
) -> io::Result<()> {
    let (near_reader, near_writer) = near.into_split();
    let (far_reader, far_writer) = far.into_split();
    let up = pump(near_reader, far_writer, &moved.up, watch);
    let down = pump(far_reader, near_writer, &moved.down, watch);
    tokio::try_join!(up, down).map(|_| ())
}

/// One direction, up to the end that the reader tells; the writer then tells it on.
async fn pump(
    reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    moved: &AtomicU64,
    watch: &Watch,
) -> io::Result<()> {
    loop {
        reader.readable().await?;
        let (length, rest) = match pass(&reader, &writer) {
            Ok(passed) => passed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if length == 0 {
            return writer.shutdown().await;
        }
        watch.moved();
        writer.write_all(&rest).await?;
        moved.fetch_add(length, Ordering::Relaxed);
    }
}

/// Reads once and writes as much as goes at once; what does not is copied.
fn pass(reader: &OwnedReadHalf, writer: &OwnedWriteHalf) -> io::Result<(u64, Vec<u8>)> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(READ, 0);
        let length = reader.try_read(scratch)?;
        let read = scratch.get(..length).unwrap_or_default();
        let written = match writer.try_write(read) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) if length == 0 => 0,
            Err(error) => return Err(error),
        };
        let rest = read.get(written..).unwrap_or_default().to_vec();
        Ok((length as u64, rest))
    })
}

/// A socket that tells its watch of every byte.
#[derive(Debug)]
pub(super) struct Watched {
    inner: TcpStream,
    watch: Arc<Watch>,
}

impl Watched {
    pub(super) const fn new(inner: TcpStream, watch: Arc<Watch>) -> Self {
        Self { inner, watch }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            self.watch.moved();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if polled.is_ready() {
            self.watch.moved();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
