//! Connections to servers of the mesh while they are open, so that they end when the server is believed no more (R34).
//!
//! Owns: the register of what each handshake has shown, the watch over it ([`LiveServers`]), and the stream that fails
//! as soon as its connection is severed ([`Severable`]). Who accepts connections watches over its callers itself
//! ([`IdentitySource::verify_peer`]).
//! Must not: pool, or know what a connection carries. A stream that is severed fails rather than ends: what was read so
//! far must not pass for the whole.
//! Read next: `verify.rs`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use ringwall_identity::svid::Svid;
use rustls::pki_types::ServerName;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{IdentitySource, PeerSide};

/// Between two looks at the ends of certificates. Changes of the identity are looked at as they come.
const LOOK: Duration = Duration::from_millis(500);
/// Longest time before the end of a certificate at which a connection is to be replaced: longer than requests take and
/// than idle connections are kept, and so short that peers whose new certificate is late do not connect for every
/// request.
const LONGEST_FAREWELL: Duration = Duration::from_secs(30);

/// The open connections of one identity to servers.
pub struct LiveServers {
    source: Arc<IdentitySource>,
    open: Mutex<HashMap<u64, Arc<Bond>>>,
    next: AtomicU64,
    severed: AtomicU64,
    watched: AtomicBool,
}

/// What a handshake has shown, and the way to take it back.
struct Bond {
    chain: Vec<CertificateDer<'static>>,
    not_after: OffsetDateTime,
    severed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// A stream of bytes that fails once its connection is severed. While it is not, that costs a load for each call.
pub struct Severable<S> {
    stream: S,
    bond: Arc<Bond>,
    usable_for: Duration,
    /// Drops the entry of the register.
    registered: Registered,
}

struct Registered {
    live: Arc<LiveServers>,
    id: u64,
}

impl LiveServers {
    /// An empty register. The first connection starts the watch, in the runtime in which it is made.
    #[must_use]
    pub fn new(source: &Arc<IdentitySource>) -> Arc<Self> {
        Arc::new(Self {
            source: Arc::clone(source),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            severed: AtomicU64::new(0),
            watched: AtomicBool::new(false),
        })
    }

    /// A handshake with a server, whose connection lasts no longer than our trust in it.
    ///
    /// # Errors
    /// Those of the handshake, and when the server lost our trust meanwhile.
    pub async fn connect<S>(
        self: &Arc<Self>,
        connector: &TlsConnector,
        name: ServerName<'static>,
        socket: S,
    ) -> io::Result<Severable<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // From before the handshake: no change falls between it and the register.
        let changes = self.source.subscribe();
        let stream = connector.connect(name, socket).await?;
        self.keep_watch();
        let (_, connection) = stream.get_ref();
        let chain = connection.peer_certificates().unwrap_or_default();
        let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
        let severable = self.register(chain, stream)?;
        if changes.has_changed().unwrap_or(false) {
            self.judge(&severable.bond).map_err(io::Error::other)?;
        }
        Ok(severable)
    }

    fn register<S>(
        self: &Arc<Self>,
        chain: Vec<CertificateDer<'static>>,
        stream: S,
    ) -> io::Result<Severable<S>> {
        let leaf = chain
            .first()
            .ok_or_else(|| io::Error::other("no certificate"))?;
        let not_after = Svid::from_der(leaf).map_err(io::Error::other)?.not_after;
        let bond = Arc::new(Bond {
            chain,
            not_after,
            severed: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, Arc::clone(&bond));
        let end = not_after.min(self.source.not_after());
        let left = (end - OffsetDateTime::now_utc()).max(time::Duration::ZERO);
        Ok(Severable {
            stream,
            bond,
            usable_for: usable_for(left.unsigned_abs()),
            registered: Registered {
                live: Arc::clone(self),
                id,
            },
        })
    }

    /// The identity that dials.
    #[must_use]
    pub fn source(&self) -> &Arc<IdentitySource> {
        &self.source
    }

    /// How many connections were severed since the last time that this was asked.
    #[must_use]
    pub fn take_severed(&self) -> u64 {
        self.severed.swap(0, Ordering::Relaxed)
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }

    fn keep_watch(self: &Arc<Self>) {
        if !self.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(watch_over(
                Arc::downgrade(self),
                self.source.subscribe(),
                OffsetDateTime::now_utc,
            ));
        }
    }

