//! TCP streams through a chain of plugins.
//!
//! Owns: the order of filters (from downstream forwards, from upstream backwards) and the waiting for a paused one. The
//! embedder hands in what it has read and writes what it is given, or leaves that to [`TcpStream::relay`].
//! Must not: dial. Read next: `tcp/relay.rs`.

mod relay;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;

use bytes::{Bytes, BytesMut};

use crate::abi::Peer;
use crate::chain::Chain;
use crate::http::shared::StreamShared;
use crate::instance::{ContextKind, Failure, Instance, Outcome, Released, Way};
use crate::plugin::Version;
use crate::properties::StreamInfo;
use crate::spec::{BodyAccess, OnFailure};
use crate::worker::WorkerInner;

pub use self::relay::{RelayError, Relayed};

/// Which socket bytes were read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
}

impl Side {
    const fn way(self) -> Way {
        match self {
            Self::Downstream => Way::Request,
            Self::Upstream => Way::Response,
        }
    }
}

/// Why a connection is to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// A plugin has closed it.
    Closed,
    /// A plugin holds more than it may.
    TooLarge,
    /// A plugin has failed, and fails closed.
    Failed(Failure),
}

/// A connection in the plugins of its chain. It ends in them when it is dropped. One task at a time deals with each side.
pub struct TcpStream {
    shared: Arc<StreamShared>,
    filters: Box<[Filter]>,
}

struct Filter {
    version: Arc<Version>,
    target: Result<Arc<Instance>, Failure>,
    context: AtomicU32,
    is_bypassed: AtomicBool,
    /// Who has closed which side is told once.
    is_closed: [AtomicBool; 2],
}

impl TcpStream {
    pub(crate) fn open(worker: &Arc<WorkerInner>, chain: &Chain, info: StreamInfo) -> Self {
        let filters = chain.plugins.iter().map(|plugin| {
            let version = plugin.pick();
            Filter {
                target: worker.instance(&version),
                version,
                context: AtomicU32::new(0),
                is_bypassed: AtomicBool::new(false),
                is_closed: Default::default(),
            }
        });
        Self {
            filters: filters.collect(),
            shared: Arc::new(StreamShared::new(info, 0)),
        }
    }

    /// `proxy_on_new_connection`: returns when all plugins let it be established.
    pub async fn connected(&self) -> Result<(), Ended> {
        for filter in &self.filters {
            let Some((instance, _)) = filter.ready(&self.shared)? else {
                continue;
            };
            let id = filter.context.load(Ordering::Relaxed);
            let outcome = instance.on_new_connection(id);
            self.wait(filter, Way::Request, outcome).await?;
        }
        Ok(())
    }

    /// Whether any plugin would be given the bytes. If not, they need not come by here.
    pub fn looks_at_data(&self) -> bool {
        self.filters.iter().any(|filter| {
            let may_look = filter.version.spec.capabilities.stream_data != BodyAccess::None;
            may_look
                && filter
                    .target
                    .as_ref()
                    .is_ok_and(|instance| instance.sees_stream)
        })
    }

    /// Passes what was read from one side; gives what is to be written to the other. A plugin that pauses is given more
    /// with the next call, and this one gives nothing: [`Self::resumed`] waits for it. `end`: nothing more comes from
    /// this side.
    pub async fn data(&self, from: Side, data: Bytes, end: bool) -> Result<Bytes, Ended> {
        let way = from.way();
        let mut data = data;
        let count = self.filters.len();
        for place in 0..count {
            let place = match from {
                Side::Downstream => place,
                Side::Upstream => count - 1 - place,
            };
            let Some(filter) = self.filters.get(place) else {
                continue;
            };
            let Some((instance, id)) = filter.looking(&self.shared)? else {
                continue;
            };
            let outcome = instance.on_data(id, way, data, end);
            // The end of the stream is not passed before what is held.
            data = match outcome {
                Outcome::Paused { .. } if end => self.wait(filter, way, outcome).await?,
                Outcome::Paused { .. } => return Ok(Bytes::new()),
                outcome => self.wait(filter, way, outcome).await?,
            };
        }
        Ok(data)
    }

    /// Waits until a paused plugin lets go what it holds of one side, passes that through the filters behind it, and
    /// gives what is to be written. To be awaited beside the sockets.
    pub async fn resumed(&self, from: Side) -> Result<Bytes, Ended> {
        let way = from.way();
        let (place, released) = poll_fn(|context| {
            self.shared.wait(way, context.waker());
            for (place, filter) in self.filters.iter().enumerate() {
                let id = filter.context.load(Ordering::Relaxed);
                let Ok(instance) = &filter.target else {
                    continue;
                };
                if id == 0 || filter.is_bypassed.load(Ordering::Relaxed) {
                    continue;
                }
                if let Some(outcome) = instance.events(id, way) {
                    return Poll::Ready(filter.accept(outcome).map(|data| (place, data)));
                }
            }
            Poll::Pending
        })
        .await?;
        let mut data = released.unwrap_or_default();
        let behind: Vec<&Filter> = match from {
            Side::Downstream => self.filters.iter().skip(place + 1).collect(),
            Side::Upstream => self.filters.iter().take(place).rev().collect(),
        };
        for filter in behind {
            let Some((instance, id)) = filter.looking(&self.shared)? else {
                continue;
            };
            match filter.accept(instance.on_data(id, way, data, false))? {
                Some(passed) => data = passed,
                None => return Ok(Bytes::new()),
            }
        }
        Ok(data)
    }

