//! The way to the application: connections over loopback, per worker and port.
//!
//! Owns: idle HTTP/1.1 connections, their bound and age, and the HTTP/2 ones for gRPC. Must not: retry.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use foldhash::fast::RandomState;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use ringwall_data_path::permit::Permit;
use ringwall_data_path::watch::{CoarseClock, millis};
use tokio::net::TcpStream;

use crate::body::ProxyBody;
use crate::tunnel::{AppTunnel, Tunnels};
use crate::worker::Shared;

/// An idle connection is let go before any common server would close it (Node's 5 s are the shortest), since a request
/// that meets a closing connection may be lost.
const IDLE: Duration = Duration::from_secs(4);
/// How long a connection that was given back may take to finish its last response.
const SETTLE: Duration = Duration::from_millis(5);

/// The pools of one worker, by where they lead.
#[derive(Debug)]
pub(crate) struct Apps {
    shared: Arc<Shared>,
    clock: Arc<CoarseClock>,
    pools: Mutex<HashMap<SocketAddr, Arc<AppPool>, RandomState>>,
}

/// The connections of one worker to one port of the application.
#[derive(Debug)]
pub(crate) struct AppPool {
    address: SocketAddr,
    shared: Arc<Shared>,
    clock: Arc<CoarseClock>,
    idle: Mutex<Vec<Idle>>,
    open: Arc<AtomicUsize>,
    http2: AppTunnel,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<ProxyBody>,
    since: u64,
}

/// One connection in use by one request.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) sender: SendRequest<ProxyBody>,
    pool: Arc<AppPool>,
    /// It served another request before, so that the application may have closed it meanwhile.
    pub(crate) reused: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoLease {
    Busy,
    Dial(Arc<str>),
}

impl Apps {
    pub(crate) fn new(shared: &Arc<Shared>, clock: &Arc<CoarseClock>) -> Self {
        Self {
            shared: Arc::clone(shared),
            clock: Arc::clone(clock),
            pools: Mutex::default(),
        }
    }

    /// The pool of the port at `address`.
    pub(crate) fn pool(&self, address: SocketAddr) -> Arc<AppPool> {
        let mut pools = self.pools.lock();
        let pool = pools.entry(address).or_insert_with(|| {
            Arc::new(AppPool {
                address,
                shared: Arc::clone(&self.shared),
                clock: Arc::clone(&self.clock),
                idle: Mutex::default(),
                open: Arc::default(),
                http2: Tunnels::to_app(&self.shared, &self.clock, address),
            })
        });
        Arc::clone(pool)
    }

    pub(crate) fn sweep(&self) {
        for pool in self.pools.lock().values() {
            pool.sweep();
        }
    }
}

impl AppPool {
    /// HTTP/2 with prior knowledge.
    pub(crate) const fn http2(&self) -> &AppTunnel {
        &self.http2
    }

    /// The connection that was used last and is still open, or a new one.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, NoLease> {
        while let Some(mut sender) = self.take_idle() {
            let ready = sender.is_ready()
                || matches!(
                    tokio::time::timeout(SETTLE, sender.ready()).await,
                    Ok(Ok(()))
                );
            if ready {
                return Ok(Lease {
                    sender,
                    pool: Arc::clone(self),
                    reused: true,
                });
            }
        }
        self.dial().await
    }

    /// A new connection, whatever is idle.
    pub(crate) async fn dial(self: &Arc<Self>) -> Result<Lease, NoLease> {
        let limits = &self.shared.config.limits;
        // Every request has at most one; upgrades keep theirs, and are bounded by the peers' connections.
        let open = Permit::take(&self.open, limits.max_connections).ok_or(NoLease::Busy)?;
        let dialled = tokio::time::timeout(limits.connect_timeout, self.connect(open)).await;
        let sender = dialled
            .map_err(|_| NoLease::Dial("no connection in time".into()))?
            .map_err(|error| NoLease::Dial(error.to_string().into()))?;
        Ok(Lease {
            sender,
            pool: Arc::clone(self),
            reused: false,
        })
    }

    async fn connect(&self, open: Permit) -> std::io::Result<SendRequest<ProxyBody>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.shared.config.limits.max_head)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            // An error reaches the request that waits; an idle connection that ends is simply gone.
            let _ended = connection.with_upgrades().await;
            drop(open);
        });
        Ok(sender)
    }

    fn take_idle(&self) -> Option<SendRequest<ProxyBody>> {
        let mut idle = self.idle.lock();
        while let Some(candidate) = idle.pop() {
            if !candidate.sender.is_closed() {
                return Some(candidate.sender);
            }
        }
        None
    }

    fn sweep(&self) {
        let oldest = self.clock.now().saturating_sub(millis(IDLE));
        self.idle
            .lock()
            .retain(|idle| idle.since >= oldest && !idle.sender.is_closed());
        self.http2.sweep();
    }
}

impl Lease {
    /// Returns the connection to its pool; to be called once the response's last byte was read.
    pub(crate) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock();
        if idle.len() < self.pool.shared.config.limits.max_idle {
            idle.push(Idle {
                sender: self.sender,
                since: self.pool.clock.now(),
            });
        }
    }
}
