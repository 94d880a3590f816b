//! One guest: a store, an instance of a module in it, and the contexts of its streams.
//!
//! Owns: the lock around them, and what happens when a callback traps: every stream in this instance fails, the worker
//! puts another instance in its place at once, and nobody else notices. Guests run synchronously and the lock is never held
//! over an await. Must not: know chains or bodies; `http.rs` does.
//! Read next: `instance/create.rs`, `instance/call.rs`, then `instance/http.rs`.

mod buffer;
mod call;
mod context;
mod create;
mod deadline;
mod events;
pub(crate) mod guest;
mod host;
mod http;
mod meter;
mod tcp;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::Store;

pub(crate) use self::buffer::Buffer;
pub(crate) use self::call::{GuestFault, period};
pub(crate) use self::context::{Context, ContextKind, Local, Outcome, Released, Side, Way};
pub(crate) use self::events::{CallResponse, Message};
use self::guest::Guest;
pub(crate) use self::host::{Action, CallKind, Configuring, Host};
use crate::plugin::Version;
use crate::worker::WorkerInner;

/// Why an instance, or one stream in it, is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Random; in the log, and in the answer to whoever was refused.
    pub id: Arc<str>,
    pub kind: FailureKind,
    /// What was running.
    pub callback: &'static str,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, callback) = (self.kind.as_str(), self.callback);
        write!(formatter, "{kind} in {callback}, failure {}", self.id)
    }
}

/// The kinds, as metrics count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    Trap,
    StackOverflow,
    /// Out of processor time.
    Timeout,
    HostcallFlood,
    /// `proc_exit`.
    Exit,
    /// There is no configured instance.
    Unavailable,
    /// Only the stream is lost.
    PausedTooLong,
}

impl FailureKind {
    /// As in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::StackOverflow => "stack-overflow",
            Self::Timeout => "timeout",
            Self::HostcallFlood => "hostcall-flood",
            Self::Exit => "exit",
            Self::Unavailable => "unavailable",
            Self::PausedTooLong => "paused-too-long",
        }
    }
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, callback: &'static str) -> Self {
        let mut bytes = [0; 8];
        // An id that could not be drawn is all zeros: the log still has the rest.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        Self {
            id: hex::encode(bytes).into(),
            kind,
            callback,
        }
    }
}

/// A guest of one version, in one worker.
pub(crate) struct Instance {
    pub(crate) version: Arc<Version>,
    worker: Weak<WorkerInner>,
    failed: OnceLock<Failure>,
    /// Whether it exports callbacks for the body or the trailers of requests, and of responses.
    sees_body: [bool; 2],
    /// Whether it exports callbacks for the bytes of a connection.
    pub(crate) sees_stream: bool,
    /// Whether it exports `proxy_on_log`, which may read what has passed.
    pub(crate) looks_back: bool,
    /// The processor time that it took to be made.
    pub(crate) start_time: OnceLock<Duration>,
    inner: Mutex<Inner>,
}

/// What the lock protects.
pub(crate) struct Inner {
    pub(crate) store: Store<Host>,
    pub(crate) guest: Guest,
}

impl Inner {
    pub(crate) fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }
}

impl Instance {
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failed.get()
    }

    /// Notes that the guest is lost, wakes its streams, and asks for another instance.
    fn fail(&self, inner: &mut Inner, callback: &'static str, error: &wasmtime::Error) -> Failure {
        let host = inner.store.data_mut();
        let kind = call::classify(error, host);
        let failure = Failure::new(kind, callback);
        let failure = self.failed.get_or_init(|| failure).clone();
        self.version.metrics.failure(kind);
        tracing::error!(
            plugin = %self.version.spec.name,
            failure = %failure.id,
            kind = kind.as_str(),
            callback,
            error = format!("{error:#}"),
            "a plugin's instance is lost"
        );
        let cost = host.deadline.lost;
        host.abandon();
        if let Some(worker) = self.worker.upgrade() {
            worker.replace_lost(self, cost);
        }
        failure
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let metrics = &self.version.metrics;
        let has_failed = self.failed.get().is_some();
        let inner = self.inner.get_mut();
        if !has_failed {
            inner.shut_down();
        }
        let host = inner.store.data_mut();
        host.abandon();
        metrics.instances.fetch_sub(1, Ordering::Relaxed);
        host.meter.release();
    }
}
