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
use ringwall_identity::SpiffeId;
use tokio::sync::watch;

pub(crate) use self::body::H2Body;
pub(crate) use self::error::SendError;
pub(crate) use self::pipe::pipe;
use self::pool::{Pool, Target};
pub(crate) use self::socket::{ReadBody, feed};
pub(crate) use self::stream::{Moved, TunnelStream, splice};
use crate::serve::live::Live;
use crate::snapshot::{Endpoint, Service};
use crate::worker::Shared;

/// Bytes that one stream, and one connection, may send ahead of their reader.
pub(crate) const WINDOW_STREAM: u32 = 256 * 1024;
pub(crate) const WINDOW_CONNECTION: u32 = 1024 * 1024;
/// Bytes of one stream that wait for the peer.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;
/// Largest DATA frame that we take.
pub(crate) const MAX_FRAME: u32 = 64 * 1024;

/// The connections of one worker to other proxies.
#[derive(Debug)]
pub(crate) struct Tunnels {
    context: Arc<Context>,
    pools: Mutex<HashMap<Key, Arc<Pool>, RandomState>>,
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

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    identity: SpiffeId,
    address: SocketAddr,
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

    /// Sends `request` to `endpoint`, which must be `service`, and returns the head of the response; its body
    /// streams. The request's URI needs scheme, authority and path. Dropping the future resets the stream.
    ///
    /// # Errors
    /// [`SendError::is_unseen`] says whether the peer may have seen the request.
    pub(crate) async fn send<B>(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        request: Request<B>,
    ) -> Result<Response<H2Body>, SendError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let stream = self.pool(service, endpoint).stream().await?;
        exchange::send(stream, request).await
    }

    /// Opens opaque bytes to `authority`, `host:port` of one of the service's ports (HBONE).
    ///
    /// # Errors
    /// As [`Self::send`]; [`SendError::Refused`] when the peer answers with anything but 2xx.
    pub(crate) async fn connect(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        authority: &str,
    ) -> Result<TunnelStream, SendError> {
        let stream = self.pool(service, endpoint).stream().await?;
        exchange::connect(stream, authority).await
    }

    /// Opens a WebSocket (RFC 8441): `request` is the handshake as a CONNECT with `:protocol`; what comes back is
    /// the peer's answer, with a stream if it is 2xx.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) async fn websocket(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        request: Request<()>,
    ) -> Result<Response<Switched>, SendError> {
        let stream = self.pool(service, endpoint).stream().await?;
        exchange::websocket(stream, request).await
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

    /// Whether there is a connection to `endpoint` already, so that a request need not wait for a handshake.
    pub(crate) fn is_connected(&self, service: &Service, endpoint: &Endpoint) -> bool {
        let key = Key::of(service, endpoint);
        let known = self.pools.lock().get(&key).map(Arc::clone);
        known.is_some_and(|pool| pool.is_connected())
    }

    /// Waits until there is a connection to `endpoint` with room for a stream.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) async fn ready(
        &self,
        service: &Service,
        endpoint: &Endpoint,
    ) -> Result<(), SendError> {
        // The place is given back at once: whoever waited goes on to take it.
        let _place = self.pool(service, endpoint).stream().await?;
        Ok(())
    }

    fn pool(&self, service: &Service, endpoint: &Endpoint) -> Arc<Pool> {
        let key = Key::of(service, endpoint);
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&key) {
            return Arc::clone(pool);
        }
        let target = Target::Peer {
            service: Arc::clone(&service.name),
            identity: service.identity.clone(),
        };
        let limit = service.traffic.connect_timeout;
        let pool = Pool::new(&self.context, target, endpoint.address, limit);
        let pool = Arc::new(pool);
        pools.insert(key, Arc::clone(&pool));
        pool
    }

    /// Closes connections that were idle for too long, and forgets pools without any.
    pub(crate) fn sweep(&self) {
        self.pools.lock().retain(|_, pool| pool.sweep());
    }

    /// Open connections of this worker.
    pub(crate) fn open(&self) -> usize {
        self.pools.lock().values().map(|pool| pool.open()).sum()
    }
}

/// HTTP/2 connections to one port of the application.
#[derive(Debug)]
pub(crate) struct AppTunnel(Arc<Pool>);

impl AppTunnel {
    /// As [`Tunnels::send`], to the application.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn send<B>(&self, request: Request<B>) -> Result<Response<H2Body>, SendError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let stream = self.0.stream().await?;
        exchange::send(stream, request).await
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

impl Key {
    fn of(service: &Service, endpoint: &Endpoint) -> Self {
        Self {
            identity: service.identity.clone(),
            address: endpoint.address,
        }
    }
}
