//! The connections of one worker to one endpoint.
//!
//! Owns: single-flight dialling with no lock held meanwhile, a second connection only when the first has no stream
//! left, the bound on those that wait, and graceful replacement when our own certificate or the peer goes.
//! Must not: open TCP itself (`dial.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use ringwall_data_path::permit::Permit;
use ringwall_data_path::watch::{CoarseClock, millis};
use ringwall_identity::SpiffeId;
use tokio::sync::{Notify, watch};

use super::Context;
use super::dial::{Dialled, dial};
use super::error::SendError;
use crate::serve::live::Bond;

#[derive(Debug)]
pub(super) struct Pool {
    context: Arc<Context>,
    target: Target,
    address: SocketAddr,
    connect_timeout: Duration,
    state: Mutex<State>,
    /// Told whenever a stream has ended.
    freed: Arc<Notify>,
    waiting: Arc<AtomicUsize>,
    used_at: AtomicU64,
}

/// Who is at the other end.
#[derive(Debug)]
pub(super) enum Target {
    /// A proxy, over mutual TLS.
    Peer {
        service: Arc<str>,
        identity: SpiffeId,
    },
    /// The application beside us, in plaintext.
    App,
}

#[derive(Debug, Default)]
struct State {
    open: Vec<Arc<Tunnel>>,
    dialling: Option<watch::Receiver<Option<Outcome>>>,
}

/// How one attempt to dial ended; the text of the error is for everybody who waited.
type Outcome = Result<(), Failed>;

#[derive(Debug, Clone)]
enum Failed {
    Error(Arc<str>),
    Timeout(Duration),
}

/// One connection.
#[derive(Debug)]
struct Tunnel {
    sender: SendRequest<Bytes>,
    clock: Arc<CoarseClock>,
    freed: Arc<Notify>,
    active: AtomicUsize,
    idle_since: AtomicU64,
    ended: Arc<AtomicBool>,
    /// Revision of our own identity at the handshake: another one since means that it was rotated.
    certificate: u64,
}

/// A stream's place in its connection.
#[derive(Debug)]
pub(super) struct Place(Arc<Tunnel>);

/// The right to open one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) place: Place,
}

/// What a request does next.
enum Step {
    Take(Stream),
    Wait(watch::Receiver<Option<Outcome>>),
    /// Every stream of every connection that we may have is in use.
    Full,
}

