//! What an instance keeps of one stream (or of the plugin itself): what a callback may look at, and what it has asked for.
//!
//! Owns: which part of a message is open for a plugin at which time. A part is open from the callback that announces it
//! until it is released; for as long it lies here, so that a callback of another context (a timer, an answered call) can
//! change it too. Must not: run the guest.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::http::fields::Head;
use crate::http::shared::StreamShared;
use crate::instance::{Buffer, Failure};

/// Towards the upstream, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Of TCP: what the downstream sends.
    Request,
    /// Of TCP: what the upstream sends.
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContextKind {
    Root,
    Http,
    Tcp,
}

/// One direction of a stream.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) head: Option<Head>,
    /// Bytes of the head's names and values at most; not counted yet where there are none.
    pub(crate) head_bytes: Option<usize>,
    pub(crate) body: Buffer,
    /// Whether the body may be looked at.
    pub(crate) body_open: bool,
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether all of the message has been seen.
    pub(crate) end: bool,
    /// Whether the plugin holds it.
    pub(crate) paused: bool,
    /// Whether `proxy_continue_stream` was called since the last callback began.
    pub(crate) resume: bool,
}

/// A response in the place of the upstream's.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) status: StatusCode,
    pub(crate) details: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) grpc_status: Option<u32>,
}

/// A context of the guest.
pub(crate) struct Context {
    pub(crate) kind: ContextKind,
    pub(crate) shared: Option<Arc<StreamShared>>,
    pub(crate) request: Side,
    pub(crate) response: Side,
    pub(crate) local: Option<Box<Local>>,
    /// Whether a response can still be put in the place of the upstream's.
    pub(crate) can_respond: bool,
    pub(crate) closed: bool,
    /// Calls under way.
    pub(crate) calls: usize,
    /// It has answered `proxy_on_done` with false.
    pub(crate) is_finishing: bool,
    /// `proxy_on_log` runs: what has passed can be read.
    pub(crate) is_logging: bool,
}

impl Context {
    pub(crate) fn new(kind: ContextKind, shared: Option<Arc<StreamShared>>) -> Self {
        Self {
            kind,
            shared,
            request: Side::default(),
            response: Side::default(),
            local: None,
            can_respond: kind == ContextKind::Http,
            closed: false,
            calls: 0,
            is_finishing: false,
            is_logging: false,
        }
    }

    pub(crate) const fn side(&mut self, way: Way) -> &mut Side {
        match way {
            Way::Request => &mut self.request,
            Way::Response => &mut self.response,
        }
    }

    /// Somebody waits for what has just been asked for.
    pub(crate) fn wake(&self) {
        if let Some(shared) = &self.shared {
            shared.wake();
        }
    }
}

impl Side {
    /// Everything that was held.
    pub(crate) fn release(&mut self) -> Released {
        self.paused = false;
        self.resume = false;
        self.body_open = false;
        Released {
            head: self.head.take(),
            body: self.body.take(),
            trailers: self.trailers.take(),
            end: self.end,
        }
    }
}

/// What goes on to the next filter.
#[derive(Debug, Default)]
pub(crate) struct Released {
    pub(crate) head: Option<Head>,
    pub(crate) body: VecDeque<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether nothing follows.
    pub(crate) end: bool,
}

/// What a callback came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Continue(Released),
    /// Held. `whole`: no body callbacks until it is released.
    Paused {
        whole: bool,
    },
    Local(Box<Local>),
    /// The plugin ends the stream without an answer.
    Closed,
    /// More body than may be held.
    Overflow,
    /// The instance is lost; what it held is given back.
    Failed(Failure, Released),
}
