//! The host's side of one guest: what host functions work on.
//!
//! Owns: contexts and calls under way, and the list of what to do after a callback. Nothing here calls out: host functions
//! leave an [`Action`], and `call.rs` carries it out when the guest has returned.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::HeaderMap;
use http::Request;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use wasmtime::{Memory, TypedFunc};

use crate::abi::{AbiVersion, Status};
use crate::http::fields::Head;
use crate::instance::deadline::Deadline;
use crate::instance::meter::Meter;
use crate::instance::{Context, ContextKind, Instance};
use crate::plugin::Version;
use crate::runtime::RuntimeInner;
use crate::worker::{Observer, WorkerInner};

/// The context of the plugin itself.
pub(crate) const ROOT: u32 = 1;

/// What runs: which configuration can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Configuring {
    No,
    Vm,
    Plugin,
}

/// What a callback has asked for, to be done when it has returned.
pub(crate) enum Action {
    HttpCall {
        id: u32,
        cluster: String,
        request: Request<Bytes>,
        trailers: HeaderMap,
        timeout: Duration,
    },
    GrpcCall {
        id: u32,
        cluster: String,
        request: Request<Bytes>,
        timeout: Duration,
    },
    GrpcStream {
        id: u32,
        cluster: String,
        request: Request<()>,
        messages: mpsc::Receiver<Bytes>,
    },
    /// The period has changed.
    Timer,
    QueueReady {
        instance: Arc<Instance>,
        queue: u32,
    },
    /// `proxy_done`.
    Finish(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Http,
    GrpcCall,
    GrpcStream,
}

/// A call under way.
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    /// Who has made it.
    pub(crate) context: u32,
    pub(crate) task: Option<AbortHandle>,
    /// Of a gRPC stream: where to send; `None` when this side has ended.
    pub(crate) messages: Option<mpsc::Sender<Bytes>>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What the running callback may read of the answer that it is about.
#[derive(Default)]
pub(crate) struct Delivery {
    /// A call has failed: its answer has no fields.
    pub(crate) has_failed: bool,
    pub(crate) call_head: Option<Head>,
    pub(crate) call_body: Option<Bytes>,
    pub(crate) call_trailers: Option<HeaderMap>,
    pub(crate) grpc_initial: Option<HeaderMap>,
    pub(crate) grpc_message: Option<Bytes>,
    pub(crate) grpc_trailing: Option<HeaderMap>,
    pub(crate) status: (u32, String),
}

/// Log lines per second.
#[derive(Debug)]
pub(crate) struct LogBucket {
    since: Instant,
    lines: u32,
}

impl LogBucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
        }
    }

    pub(crate) fn admits(&mut self, now: Instant, limit: u32) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.lines = 0;
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= limit
    }
}

pub(crate) struct Host {
    pub(crate) version: Arc<Version>,
    pub(crate) runtime: Arc<RuntimeInner>,
    pub(crate) worker: Weak<WorkerInner>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) instance: Weak<Instance>,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    /// The guest's allocator runs, within a host function: no other host function may.
    pub(crate) is_allocating: bool,
    pub(crate) meter: Meter,
    pub(crate) deadline: Deadline,
    pub(crate) hostcalls: u32,
    /// When the callback before has returned, where another one follows at once: the clock is read once for the two.
    pub(crate) returned: Option<Instant>,
    pub(crate) contexts: HashMap<u32, Box<Context>, RandomState>,
    next_context: u32,
    pub(crate) unfinished: usize,
    pub(crate) current: u32,
    pub(crate) effective: Option<u32>,
    pub(crate) configuring: Configuring,
    pub(crate) delivery: Delivery,
    pub(crate) calls: HashMap<u32, Call, RandomState>,
    next_call: u32,
    /// Queues that it has registered or resolved: no others can be used.
    pub(crate) queues: Vec<u32>,
    pub(crate) tick: Option<Duration>,
    pub(crate) timer: Option<AbortHandle>,
    pub(crate) logs: LogBucket,
    pub(crate) actions: Vec<Action>,
}