    fn judge(&self, bond: &Bond) -> Result<(), String> {
        let verdict = self
            .source
            .verify_peer(&bond.chain, PeerSide::Server, UnixTime::now());
        verdict.map(drop).map_err(|error| error.to_string())
    }

    /// Verifies every server again: our roots or revocation lists have changed. Connections to the same server have the
    /// same certificate, which is verified once.
    fn verify(&self) {
        let open: Vec<Arc<Bond>> = self.open.lock().values().map(Arc::clone).collect();
        let mut verdicts: HashMap<&[u8], Option<String>> = HashMap::new();
        for bond in &open {
            let leaf = bond.chain.first().map_or(&[][..], AsRef::as_ref);
            let verdict = verdicts
                .entry(leaf)
                .or_insert_with(|| self.judge(bond).err());
            if let Some(why) = verdict {
                self.sever(bond, why);
            }
        }
    }

    /// Severs what has outlived its certificate.
    fn expire(&self, now: OffsetDateTime) {
        for bond in self.open.lock().values() {
            if now >= bond.not_after {
                self.sever(bond, "certificate expired");
            }
        }
    }

    fn sever(&self, bond: &Bond, why: &str) {
        if bond.severed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.severed.fetch_add(1, Ordering::Relaxed);
        let leaf = bond
            .chain
            .first()
            .and_then(|leaf| Svid::from_der(leaf).ok());
        let peer = leaf.map(|svid| svid.id.to_string()).unwrap_or_default();
        tracing::info!(peer, why, "live connection to a server ended");
        bond.reader.wake();
        bond.writer.wake();
    }
}

/// Ends with the register.
async fn watch_over(
    live: Weak<LiveServers>,
    mut changes: watch::Receiver<u64>,
    now: fn() -> OffsetDateTime,
) {
    loop {
        let changed = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            () = tokio::time::sleep(LOOK) => false,
        };
        let Some(live) = live.upgrade() else { return };
        match changed {
            true => live.verify(),
            false => live.expire(now()),
        }
    }
}

/// How long a connection should be used whose certificates end in `left`: whichever side sees the end come asks for
/// another one then, so that no request is on the connection when it ends (R33).
#[must_use]
pub fn usable_for(left: Duration) -> Duration {
    left - (left / 4).min(LONGEST_FAREWELL)
}

impl Bond {
    fn check(&self) -> io::Result<()> {
        match self.severed.load(Ordering::Acquire) {
            false => Ok(()),
            // To whoever waits for an answer it is as if the server had closed the connection.
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the server is believed no more",
            )),
        }
    }

    /// Passes `polled` on, unless the connection is severed; while it is pending, severing it wakes the caller.
    fn guard<T>(
        &self,
        waker: &AtomicWaker,
        cx: &Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        waker.register(cx.waker());
        match self.check() {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<S> Severable<S> {
    /// For how long, from the handshake, new requests should be sent: the connection is severed a little later, when the
    /// first of the two certificates ends.
    pub fn usable_for(&self) -> Duration {
        self.usable_for
    }

    /// The stream inside, to be looked at.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.live.open.lock().remove(&self.id);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.bond.check()?;
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.bond.guard(&this.bond.reader, cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.bond.check()?;
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.bond.guard(&this.bond.writer, cx, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.bond.check()?;
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.bond.guard(&this.bond.writer, cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.bond.check()?;
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.bond.guard(&this.bond.writer, cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.bond.check()?;
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.bond.guard(&this.bond.writer, cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl fmt::Debug for LiveServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveServers")
            .field("open", &self.len())
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Severable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Severable")
            .field("id", &self.registered.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
