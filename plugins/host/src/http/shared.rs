//! What all filters of one stream share.
//!
//! Owns: the embedder's facts, properties that filters set for each other, the heads that have passed (for properties and
//! `proxy_on_log`), and the wakers of whoever waits for a plugin. Must not: know an instance.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, header, request, response};
use parking_lot::Mutex;

use crate::http::local::Ended;
use crate::instance::Way;
use crate::properties::StreamInfo;

pub(crate) struct StreamShared {
    pub(crate) info: StreamInfo,
    pub(crate) properties: SetProperties,
    pub(crate) seen: Seen,
    /// Why the stream is over, where that was found out while a body was read.
    pub(crate) ended: Mutex<Option<Ended>>,
    has_ended: AtomicBool,
    pub(crate) is_grpc: AtomicBool,
    request: AtomicWaker,
    response: AtomicWaker,
    interrupt: AtomicWaker,
    /// Grows with each wish that a plugin utters outside the stream's own callbacks.
    wishes: AtomicU32,
    rewritten: AtomicBool,
    /// By place in the chain: it has failed, and the stream goes on or ends without it.
    bypassed: Box<[AtomicBool]>,
}

impl StreamShared {
    pub(crate) fn new(info: StreamInfo, filters: usize) -> Self {
        Self {
            info,
            bypassed: (0..filters).map(|_| AtomicBool::new(false)).collect(),
            properties: SetProperties::default(),
            seen: Seen::default(),
            ended: Mutex::default(),
            has_ended: AtomicBool::new(false),
            is_grpc: AtomicBool::new(false),
            request: AtomicWaker::new(),
            response: AtomicWaker::new(),
            interrupt: AtomicWaker::new(),
            wishes: AtomicU32::new(0),
            rewritten: AtomicBool::new(false),
        }
    }

    pub(crate) fn wake(&self) {
        self.wishes.fetch_add(1, Ordering::AcqRel);
        self.request.wake();
        self.response.wake();
        self.interrupt.wake();
    }

    pub(crate) fn wishes(&self) -> u32 {
        self.wishes.load(Ordering::Acquire)
    }

    pub(crate) fn wait(&self, way: Way, waker: &Waker) {
        match way {
            Way::Request => self.request.register(waker),
            Way::Response => self.response.register(waker),
        }
    }

    pub(crate) fn wait_for_interrupt(&self, waker: &Waker) {
        self.interrupt.register(waker);
    }

    /// Notes the end, unless there is an earlier one.
    pub(crate) fn end(&self, ended: Ended) {
        self.ended.lock().get_or_insert(ended);
        self.has_ended.store(true, Ordering::Release);
        self.interrupt.wake();
    }

    /// Whether there was an end, even if somebody deals with it already.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    pub(crate) fn bypass(&self, place: usize) {
        if let Some(flag) = self.bypassed.get(place) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_bypassed(&self, place: usize) -> bool {
        let flag = self.bypassed.get(place);
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    pub(crate) fn note_rewrite(&self) {
        self.rewritten.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_rewritten(&self) -> bool {
        self.rewritten.load(Ordering::Relaxed)
    }

    pub(crate) fn note_protocol(&self, head: &request::Parts) {
        let kind = head.headers.get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            self.is_grpc.store(true, Ordering::Relaxed);
        }
    }
}

/// Heads as they went on, after all filters.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) request: OnceLock<request::Parts>,
    pub(crate) response: OnceLock<response::Parts>,
    pub(crate) response_trailers: OnceLock<HeaderMap>,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

impl Seen {
    pub(crate) fn note_request(&self, head: &mut request::Parts) {
        // What other parts of the embedder have left there is none of a plugin's business.
        let extensions = std::mem::take(&mut head.extensions);
        let _ = self.request.set(head.clone());
        head.extensions = extensions;
    }

    pub(crate) fn note_response(&self, head: &mut response::Parts) {
        let extensions = std::mem::take(&mut head.extensions);
        let _ = self.response.set(head.clone());
        head.extensions = extensions;
    }

    pub(crate) fn note_bytes(&self, way: Way, bytes: usize) {
        let counter = match way {
            Way::Request => &self.request_bytes,
            Way::Response => &self.response_bytes,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn request_bytes(&self) -> u64 {
        self.request_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn response_bytes(&self) -> u64 {
        self.response_bytes.load(Ordering::Relaxed)
    }
}

/// Properties that plugins have set, by their raw path.
#[derive(Default)]
pub(crate) struct SetProperties {
    entries: Mutex<Vec<(Box<[u8]>, Bytes)>>,
}

impl SetProperties {
    pub(crate) fn get(&self, path: &[u8]) -> Option<Bytes> {
        let entries = self.entries.lock();
        let found = entries.iter().find(|(key, _)| **key == *path);
        found.map(|(_, value)| value.clone())
    }

    /// False: with it, all of them would have more than `limit` bytes.
    pub(crate) fn set(&self, path: &[u8], value: Bytes, limit: usize) -> bool {
        let mut entries = self.entries.lock();
        let others = entries.iter().filter(|(key, _)| **key != *path);
        let others: usize = others.map(|(key, value)| key.len() + value.len()).sum();
        if others + path.len() + value.len() > limit {
            return false;
        }
        match entries.iter_mut().find(|(key, _)| **key == *path) {
            Some((_, old)) => *old = value,
            None => entries.push((path.into(), value)),
        }
        true
    }
}
