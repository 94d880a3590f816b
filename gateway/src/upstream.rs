//! Connections to upstreams: one pool per worker and cluster, nothing shared between cores.
//!
//! Owns: idle connections, their bound and age, and [`Lease`], which returns a connection when its response has
//! ended. Connections whose certificate ends soon get no further request; those whose peer is believed no more fail
//! with whatever is on them (R34). Must not: know routes or retry. Next: `upstream/dial.rs` (TCP, mTLS, HTTP/1.1
//! handshake), `upstream/http2.rs` (plugins' calls by gRPC) and `pipeline/forward.rs` (who uses this).

mod dial;
mod http2;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use ringwall_data_path::watch::{CoarseClock, millis};
use ringwall_tls::{IdentitySource, LiveServers};

use self::dial::Dialled;
pub(crate) use self::dial::{DialError, Dialer};
use self::http2::Calls;
use crate::pipeline::body::UpstreamBody;
use crate::snapshot::Cluster;

/// The pools of one worker, by where they lead.
#[derive(Debug)]
pub(crate) struct Pools {
    identity: Arc<IdentitySource>,
    live: Arc<LiveServers>,
    clock: Arc<CoarseClock>,
    pools: Mutex<HashMap<Box<str>, Arc<Pool>, RandomState>>,
}

/// The connections of one worker to one cluster.
#[derive(Debug)]
pub(crate) struct Pool {
    dialer: Dialer,
    clock: Arc<CoarseClock>,
    max_idle: usize,
    max_connections: usize,
    idle_timeout: Duration,
    idle: Mutex<Vec<Idle>>,
    open: Arc<AtomicUsize>,
    calls: Calls,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<UpstreamBody>,
    since: u64,
    until: u64,
}

/// One upstream connection in use by one request.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) sender: SendRequest<UpstreamBody>,
    pool: Arc<Pool>,
    /// It served another request before, so that the upstream may have closed it meanwhile.
    pub(crate) reused: bool,
    /// When it is given no further request, on the worker's clock.
    until: u64,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoLease {
    Busy,
    Dial(DialError),
}

impl Pools {
    pub(crate) fn new(identity: Arc<IdentitySource>, clock: Arc<CoarseClock>) -> Self {
        Self {
            live: LiveServers::new(&identity),
            identity,
            clock,
            pools: Mutex::default(),
        }
    }

    /// The pool of `cluster`; made at its first use, kept over reloads that leave target and limits alone.
    pub(crate) fn of(&self, cluster: &Cluster) -> Result<Arc<Pool>, DialError> {
        let mut pools = self.pools.lock();
        let known = pools.get(&cluster.pool_key);
        if let Some(pool) = known.filter(|pool| pool.fits(cluster)) {
            return Ok(Arc::clone(pool));
        }
        let dialer = || {
            let timeout = cluster.pool.connect_timeout;
            Dialer::new(&self.identity, &self.live, &cluster.target, timeout)
        };
        let pool = Arc::new(Pool {
            calls: Calls::new(dialer()?, &self.clock, cluster.pool.max_connections),
            dialer: dialer()?,
            clock: Arc::clone(&self.clock),
            max_idle: cluster.pool.max_idle,
            max_connections: cluster.pool.max_connections,
            idle_timeout: cluster.pool.idle_timeout,
            idle: Mutex::default(),
            open: Arc::default(),
        });
        pools.insert(cluster.pool_key.clone(), Arc::clone(&pool));
        Ok(pool)
    }

    /// Closes connections that were idle for too long; called with the worker's sweep. Returns how many ended since the
    /// last time because their peer is believed no more.
    pub(crate) fn sweep(&self) -> u64 {
        for pool in self.pools.lock().values() {
            pool.sweep();
        }
        self.live.take_severed()
    }
}

impl Pool {
    fn fits(&self, cluster: &Cluster) -> bool {
        let limits = &cluster.pool;
        self.max_idle == limits.max_idle
            && self.max_connections == limits.max_connections
            && self.idle_timeout == limits.idle_timeout
    }

    /// Calls of plugins by gRPC.
    pub(crate) const fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The connection that was used last and is still open, or a new one.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, NoLease> {
        while let Some(Idle {
            mut sender, until, ..
        }) = self.take_idle()
        {
            // A connection that has just been given back may still be finishing its last response.
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Ok(Lease {
                    sender,
                    pool: Arc::clone(self),
                    reused: true,
                    until,
                });
            }
        }
        self.dial().await
    }

    /// A new connection, whatever is idle.
    pub(crate) async fn dial(self: &Arc<Self>) -> Result<Lease, NoLease> {
        if self.open.load(Ordering::Relaxed) >= self.max_connections {
            return Err(NoLease::Busy);
        }
        let dialled = self.dialer.dial(Arc::clone(&self.open)).await;
        let Dialled { sender, usable_for } = dialled.map_err(NoLease::Dial)?;
        let until = usable_for.map_or(u64::MAX, |left| {
            self.clock.now().saturating_add(millis(left))
        });
        Ok(Lease {
            sender,
            pool: Arc::clone(self),
            reused: false,
            until,
        })
    }

    fn take_idle(&self) -> Option<Idle> {
        let now = self.clock.now();
        let mut idle = self.idle.lock();
        while let Some(candidate) = idle.pop() {
            if now < candidate.until && !candidate.sender.is_closed() {
                return Some(candidate);
            }
        }
        None
    }

    fn sweep(&self) {
        let now = self.clock.now();
        let oldest = now.saturating_sub(millis(self.idle_timeout));
        self.calls.sweep(oldest);
        self.idle
            .lock()
            .retain(|idle| idle.since >= oldest && now < idle.until && !idle.sender.is_closed());
    }
}

impl Lease {
    /// Returns the connection to its pool; to be called once the response's last byte was read.
    pub(crate) fn give_back(self) {
        let now = self.pool.clock.now();
        if self.sender.is_closed() || now >= self.until {
            return;
        }
        let mut idle = self.pool.idle.lock();
        if idle.len() < self.pool.max_idle {
            idle.push(Idle {
                sender: self.sender,
                since: now,
                until: self.until,
            });
        }
    }
}