    /// `proxy_on_downstream_connection_close` or `proxy_on_upstream_connection_close`, once.
    pub fn closed(&self, side: Side, by: Peer) {
        for filter in &self.filters {
            let id = filter.context.load(Ordering::Relaxed);
            let [downstream, upstream] = &filter.is_closed;
            let told = match side {
                Side::Downstream => downstream,
                Side::Upstream => upstream,
            };
            if let Ok(instance) = &filter.target
                && id != 0
                && !told.swap(true, Ordering::Relaxed)
            {
                instance.on_connection_close(id, side.way(), by);
            }
        }
    }

    async fn wait(&self, filter: &Filter, way: Way, outcome: Outcome) -> Result<Bytes, Ended> {
        if let Some(data) = filter.accept(outcome)? {
            return Ok(data);
        }
        let Ok(instance) = &filter.target else {
            return Ok(Bytes::new());
        };
        let id = filter.context.load(Ordering::Relaxed);
        let limit = filter.version.spec.limits.pause;
        let mut pause = pin!(tokio::time::sleep(limit));
        let outcome = poll_fn(|context| {
            self.shared.wait(way, context.waker());
            if let Some(outcome) = instance.events(id, way) {
                return Poll::Ready(outcome);
            }
            let late = pause.as_mut().poll(context);
            late.map(|()| instance.paused_too_long(id, way))
        })
        .await;
        Ok(filter.accept(outcome)?.unwrap_or_default())
    }
}

impl Filter {
    /// The instance and the context, made now if need be. `None`: the connection goes on without it.
    fn ready(&self, shared: &Arc<StreamShared>) -> Result<Option<(&Arc<Instance>, u32)>, Ended> {
        if self.is_bypassed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let instance = match &self.target {
            Ok(instance) => instance,
            Err(failure) => return self.failed(failure.clone()).map(|()| None),
        };
        let mut id = self.context.load(Ordering::Relaxed);
        if id == 0 {
            id = match instance.open(ContextKind::Tcp, shared) {
                Ok(id) => id,
                Err(failure) => return self.failed(failure).map(|()| None),
            };
            self.context.store(id, Ordering::Relaxed);
        }
        Ok(Some((instance, id)))
    }

    /// The same, of a plugin that may see the bytes.
    fn looking(&self, shared: &Arc<StreamShared>) -> Result<Option<(&Arc<Instance>, u32)>, Ended> {
        if self.version.spec.capabilities.stream_data == BodyAccess::None {
            return Ok(None);
        }
        self.ready(shared)
    }

    /// `None`: paused.
    fn accept(&self, outcome: Outcome) -> Result<Option<Bytes>, Ended> {
        match outcome {
            Outcome::Continue(released) => Ok(Some(join(released))),
            Outcome::Paused { .. } => Ok(None),
            Outcome::Closed | Outcome::Local(_) => Err(Ended::Closed),
            Outcome::Overflow => Err(Ended::TooLarge),
            Outcome::Failed(failure, held) => {
                self.failed(failure)?;
                Ok(Some(join(held)))
            }
        }
    }

    fn failed(&self, failure: Failure) -> Result<(), Ended> {
        let metrics = &self.version.metrics;
        match self.version.spec.on_failure {
            OnFailure::Closed => {
                metrics.failed_closed.add(1);
                Err(Ended::Failed(failure))
            }
            OnFailure::Open => {
                metrics.failed_open.add(1);
                self.is_bypassed.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

fn join(released: Released) -> Bytes {
    let mut chunks = released.body;
    match (chunks.pop_front(), chunks.is_empty()) {
        (None, _) => Bytes::new(),
        (Some(only), true) => only,
        (Some(first), false) => {
            let mut whole = BytesMut::from(first);
            chunks
                .iter()
                .for_each(|chunk| whole.extend_from_slice(chunk));
            whole.freeze()
        }
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.closed(Side::Upstream, Peer::Unknown);
        self.closed(Side::Downstream, Peer::Unknown);
        for filter in &self.filters {
            let id = filter.context.load(Ordering::Relaxed);
            if let Ok(instance) = &filter.target
                && id != 0
            {
                instance.finish(id);
            }
        }
    }
}