impl Pool {
    pub(super) fn new(
        context: &Arc<Context>,
        target: Target,
        address: SocketAddr,
        connect_timeout: Duration,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            target,
            address,
            connect_timeout,
            state: Mutex::default(),
            freed: Arc::default(),
            waiting: Arc::default(),
            used_at: AtomicU64::new(context.clock.now()),
        }
    }

    /// Whether `identity` is who must answer.
    pub(super) fn is_of(&self, identity: &SpiffeId) -> bool {
        matches!(&self.target, Target::Peer { identity: own, .. } if own == identity)
    }

    /// A place on a connection that is open.
    pub(super) fn try_stream(self: &Arc<Self>) -> Option<Stream> {
        match self.step() {
            Step::Take(stream) => Some(stream),
            Step::Wait(_) | Step::Full => None,
        }
    }

    /// A place on a connection that is open, or as soon as there is one.
    pub(super) async fn stream(self: &Arc<Self>) -> Result<Stream, SendError> {
        let mut waits = match self.step() {
            Step::Take(stream) => return Ok(stream),
            waits => waits,
        };
        let limit = self.context.shared.config.limits.tunnels.max_pending;
        let _waiting = Permit::take(&self.waiting, limit).ok_or(SendError::Pending)?;
        loop {
            match waits {
                Step::Take(stream) => return Ok(stream),
                Step::Wait(mut dialling) => {
                    let outcome = dialling.wait_for(Option::is_some).await;
                    match outcome.ok().and_then(|outcome| outcome.clone()) {
                        Some(Ok(())) => {}
                        Some(Err(failed)) => return Err(failed.into()),
                        None => return Err(SendError::Connect("the attempt was given up".into())),
                    }
                }
                Step::Full => self.freed.notified().await,
            }
            waits = self.step();
        }
    }

    pub(super) fn open(&self) -> usize {
        self.state.lock().open.len()
    }

    fn step(self: &Arc<Self>) -> Step {
        self.used_at
            .store(self.context.clock.now(), Ordering::Relaxed);
        let mut state = self.state.lock();
        let mut taken = None;
        state.open.retain(|tunnel| {
            if taken.is_some() {
                return true;
            }
            let Some(sender) = tunnel.usable() else {
                return false;
            };
            if tunnel.has_room(&sender) {
                let place = Place::take(Arc::clone(tunnel));
                taken = Some(Stream { sender, place });
            }
            true
        });
        if let Some(stream) = taken {
            // The old certificate still holds: this request goes on while the successor is made.
            let outdated = stream.place.0.certificate != self.context.revision();
            if outdated && state.dialling.is_none() {
                self.begin(&mut state);
            }
            return Step::Take(stream);
        }
        if let Some(dialling) = &state.dialling {
            return Step::Wait(dialling.clone());
        }
        if state.open.len() >= self.context.shared.config.limits.tunnels.max_connections {
            return Step::Full;
        }
        Step::Wait(self.begin(&mut state))
    }

    /// Starts the one attempt; it goes on when those who wait for it do not.
    fn begin(self: &Arc<Self>, state: &mut State) -> watch::Receiver<Option<Outcome>> {
        let (tell, dialling) = watch::channel(None);
        state.dialling = Some(dialling.clone());
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let certificate = pool.context.revision();
            let attempt = Box::pin(dial(&pool.context, pool.address, &pool.target));
            let outcome = match tokio::time::timeout(pool.connect_timeout, attempt).await {
                Ok(Ok(dialled)) => {
                    pool.opened(dialled, certificate);
                    Ok(())
                }
                Ok(Err(error)) => Err(Failed::Error(error.to_string().into())),
                Err(_) => Err(Failed::Timeout(pool.connect_timeout)),
            };
            pool.state.lock().dialling = None;
            tell.send_replace(Some(outcome));
        });
        dialling
    }

    fn opened(self: &Arc<Self>, dialled: Dialled, certificate: u64) {
        let context = &self.context;
        let ended = Arc::new(AtomicBool::new(false));
        let tunnel = Arc::new(Tunnel {
            sender: dialled.sender.clone(),
            clock: Arc::clone(&context.clock),
            freed: Arc::clone(&self.freed),
            active: AtomicUsize::new(0),
            idle_since: AtomicU64::new(context.clock.now()),
            ended: Arc::clone(&ended),
            certificate,
        });
        let bond = match (&self.target, &dialled.peer) {
            (Target::Peer { service, .. }, Some(peer)) => Some(Bond::Callee {
                peer: Arc::clone(peer),
                service: Arc::clone(service),
            }),
            _ => None,
        };
        let limits = context.shared.config.limits.tunnels.clone();
        let (id, cut) = (context.live.next_id(), Arc::new(Notify::new()));
        let guard = Driven {
            pool: Arc::clone(self),
            ended,
            id,
        };
        if bond.is_some() {
            let metrics = &context.shared.metrics;
            metrics.tunnels_opened.inc();
            metrics.tunnels.inc();
        }
        let told = Arc::clone(&cut);
        let task = tokio::spawn(async move {
            let _guard = guard;
            dialled.drive(told, limits).await;
        });
        if let Some(bond) = bond {
            context.live.add(id, bond, task.abort_handle(), Some(cut));
        }
        let mut state = self.state.lock();
        // Those with another certificate of ours finish what they carry and close by themselves.
        state.open.retain(|old| old.certificate == certificate);
        state.open.push(tunnel);
    }

    /// Lets go of connections without a stream for too long; whether the pool itself is still of use.
    pub(super) fn sweep(&self) -> bool {
        let limit = millis(self.context.shared.config.limits.tunnels.idle_timeout);
        let oldest = self.context.clock.now().saturating_sub(limit);
        let mut state = self.state.lock();
        state.open.retain(|tunnel| {
            tunnel.usable().is_some()
                && (tunnel.active.load(Ordering::Relaxed) > 0
                    || tunnel.idle_since.load(Ordering::Relaxed) >= oldest)
        });
        !state.open.is_empty()
            || state.dialling.is_some()
            || self.used_at.load(Ordering::Relaxed) >= oldest
    }
}

impl From<Failed> for SendError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Error(error) => Self::Connect(error),
            Failed::Timeout(limit) => Self::ConnectTimeout(limit),
        }
    }
}

impl Tunnel {
    /// A handle for one stream, unless the connection has ended or was sent away by the peer (GOAWAY).
    fn usable(&self) -> Option<SendRequest<Bytes>> {
        if self.ended.load(Ordering::Relaxed) {
            return None;
        }
        let mut sender = self.sender.clone();
        let mut task = TaskContext::from_waker(Waker::noop());
        let gone = matches!(sender.poll_ready(&mut task), Poll::Ready(Err(_)));
        (!gone).then_some(sender)
    }

    fn has_room(&self, sender: &SendRequest<Bytes>) -> bool {
        self.active.load(Ordering::Relaxed) < sender.current_max_send_streams()
    }
}

impl Place {
    fn take(tunnel: Arc<Tunnel>) -> Self {
        tunnel.active.fetch_add(1, Ordering::Relaxed);
        Self(tunnel)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let tunnel = &self.0;
        if tunnel.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            tunnel
                .idle_since
                .store(tunnel.clock.now(), Ordering::Relaxed);
        }
        tunnel.freed.notify_one();
    }
}

/// Ends the books of a connection however its task ends.
struct Driven {
    pool: Arc<Pool>,
    ended: Arc<AtomicBool>,
    id: u64,
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.pool.context.live.remove(self.id);
        if matches!(self.pool.target, Target::Peer { .. }) {
            self.pool.context.shared.metrics.tunnels.dec();
        }
        // Those who wait for a stream may now dial.
        self.pool.freed.notify_waiters();
    }
}
