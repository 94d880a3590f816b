//! Between proxies: HTTP/2 over mutual TLS, a few connections for everything.
//!
//! Owns: the pools of one worker, by service identity and endpoint; requests, WebSocket (RFC 8441) and opaque bytes
//! (HBONE: CONNECT as Istio's proxies speak it) on their streams. Must not: choose endpoints or retry (`outbound/`).
//! Read next: `tunnel/pool.rs` (which connection), `tunnel/dial.rs` (a new one), `tunnel/error.rs` (what failed).

mod body;
mod dial;
mod error;
mod exchange;
mod pipe;
mod pool;
mod socket;
mod stream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use ringwall_data_path::watch::CoarseClock;
use ringwall_http_io::body::BoxError;
use tokio::sync::watch;

pub(crate) use self::body::H2Body;
pub(crate) use self::error::SendError;
pub(crate) use self::pipe::pipe;
pub(crate) use self::pool::Stream;
use self::pool::{Pool, Target};
pub(crate) use self::socket::{ReadBody, feed};
pub(crate) use self::stream::{Moved, TunnelStream, splice};
use crate::serve::live::Live;
use crate::snapshot::{Endpoint, Service};
use crate::worker::Shared;

/// Bytes that one stream, and one connection, may send ahead of their reader. Four times as much for a stream and twice for a
/// connection was measured at four fifths of the throughput; perhaps what waits for its reader leaves the processor's cache.
pub(crate) const WINDOW_STREAM: u32 = 256 * 1024;
pub(crate) const WINDOW_CONNECTION: u32 = 1024 * 1024;
/// Bytes of one stream that wait for the peer; a gulp more, since one is taken while there is any room.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;
/// Largest DATA frame that we take.
pub(crate) const MAX_FRAME: u32 = 64 * 1024;

/// The connections of one worker to other proxies.
#[derive(Debug)]
pub(crate) struct Tunnels {
    context: Arc<Context>,
    /// By address; there is one identity at each but for the moment in which it changes.
    pools: Mutex<HashMap<SocketAddr, Vec<Arc<Pool>>, RandomState>>,
}

/// What all pools of a worker share.
#[derive(Debug)]
struct Context {
    shared: Arc<Shared>,
    clock: Arc<CoarseClock>,
    live: Arc<Live>,
    identity: watch::Receiver<u64>,
}

impl Context {
    /// Grows with every exchange of our own certificate.
    fn revision(&self) -> u64 {
        *self.identity.borrow()
    }
}

impl Tunnels {
    pub(crate) fn new(shared: &Arc<Shared>, clock: Arc<CoarseClock>, live: Arc<Live>) -> Self {
        let context = Context {
            shared: Arc::clone(shared),
            clock,
            live,
            identity: shared.identity.subscribe(),
        };
        Self {
            context: Arc::new(context),
            pools: Mutex::default(),
        }
    }

    /// The right to open one stream to `endpoint`, which must be `service`; `None` while there is no connection with room.
    pub(crate) fn try_stream(&self, service: &Service, endpoint: &Endpoint) -> Option<Stream> {
        self.pool(service, endpoint).try_stream()
    }

    /// The same as soon as it can be had.
    ///
    /// # Errors
    /// When nobody answers there who is `service`, or too many wait.
    pub(crate) async fn stream(
        &self,
        service: &Service,
        endpoint: &Endpoint,
    ) -> Result<Stream, SendError> {
        self.pool(service, endpoint).stream().await
    }

    /// HTTP/2 without TLS to the application beside us.
    pub(crate) fn to_app(
        shared: &Arc<Shared>,
        clock: &Arc<CoarseClock>,
        address: SocketAddr,
    ) -> AppTunnel {
        let context = Arc::new(Context {
            shared: Arc::clone(shared),
            clock: Arc::clone(clock),
            live: Arc::default(),
            identity: shared.identity.subscribe(),
        });
        let limit = shared.config.limits.connect_timeout;
        AppTunnel(Arc::new(Pool::new(&context, Target::App, address, limit)))
    }

    fn pool(&self, service: &Service, endpoint: &Endpoint) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        let there = pools.entry(endpoint.address).or_default();
        if let Some(pool) = there.iter().find(|pool| pool.is_of(&service.identity)) {
            return Arc::clone(pool);
        }
        let target = Target::Peer {
            service: Arc::clone(&service.name),
            identity: service.identity.clone(),
        };
        let limit = service.traffic.connect_timeout;
        let pool = Pool::new(&self.context, target, endpoint.address, limit);
        let pool = Arc::new(pool);
        there.push(Arc::clone(&pool));
        pool
    }

    /// Closes connections that were idle for too long, and forgets pools without any.
    pub(crate) fn sweep(&self) {
        self.pools.lock().retain(|_, there| {
            there.retain(|pool| pool.sweep());
            !there.is_empty()
        });
    }

    /// Open connections of this worker.
    pub(crate) fn open(&self) -> usize {
        let pools = self.pools.lock();
        pools.values().flatten().map(|pool| pool.open()).sum()
    }
}

/// HTTP/2 connections to one port of the application.
#[derive(Debug)]
pub(crate) struct AppTunnel(Arc<Pool>);

impl AppTunnel {
    /// Sends `request` to the application, as [`Stream::send`].
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn send<B>(&self, request: Request<B>) -> Result<Response<H2Body>, SendError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let stream = self.0.stream().await?;
        stream.send(request).await
    }

    pub(crate) fn sweep(&self) {
        self.0.sweep();
    }
}

/// The answer to a WebSocket handshake.
#[derive(Debug)]
pub(crate) enum Switched {
    Stream(TunnelStream),
    /// The peer declined; this is its body.
    Declined(H2Body),
}