impl Host {
    pub(crate) fn new(version: &Arc<Version>, worker: &Arc<WorkerInner>) -> Self {
        Self {
            runtime: Arc::clone(&version.module.inner.runtime),
            worker: Arc::downgrade(worker),
            observer: worker.observer.clone(),
            instance: Weak::new(),
            memory: None,
            allocate: None,
            is_allocating: false,
            meter: Meter::new(&version.spec.limits, Arc::clone(&version.metrics)),
            deadline: Deadline::default(),
            hostcalls: 0,
            returned: None,
            contexts: HashMap::default(),
            next_context: ROOT,
            unfinished: 0,
            current: ROOT,
            effective: None,
            configuring: Configuring::No,
            delivery: Delivery::default(),
            calls: HashMap::default(),
            next_call: 0,
            queues: Vec::new(),
            tick: None,
            timer: None,
            logs: LogBucket::new(Instant::now()),
            actions: Vec::new(),
            version: Arc::clone(version),
        }
    }

    pub(crate) fn is_0_1_0(&self) -> bool {
        self.version.module.abi() == AbiVersion::V0_1_0
    }

    /// A new context, with an id that no living one has.
    pub(crate) fn add_context(&mut self, context: Context) -> u32 {
        loop {
            let id = self.next_context;
            self.next_context = id.checked_add(1).unwrap_or(ROOT + 1);
            if let std::collections::hash_map::Entry::Vacant(free) = self.contexts.entry(id) {
                free.insert(Box::new(context));
                return id;
            }
        }
    }

    /// Which context a host function is about: the one that the guest has chosen, while it lives.
    pub(crate) fn effective(&self) -> u32 {
        let chosen = self.effective.filter(|id| self.contexts.contains_key(id));
        chosen.unwrap_or(self.current)
    }

    pub(crate) fn context(&mut self) -> Option<&mut Context> {
        let id = self.effective();
        self.contexts.get_mut(&id).map(|context| &mut **context)
    }

    /// A stream's context, or `NOT_FOUND` in the plugin's own.
    pub(crate) fn stream(&mut self) -> Result<&mut Context, Status> {
        let context = self.context().ok_or(Status::NotFound)?;
        match context.kind {
            ContextKind::Root => Err(Status::NotFound),
            ContextKind::Http | ContextKind::Tcp => Ok(context),
        }
    }

    /// Notes a call, if this stream and this instance may have one more. `None` as task until it runs.
    pub(crate) fn add_call(
        &mut self,
        kind: CallKind,
        messages: Option<mpsc::Sender<Bytes>>,
    ) -> Result<u32, Status> {
        let limits = &self.version.spec.limits;
        let (per_stream, all) = (limits.calls_per_stream, limits.calls);
        let context = self.effective();
        let of_context = self
            .contexts
            .get_mut(&context)
            .ok_or(Status::InternalFailure)?;
        let allowed = if of_context.kind == ContextKind::Root {
            all
        } else {
            per_stream
        };
        if of_context.calls >= allowed || self.calls.len() >= all {
            return Err(self.refuse("a call beyond the limit", Status::InternalFailure));
        }
        of_context.calls += 1;
        let id = loop {
            self.next_call = self.next_call.checked_add(1).unwrap_or(1);
            if !self.calls.contains_key(&self.next_call) {
                break self.next_call;
            }
        };
        let call = Call {
            kind,
            context,
            task: None,
            messages,
        };
        self.calls.insert(id, call);
        self.version.metrics.callouts.add(1);
        Ok(id)
    }

    /// Forgets a call, which ends its task if one still runs.
    pub(crate) fn end_call(&mut self, id: u32) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        if let Some(context) = self.contexts.get_mut(&call.context) {
            context.calls = context.calls.saturating_sub(1);
        }
        Some(call)
    }

    /// Counts something that the plugin may not do.
    pub(crate) fn refuse(&self, what: &str, status: Status) -> Status {
        self.version.metrics.refused_hostcalls.add(1);
        let plugin = &*self.version.spec.name;
        tracing::debug!(plugin, what, "a plugin was refused");
        if let Some(observer) = &self.observer {
            observer.refused(plugin, what);
        }
        status
    }

    /// The guest is lost or ends: nothing that it has begun goes on.
    pub(crate) fn abandon(&mut self) {
        self.calls.clear();
        self.actions.clear();
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        for context in self.contexts.values() {
            context.wake();
        }
    }
}
