//! Taps: heads of chosen requests and of their responses, redacted before they leave the request's path.
//!
//! Owns: the limits of a tap in count, time and queue. Must not: see a body. Next: `redact.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;

use crate::filter::{Facts, Filter};
use crate::flow::Direction;
use crate::redact::{Redaction, target};

/// Taps at one time.
const MAX_TAPS: usize = 8;
/// Heads that wait for the reader of a tap.
const MAX_WAITING: usize = 256;

/// A request as a tap sees it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub direction: Direction,
    pub caller: &'a str,
    pub callee: &'a str,
    pub port: u16,
    pub method: &'a str,
    /// With the query, which is not shown.
    pub path_and_query: &'a str,
    /// Empty where there is none.
    pub trace_id: &'a str,
    pub headers: &'a HeaderMap,
}

/// A request that was shown; its response's head belongs to it.
#[derive(Debug)]
pub struct Tapped {
    taps: Vec<Arc<Tap>>,
    redaction: Arc<Redaction>,
    exchange: u64,
}

/// All taps of this process.
pub(crate) struct Taps {
    /// Read for each request: a plain load while nobody taps.
    count: AtomicUsize,
    active: ArcSwap<Vec<Arc<Tap>>>,
    change: Mutex<()>,
    exchanges: AtomicU64,
    redaction: Arc<Redaction>,
}

/// One tap.
#[derive(Debug)]
pub(crate) struct Tap {
    filter: Filter,
    remaining: AtomicU32,
    lost: AtomicU64,
    lines: mpsc::Sender<Value>,
}

impl Taps {
    pub(crate) fn new(redaction: Redaction) -> Self {
        Self {
            count: AtomicUsize::new(0),
            active: ArcSwap::default(),
            change: Mutex::new(()),
            exchanges: AtomicU64::new(1),
            redaction: Arc::new(redaction),
        }
    }

    pub(crate) fn request(&self, seen: &Seen<'_>) -> Option<Tapped> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let path = seen.path_and_query.split('?').next().unwrap_or_default();
        let facts = Facts {
            caller: seen.caller,
            callee: seen.callee,
            method: seen.method,
            path,
        };
        let active = self.active.load();
        let matching = active
            .iter()
            .filter(|tap| tap.filter.matches_request(facts));
        let taps: Vec<Arc<Tap>> = matching.filter(|tap| tap.take_one()).cloned().collect();
        if taps.is_empty() {
            return None;
        }
        let exchange = self.exchanges.fetch_add(1, Ordering::Relaxed);
        let line = json!({
            "time": now(),
            "exchange": exchange,
            "message": "request",
            "direction": seen.direction,
            "caller": seen.caller,
            "callee": seen.callee,
            "port": seen.port,
            "method": seen.method,
            "target": target(seen.path_and_query),
            "trace_id": seen.trace_id,
            "headers": self.redaction.headers(seen.headers),
        });
        let tapped = Tapped {
            taps,
            redaction: Arc::clone(&self.redaction),
            exchange,
        };
        tapped.show(line);
        self.forget_spent();
        Some(tapped)
    }

    /// Begins a tap of at most `max` requests; `None` when there are too many taps.
    pub(crate) fn open(
        &self,
        filter: Filter,
        max: u32,
    ) -> Option<(Arc<Tap>, mpsc::Receiver<Value>)> {
        let (lines, receiver) = mpsc::channel(MAX_WAITING);
        let tap = Arc::new(Tap {
            filter,
            remaining: AtomicU32::new(max),
            lost: AtomicU64::new(0),
            lines,
        });
        let _changing = self.change.lock();
        let mut active = Vec::clone(&self.active.load());
        if active.len() >= MAX_TAPS {
            return None;
        }
        active.push(Arc::clone(&tap));
        self.replace(active);
        Some((tap, receiver))
    }

    /// Ends a tap.
    pub(crate) fn close(&self, tap: &Arc<Tap>) {
        let _changing = self.change.lock();
        let mut active = Vec::clone(&self.active.load());
        active.retain(|other| !Arc::ptr_eq(other, tap));
        self.replace(active);
    }

    /// Lets go of taps that have seen all that they may: their streams end with the last response.
    fn forget_spent(&self) {
        let spent = |tap: &Arc<Tap>| tap.remaining.load(Ordering::Relaxed) == 0;
        if !self.active.load().iter().any(spent) {
            return;
        }
        let _changing = self.change.lock();
        let mut active = Vec::clone(&self.active.load());
        active.retain(|tap| !spent(tap));
        self.replace(active);
    }

    fn replace(&self, active: Vec<Arc<Tap>>) {
        self.count.store(active.len(), Ordering::Relaxed);
        self.active.store(Arc::new(active));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Tap {
    fn take_one(&self) -> bool {
        let taken = self
            .remaining
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        taken.is_ok()
    }

    /// Whether it has seen all requests that it may.
    pub(crate) fn is_spent(&self) -> bool {
        self.remaining.load(Ordering::Relaxed) == 0
    }

    /// Heads that the reader was too slow for, since the last call.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Tapped {
    /// Shows the head of the response.
    pub fn response(self, status: StatusCode, headers: &HeaderMap) {
        self.show(json!({
            "time": now(),
            "exchange": self.exchange,
            "message": "response",
            "status": status.as_u16(),
            "headers": self.redaction.headers(headers),
        }));
    }

    fn show(&self, line: Value) {
        for tap in &self.taps {
            if tap.lines.try_send(line.clone()).is_err() {
                tap.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn now() -> String {
    // RFC 3339 can write every time of this century.
    OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_default()
}
