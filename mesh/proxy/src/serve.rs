//! One accepted connection, whatever it speaks: what both directions share.
//!
//! Owns: [`Session`], hyper's and the h2 crate's settings, and the choice between them. Bytes are guarded as at the
//! gateway (`ringwall_data_path`). Must not: know directions; [`Handler`] does. Next: `serve/http2.rs`.

mod http1;
mod http2;
pub(crate) mod live;
pub(crate) mod peer;
mod prefixed;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use ringwall_data_path::io::IoLimits;
use ringwall_data_path::permit::Permit;
use ringwall_data_path::watch::{Watch, millis};
use ringwall_tls::usable_for;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

pub(crate) use self::http1::http1;
pub(crate) use self::http2::http2;
pub(crate) use self::prefixed::Prefixed;
use crate::access_log::{Direction, Flow, FlowKind};
use crate::body::ProxyBody;
use crate::config::Limits;
use crate::serve::live::Bond;
use crate::worker::{Accepted, Worker};

/// The connection preface of HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No time of the worker's clock.
const NEVER: u64 = u64::MAX;

/// What requests know of the connection that they came on.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker: Arc<Worker>,
    pub(crate) id: u64,
    pub(crate) watch: Arc<Watch>,
    pub(crate) peer: SocketAddr,
    /// Our end of the socket, where plugins may ask for it.
    pub(crate) local: Option<SocketAddr>,
    pub(crate) direction: Direction,
    /// Notified when the connection has to end now.
    pub(crate) cut: Arc<Notify>,
    /// When the peer is asked to open another connection, on the worker's clock.
    wanes: AtomicU64,
    _permit: Permit,
}

/// Answers the requests of one connection. It cannot fail: a refusal is a response too.
///
/// An HTTP/2 CONNECT, plain or extended (RFC 8441, `h2::ext::Protocol` among the extensions), is a request whose
/// body is what the peer sends and a response whose body is what it gets. An HTTP/1.1 upgrade has
/// `hyper::upgrade::OnUpgrade` among its extensions.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(
        self: Arc<Self>,
        request: Request<ProxyBody>,
    ) -> impl Future<Output = Response<ProxyBody>> + Send;
}

/// A request in flight: its connection is neither idle nor stalled without reason.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Session>);

/// Ends the supervision of a task however it ends.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) worker: Arc<Worker>,
    pub(crate) id: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.worker.watches.remove(self.id);
        self.worker.live.remove(self.id);
    }
}

impl Session {
    /// Takes the socket out of an accepted connection.
    pub(crate) fn begin(accepted: Accepted, direction: Direction) -> (TcpStream, Arc<Self>) {
        let Accepted {
            worker,
            id,
            watch,
            socket,
            peer,
            permit,
        } = accepted;
        let asked = worker.shared.plugins.has_engine();
        let session = Arc::new(Self {
            local: asked.then(|| socket.local_addr().ok()).flatten(),
            worker,
            id,
            watch,
            peer,
            direction,
            cut: Arc::default(),
            wanes: AtomicU64::new(NEVER),
            _permit: permit,
        });
        (socket, session)
    }

    /// A connection inside a tunnel of `outer`: the same peer, with deadlines of its own.
    pub(crate) fn inside(outer: &Self, watch: Arc<Watch>, permit: Permit) -> Arc<Self> {
        Arc::new(Self {
            worker: Arc::clone(&outer.worker),
            id: outer.worker.next_id(),
            watch,
            peer: outer.peer,
            local: outer.local,
            direction: outer.direction,
            cut: Arc::default(),
            wanes: AtomicU64::new(outer.wanes.load(Ordering::Relaxed)),
            _permit: permit,
        })
    }

    /// Nobody's connection: calls that are made here. `None`: there are too many connections.
    pub(crate) fn own(worker: &Arc<Worker>) -> Option<Arc<Self>> {
        let permit = worker.shared.permit()?;
        let stall = worker.shared.config.limits.stall_timeout;
        let watch = Watch::new(Arc::clone(&worker.clock), stall, stall, stall);
        Some(Arc::new(Self {
            worker: Arc::clone(worker),
            id: worker.next_id(),
            watch: Arc::new(watch),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            local: None,
            direction: Direction::Outbound,
            cut: Arc::default(),
            wanes: AtomicU64::new(NEVER),
            _permit: permit,
        }))
    }

    /// Says that a certificate of the two ends in `left`. Before that, the peer is asked to open another connection:
    /// at the end itself this one is cut, with whatever is in flight (R33).
    pub(crate) fn ends_in(&self, left: Duration) {
        let at = self
            .worker
            .clock
            .now()
            .saturating_add(millis(usable_for(left)));
        self.wanes.store(at, Ordering::Relaxed);
    }

    /// Whether the peer should open another connection.
    pub(crate) fn wanes(&self) -> bool {
        self.worker.clock.now() >= self.wanes.load(Ordering::Relaxed)
    }

    /// Returns when that is so.
    pub(crate) async fn waned(&self) {
        match self.wanes.load(Ordering::Relaxed) {
            NEVER => std::future::pending().await,
            at => {
                let left = at.saturating_sub(self.worker.clock.now());
                tokio::time::sleep(Duration::from_millis(left)).await;
            }
        }
    }

    /// Ends the supervision of the connection when it is dropped.
    pub(crate) fn guard(&self) -> Gone {
        Gone {
            worker: Arc::clone(&self.worker),
            id: self.id,
        }
    }

    /// Counts a request as in flight for as long as the value lives.
    pub(crate) fn request(self: &Arc<Self>) -> InFlight {
        self.watch.begin();
        InFlight(Arc::clone(self))
    }

    pub(crate) fn io_limits(&self) -> IoLimits {
        let limits: &Limits = &self.worker.shared.config.limits;
        IoLimits {
            header: limits.header_timeout,
            body_idle: limits.body_timeout,
            body_min_rate: limits.body_min_rate,
            write: limits.write_timeout,
            max_head: limits.max_head,
        }
    }

    /// Runs `work` beside the connection, such as the bytes after an upgrade, under the same deadlines, and for as long
    /// as `bond` holds.
    pub(crate) fn beside(
        self: &Arc<Self>,
        bond: Bond,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let worker = Arc::clone(&self.worker);
        let id = worker.next_id();
        let gone = Gone {
            worker: Arc::clone(&worker),
            id,
        };
        let task = tokio::spawn(async move {
            let _gone = gone;
            work.await;
        });
        worker.live.add(id, bond, task.abort_handle(), None);
        worker
            .watches
            .add(id, Arc::clone(&self.watch), task.abort_handle());
    }

    /// Records bytes that were refused before they were a request.
    fn malformed(&self, why: &'static str) {
        self.worker.shared.metrics.malformed();
        let mut flow = Flow::new(
            self.direction,
            FlowKind::Connection,
            ("", &self.worker.shared.workload),
            0,
            self.peer,
        );
        flow.status = 400;
        flow.refusal = Some(why);
        flow.flag = "DPE";
        self.worker.finished(&flow);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.watch.end();
    }
}

/// What the first bytes of a plaintext connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

/// Reads as much as tells the two apart, and gives the bytes back in front of the socket.
///
/// # Errors
/// When the connection ends first.
pub(crate) async fn detect<S: AsyncRead + Unpin>(
    mut socket: S,
) -> std::io::Result<(Spoken, Prefixed<S>)> {
    let mut first = [0; PREFACE.len()];
    let mut length = 0;
    // `PRI` and a blank is no method of HTTP/1.1 that we would serve.
    while length < 4 {
        let room = first.get_mut(length..).unwrap_or_default();
        match socket.read(room).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        if !PREFACE.starts_with(first.get(..length).unwrap_or_default()) {
            return Ok((Spoken::Http1, Prefixed::new(socket, &first, length)));
        }
    }
    Ok((Spoken::Http2, Prefixed::new(socket, &first, length)))
}
